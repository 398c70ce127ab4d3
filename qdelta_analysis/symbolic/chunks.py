"""The chunk form and the recurrence, token by token, in symbols.

For one row of the memory and C tokens everything depends on the vectors through their inner products alone: s.k_i and
s.q_i for the entering row s, k_i.k_j, and q_i.k_j. With these as symbols an identity holds in every dimension.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import sympy as sp
from sympy.matrices import MatrixBase

from . import closed_forms


@dataclass(frozen=True)
class Tokens:
    """The symbols of C tokens as one row of the memory sees them."""

    C: int
    alpha: tuple[sp.Symbol, ...]
    beta: tuple[sp.Symbol, ...]
    lam: tuple[sp.Symbol, ...]
    v: tuple[sp.Symbol, ...]
    sk: tuple[sp.Symbol, ...]
    sq: tuple[sp.Symbol, ...]
    kk: MatrixBase  # [C, C], symmetric
    qk: MatrixBase  # [C, C], q_i.k_j

    @classmethod
    def symbols(cls, C: int) -> Tokens:
        """Draw up C tokens."""
        names = lambda name, **given: tuple(sp.Symbol(f"{name}_{{{i}}}", **given) for i in range(1, C + 1))
        inner = lambda u, w, i, j: sp.Symbol(rf"{{({u}_{i + 1}\cdot{{{w}_{j + 1}}})}}", real=True)
        return cls(
            C,
            names(r"\alpha", real=True),
            names(r"\beta", real=True),
            names(r"\lambda", real=True),
            names("v", real=True),
            names(r"s\cdot k", real=True),
            names(r"s\cdot q", real=True),
            _square(C, lambda i, j: inner("k", "k", max(i, j), min(i, j))),
            _square(C, lambda i, j: inner("q", "k", i, j)),
        )

    def xk(self, i: int, j: int) -> sp.Expr:
        """Return x_i.k_j."""
        return self.kk[i, j] + self.lam[i] * self.qk[i, j]

    def sx(self, i: int) -> sp.Expr:
        """Return s.x_i for the entering row s."""
        return self.sk[i] + self.lam[i] * self.sq[i]

    def decay(self, i: int, j: int) -> sp.Expr:
        """Return e^(G_i - G_j), i >= j; j = -1 is the start of the chunk."""
        return sp.Mul(*self.alpha[j + 1 : i + 1])

    def erase(self, released: bool = False) -> sp.Matrix:
        """Return L, with x_i.k_j, or with k_i.x_j as the released kernels have it."""
        entry = lambda i, j: self.kk[i, j] + self.lam[j] * self.qk[j, i] if released else self.xk(i, j)
        return _square(
            self.C,
            lambda i, j: closed_forms.erase_entry(self.beta[i], self.decay(i, j), entry(i, j)) if i > j else 0,
        )


def _square(size: int, entry: Callable[[int, int], sp.Expr | int]) -> sp.Matrix:
    return sp.Matrix([[entry(i, j) for j in range(size)] for i in range(size)])


def recurrence(t: Tokens) -> tuple[sp.Matrix, sp.Matrix, sp.Matrix]:
    """Return (U, O, final row), each from the recurrence; the row in terms of s, k_1, ..., k_C."""
    entering, along = sp.S.One, [sp.S.Zero] * t.C
    U, O = [], []
    for i in range(t.C):
        seen = entering * t.sx(i) + sum(along[j] * t.xk(i, j) for j in range(i))
        entering, along = t.alpha[i] * entering, [t.alpha[i] * part for part in along]
        along[i] = sp.expand(t.beta[i] * (t.v[i] - t.alpha[i] * seen))
        U.append(along[i])
        O.append(entering * t.sq[i] + sum(along[j] * t.qk[i, j] for j in range(i + 1)))
    return sp.Matrix(U), sp.Matrix(O), sp.Matrix([entering, *along])


def chunk(t: Tokens, released: bool = False) -> tuple[sp.Matrix, sp.Matrix, sp.Matrix]:
    """Return (U, O, final row) from the chunk form."""
    start = [t.decay(i, -1) for i in range(t.C)]
    writes = sp.Matrix([t.beta[i] * (t.v[i] - start[i] * t.sx(i)) for i in range(t.C)])
    U = inverse(t.erase(released)) * writes
    readout = _square(t.C, lambda i, j: t.decay(i, j) * t.qk[i, j] if i >= j else 0)
    O = sp.Matrix([start[i] * t.sq[i] for i in range(t.C)]) + readout * U
    return U, O, sp.Matrix([start[-1], *(t.decay(t.C - 1, j) * U[j] for j in range(t.C))])


def inverse(erase: MatrixBase) -> sp.Matrix:
    """Return T = (I + L)^-1 for strictly lower L, by forward substitution."""
    return sp.Matrix((sp.eye(erase.rows) + erase).lower_triangular_solve(sp.eye(erase.rows)))
