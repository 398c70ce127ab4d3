"""Tokens as dense matrices, and what the symbols of the claims are on them: nothing here knows a closed form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from .notation import A, L, a, a_max, across, along, alpha, beta, c, char, d, kappa, lam, norm, qnorm, radius, xnorm, z

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Tokens:
    """T tokens and a memory: k, q [T, d]; v [T, V]; beta, lam, alpha [T]; S [V, d]; and numbers that a claim names."""

    k: Array
    q: Array
    v: Array
    beta: Array
    lam: Array
    alpha: Array
    S: Array
    numbers: Mapping[str, Any] = field(default_factory=dict)

    @property
    def d(self) -> int:
        """Width of a key."""
        return self.k.shape[-1]

    @cached_property
    def x(self) -> Array:
        """k + lam q, [T, d]."""
        return self.k + self.lam[:, None] * self.q

    @cached_property
    def steps(self) -> Array:
        """I - beta x k^T, [T, d, d]."""
        return np.eye(self.d) - self.beta[:, None, None] * self.x[:, :, None] * self.k[:, None, :]

    @cached_property
    def A(self) -> Array:
        """The transitions alpha (I - beta x k^T), [T, d, d]."""
        return self.alpha[:, None, None] * self.steps

    @cached_property
    def states(self) -> Array:
        """The memory before the first token and after each, [T + 1, V, d]."""
        found = [self.S]
        for i in range(len(self.k)):
            found.append(found[-1] @ self.A[i] + self.beta[i] * np.outer(self.v[i], self.k[i]))
        return np.stack(found)

    @cached_property
    def before(self) -> Array:
        """v_t - alpha_t S_{t-1} x_t, [T, V]."""
        return self.v - self.alpha[:, None] * np.einsum("tvd,td->tv", self.states[:-1], self.x)

    @cached_property
    def after(self) -> Array:
        """v_t - S_t x_t, [T, V]."""
        return self.v - np.einsum("tvd,td->tv", self.states[1:], self.x)


def length(x: Array) -> Any:
    """Return the Euclidean length along the last axis: a number for one vector."""
    return np.linalg.norm(x, axis=-1)


def ratio(x: Array, y: Array) -> Array:
    """Return x / y, 0 where y is 0."""
    return np.divide(x, y, out=np.zeros_like(x), where=y != 0)


def _along(t: Tokens) -> Array:
    """x.k / ||k||, and ||x|| for k = 0, where any direction serves."""
    size = length(t.k)
    return np.where(size > 0, ratio(np.vecdot(t.x, t.k), size), length(t.x))


def _across(t: Tokens) -> Array:
    size = length(t.k)
    unit = ratio(t.k, np.broadcast_to(size[:, None], t.k.shape))
    return np.where(size > 0, length(t.x - np.vecdot(t.x, unit)[:, None] * unit), 0.0)


MEASURES: dict[sp.Basic, Any] = {
    alpha: lambda t: t.alpha,
    beta: lambda t: t.beta,
    lam: lambda t: t.lam,
    a: lambda t: np.vecdot(t.k, t.x),
    c: lambda t: ratio(np.vecdot(t.k, t.q), length(t.k) * length(t.q)),
    d: lambda t: t.d,
    kappa: lambda t: length(t.k),
    qnorm: lambda t: length(t.q),
    xnorm: lambda t: length(t.x),
    along: _along,
    across: _across,
    norm: lambda t: np.linalg.norm(t.A, 2, axis=(-2, -1)),
    radius: lambda t: np.abs(np.linalg.eigvals(t.A)).max(-1),
    char: lambda t: np.linalg.det(t.numbers["z"] * np.eye(t.d) - t.A),
    A: lambda t: t.A[0],
    z: lambda t: t.numbers["z"],
    L: lambda t: t.numbers["L"],
    a_max: lambda t: t.numbers["a_max"],
}
