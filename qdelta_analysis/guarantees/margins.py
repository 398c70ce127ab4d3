"""How far every token is from violating a claim, and what rounding may add: what `check` and `at_token` both read."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .facts import Facts
from .hypotheses import SMALLEST, inside

# Per token the margin [B, T, H], limit - value, and the tolerance, which broadcasts to it.
Margin = tuple[Tensor, Tensor]
# A norm below it, as a step of one dimension can have, has no logarithm.
_LEAST_NORM = 1e-300


def radius(facts: Facts) -> Margin:
    """G2: 1 - |1 - beta a|."""
    return inside(facts), facts.unit_slack


def norm(facts: Facts) -> Margin:
    """G3: ||A|| / alpha - 1."""
    return facts.geometry.norm - 1, _algebra(facts)


def contraction(facts: Facts) -> Margin:
    """G4: 1 - |1 - beta a|, which must be positive: a negative tolerance makes "at least 0" into "more than 0"."""
    return inside(facts), torch.tensor(-SMALLEST, dtype=torch.float64)


def least_alignment(facts: Facts) -> Tensor:
    """beta min(0, r (r - lam s)), r = ||k||, s = ||q||: what beta a is at least, and at least -beta lam^2 s^2 / 4."""
    k, q = facts.geometry.kk.sqrt(), facts.geometry.qq.sqrt()
    return facts.gates.beta * (k * (k - facts.gates.lam * q)).clamp(max=0)


def box(facts: Facts) -> Margin:
    """G6: beta a from its least value, and from 2."""
    return torch.minimum(facts.beta_a - least_alignment(facts), 2 - facts.beta_a), facts.unit_slack


def envelope(facts: Facts) -> Margin:
    """G7: alpha sqrt(1 + lam^2) - ||A||."""
    limit = (1 + facts.gates.lam.square()).sqrt()
    return facts.gates.alpha * (limit - facts.geometry.norm), facts.unit_slack


def payment(facts: Facts) -> Margin:
    """G14: log ||A|| / alpha."""
    return facts.geometry.norm.clamp(min=_LEAST_NORM).log(), _algebra(facts)


def _algebra(facts: Facts) -> Tensor:
    return torch.tensor(facts.tolerances.algebra, dtype=torch.float64)


MARGINS: dict[str, Callable[[Facts], Margin]] = {
    "G2": radius,
    "G3": norm,
    "G4": contraction,
    "G6": box,
    "G7": envelope,
    "G14": payment,
}
