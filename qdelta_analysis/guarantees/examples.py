"""What happens when a hypothesis is dropped: small inputs, float64, on which a claim's conclusion fails."""

from __future__ import annotations

from typing import Any

import torch

from ..generators import two_token_cycle
from ..inputs import QDeltaInputs


def _constant(k: list[float], q: list[float], *, beta: float, lam: float, alpha: float = 1.0, T: int = 16, v=1.0):
    """The same token T times, V = 1."""
    unit = lambda values: torch.tensor(values, dtype=torch.float64).expand(1, T, 1, len(values))
    gate = torch.ones(1, T, 1, dtype=torch.float64)
    metadata = {"source": "counterexample", "settings": f"k={k}, q={q}, beta={beta}, lam={lam}, alpha={alpha}"}
    values: dict[str, Any] = {"v": v * gate[..., None], "g": gate * torch.tensor(alpha).double().log()}
    return QDeltaInputs(unit(q), unit(k), values["v"], values["g"], beta * gate, lam * gate, metadata=metadata)


def aligned_doubled() -> QDeltaInputs:
    """Doubled gates and q = k: beta a = 6, and every write makes the error five times as large, without any drift."""
    return _constant([1.0, 0.0], [1.0, 0.0], beta=2.0, lam=2.0)


def overshooting() -> QDeltaInputs:
    """beta = 2 with q = k and lam = 1: beta a = 4, so ||A|| = 3 where the envelope is sqrt(2)."""
    return _constant([1.0, 0.0], [1.0, 0.0], beta=2.0, lam=1.0)


def line() -> QDeltaInputs:
    """One dimension: nothing is orthogonal to k, and A is the number 1 - beta a = 1/4, less than alpha."""
    return _constant([1.0], [1.0], beta=0.5, lam=0.5)


def undamped_cycle() -> QDeltaInputs:
    """The two-token cycle with lam = 1 and alpha = 0.75, just above 1 / sqrt(2): 0.75 sqrt(2) = 1.06 a token."""
    return two_token_cycle(T=256, K=2, V=2, lam=1.0, alpha=0.75)


def one_direction() -> QDeltaInputs:
    """Every token the same: the directions in which the memory moves are not uniform."""
    return _constant([1.0, 0.0], [0.0, 1.0], beta=0.5, lam=0.5, T=128)


def long_keys() -> QDeltaInputs:
    """Keys of length 2 at beta = 1: each token undoes the one before three times over."""
    return _constant([2.0, 0.0], [0.0, 1.0], beta=1.0, lam=0.0)
