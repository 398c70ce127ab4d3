"""Seeded tokens, comparisons and independent oracles."""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, normalize


class Tokens(NamedTuple):
    """The arguments of `qdelta_rule` that are differentiable, in order, and the state that enters."""

    q: Tensor
    k: Tensor
    v: Tensor
    g: Tensor
    beta: Tensor
    lam: Tensor
    state: Tensor

    def call(self, function, **options):
        """Run an operation on these tokens; returns (o, final state)."""
        return function(*self[:6], initial_state=self.state, output_final_state=True, **options)

    def to(self, dtype: torch.dtype) -> Tokens:
        return Tokens(*(x.to(dtype) for x in self))

    def requiring_grad(self) -> Tokens:
        return Tokens(*(x.detach().requires_grad_() for x in self))


def tokens(B=1, T=100, H=2, HV=None, K=8, V=6, N=None, seed=0, dtype=torch.float64) -> Tokens:
    """Draw unit q and k, normal v, decay logsigmoid(N(3, 1)), beta and lam uniform in [0, 1], a non-zero state."""
    HV = H if HV is None else HV
    make = torch.Generator().manual_seed(seed)
    normal = lambda *shape: torch.randn(*shape, dtype=torch.float64, generator=make)
    uniform = lambda *shape: torch.rand(*shape, dtype=torch.float64, generator=make)
    q, k = (normalize(normal(B, T, H, K), dim=-1) for _ in range(2))
    v, g = normal(B, T, HV, V), logsigmoid(normal(B, T, HV) + 3)
    beta, lam = uniform(B, T, HV), uniform(B, T, HV)
    return Tokens(q, k, v, g, beta, lam, normal(N or B, HV, K, V)).to(dtype)


def relative_error(value, reference) -> float:
    """||value - reference|| / ||reference|| (0 for two zeros), in float64; NaN counts as infinite."""
    value, reference = (
        np.asarray(x.detach().double() if isinstance(x, Tensor) else x, dtype=np.float64) for x in (value, reference)
    )
    assert value.shape == reference.shape
    difference, size = np.linalg.norm(value - reference), np.linalg.norm(reference)
    error = difference / size if size > 0 else difference
    return float(error) if np.isfinite(error) else float("inf")


def gradients(inputs: Tokens, function, **options):
    """Return the gradients of a fixed random linear functional of (o, final state) in every input."""
    inputs = inputs.requiring_grad()
    o, state = inputs.call(function, **options)
    make = torch.Generator().manual_seed(99)
    weigh = lambda x: (x * torch.randn(x.shape, dtype=torch.float64, generator=make).to(x)).sum()
    return torch.autograd.grad(weigh(o) + weigh(state), inputs, materialize_grads=True)


def cases(usual: int) -> int:
    """How many random cases a test that is marked `cases` draws: QDELTA_CASES times the usual, for a longer look."""
    return usual * int(os.environ.get("QDELTA_CASES", 1))
