"""The symbols of the proofs, and one token's transition written out in d dimensions and in the plane of k and x."""

from __future__ import annotations

import sympy as sp
from sympy.printing.latex import LatexPrinter

alpha = sp.Symbol(r"\alpha", positive=True)
beta = sp.Symbol(r"\beta", nonnegative=True)
lam = sp.Symbol(r"\lambda", nonnegative=True)
a = sp.Symbol("a", real=True)
c = sp.Symbol("c", real=True)
L = sp.Symbol("L", nonnegative=True)
a_max = sp.Symbol(r"\alpha_{\max}", positive=True)
d = sp.Symbol("d", integer=True, positive=True)
t = sp.Symbol("t", integer=True, nonnegative=True)
z = sp.Symbol("z", real=True)

# Coordinates in an orthonormal basis whose first vector is k / ||k||: k = (kappa, 0), x = (along, across).
kappa = sp.Symbol(r"\|k\|", nonnegative=True)
along = sp.Symbol(r"x_{\parallel}", real=True)
across = sp.Symbol(r"x_{\perp}", real=True)

UNIT = r"$\|q\| = \|k\| = 1$"


def vector(name: str, size: int) -> sp.Matrix:
    """Return a column of real symbols, [size, 1]."""
    return sp.Matrix(sp.symbols(f"{name}_1:{size + 1}", real=True))


def plane_transition() -> sp.Matrix:
    """Return A / alpha = I - beta x k^T in the plane of k and x, [2, 2]; elsewhere it is the identity."""
    return sp.eye(2) - beta * sp.Matrix([along, across]) * sp.Matrix([[kappa, 0]])


def dot(u: sp.MatrixBase, w: sp.MatrixBase) -> sp.Expr:
    """Return u.w of two columns."""
    return (u.T * w)[0, 0]


class _Printer(LatexPrinter):
    """Sums as one writes them: the number first, and no leading minus where there is a choice."""

    def _as_ordered_terms(self, expr, order=None):
        rank = lambda term: 3 if term.could_extract_minus_sign() else 0 if term.is_Number else 1
        return sorted(super()._as_ordered_terms(expr, order=order), key=rank)


def tex(expr: object) -> str:
    """Return the LaTeX of an expression or matrix."""
    return _Printer().doprint(expr)
