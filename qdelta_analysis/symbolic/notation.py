"""The symbols of the proofs, and one token's transition written out in d dimensions and in the plane of k and x."""

from __future__ import annotations

import sympy as sp
from sympy.printing.latex import LatexPrinter

from . import closed_forms

# Numbers are real, and nothing else is known of them: signs and ranges are hypotheses of the claims. Only counts are
# integers, and only lengths are nonnegative by what they are.
alpha, beta, lam, a, c, L, a_max, z = sp.symbols(r"\alpha \beta \lambda a c L \alpha_{\max} z", real=True)
d = sp.Symbol("d", integer=True, positive=True)
t = sp.Symbol("t", integer=True, nonnegative=True)

# Coordinates in an orthonormal basis whose first vector is k / ||k||: k = (kappa, 0), x = (along, across).
kappa = sp.Symbol(r"\|k\|", nonnegative=True)
along = sp.Symbol(r"x_{\parallel}", real=True)
across = sp.Symbol(r"x_{\perp}", real=True)

qnorm, xnorm = sp.symbols(r"\|q\| \|x\|", nonnegative=True)

# What the claims speak of: the norm, the spectral radius and the characteristic polynomial of A; and vectors and
# matrices of any size, as letters that do not commute.
norm, radius, char = sp.symbols(r"\|A\| \rho(A) \det(z{I}-A)", real=True)
A = sp.MatrixSymbol("A", d, d)
x, y, key_row, step = sp.symbols(r"x y k^{\top} A", commutative=False)

# Hypotheses that many claims share.
PLANE, DECAY, DECAYS = sp.Ge(d, 2), sp.Ge(alpha, 0), sp.Gt(alpha, 0)
BETA_LOW, BETA_HIGH = sp.Ge(beta, 0), sp.Le(beta, 1)
SHORT_KEY, SHORT_QUERY = sp.Le(kappa, 1), sp.Le(qnorm, 1)


def vector(name: str, size: int) -> sp.Matrix:
    """Return a column of real symbols, [size, 1]."""
    return sp.Matrix(sp.symbols(f"{name}_1:{size + 1}", real=True))


def plane_transition() -> sp.Matrix:
    """Return A / alpha = I - beta x k^T in the plane of k and x, [2, 2]; elsewhere it is the identity."""
    return closed_forms.transition(sp.Matrix([kappa, 0]), sp.Matrix([along, across]), beta)


def dot(u: sp.MatrixBase, w: sp.MatrixBase) -> sp.Expr:
    """Return u.w of two columns."""
    return (u.T * w)[0, 0]


class _Printer(LatexPrinter):
    """Sums and absolute values as one writes them: 1 + 2 x - y / z and |1 - x|, not -1 + x or 2 x - 1."""

    def _as_ordered_terms(self, expr, order=None):
        terms = sorted(super()._as_ordered_terms(expr, order=order), key=_rank)
        first = next((i for i, term in enumerate(terms) if not term.could_extract_minus_sign()), 0)
        return [terms[first], *terms[:first], *terms[first + 1 :]]

    def _print_LessThan(self, expr):
        return rf"{self._print(expr.lhs)} \le {self._print(expr.rhs)}"

    def _print_GreaterThan(self, expr):
        return rf"{self._print(expr.lhs)} \ge {self._print(expr.rhs)}"

    def _print_Contains(self, e):
        return rf"{self._print(e.args[0])} \in {self._print(e.args[1])}"

    def _print_MatAdd(self, expr):
        return self._print_Add(expr).replace("+ - ", "- ")

    def _print_And(self, e):
        low, high = sorted(e.args, key=lambda bound: bound.rel_op in ("<", "<="))
        signs = ["<" if bound.rel_op in ("<", ">") else r"\le" for bound in (low, high)]
        middle = (self._print(x) for x in (low.rhs, low.lhs, high.rhs))
        low_, middle_, high_ = middle
        return f"{low_} {signs[0]} {middle_} {signs[1]} {high_}"

    def _print_Equivalent(self, e, altchar=None):
        left, right = sorted(e.args, key=lambda side: isinstance(side, sp.And))
        return rf"{self._print(left)} \iff {self._print(right)}"

    def _print_Abs(self, expr, exp=None):
        inside = expr.args[0]
        constant = inside.as_coeff_Add()[0] if inside.is_Add else sp.S.Zero
        return super()._print_Abs(sp.Abs(-inside, evaluate=False) if constant.is_negative else expr, exp)


def _rank(term: sp.Expr) -> tuple[bool, float, int]:
    """Numbers first, fractions last, and what is between by its degree, 2 x y before x^2."""
    degree = sp.Add(*(power for base, power in term.as_powers_dict().items() if base.free_symbols))
    fraction = bool(term.as_numer_denom()[1].free_symbols)
    return fraction, 0.0 if degree.free_symbols else float(degree), -len(term.free_symbols)


_OPEN, _CLOSE = r"{\left(", r"\right)}"


def tex(expr: object) -> str:
    """Return the LaTeX of an expression or matrix."""
    latex = _Printer().doprint(expr)
    for symbol in getattr(expr, "free_symbols", ()):
        if symbol.name.startswith(_OPEN):  # alone above or below a fraction's line it needs no parentheses
            inside = symbol.name.removeprefix(_OPEN).removesuffix(_CLOSE)
            latex = latex.replace(f"{{{symbol.name}}}", f"{{{inside}}}")
            if " " not in inside:  # nor does one letter anywhere
                latex = latex.replace(symbol.name, f"{{{inside}}}")
    return latex


def parenthesised(expr: object) -> str:
    """Return (expr) in LaTeX as a symbol's name; by its braces it stands behind all letters in a product."""
    return f"{_OPEN}{tex(expr)}{_CLOSE}"
