"""Whether an expression vanishes or has a sign, seen from its symbols, and points at which it clearly does not."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import sympy as sp
from sympy.core.relational import Relational
from sympy.logic.boolalg import BooleanAtom
from sympy.matrices import MatrixBase

_POINTS, _TRIES, _CLEARLY = 12, 400, 1e-20  # points drawn; tries to draw one; by how much a false step must fail
_NEAR = 1e-6  # closer to zero than this, floating point does not decide
INEQUALITIES = sp.Ge | sp.Le | sp.Gt | sp.Lt
Statement = sp.Basic | MatrixBase | bool


class ProofError(AssertionError):
    """A step that does not simplify to true, or that rests on what is not granted.

    `residual` is what is left over; `witness` is a point at which the step is false, or None where none was found.
    """

    def __init__(self, claim: str, step: str, residual: Any, witness: Mapping[Any, sp.Expr] | None = None):
        self.claim, self.step, self.residual, self.witness = claim, step, residual, witness
        at = ", ".join(f"{symbol} = {value}" for symbol, value in (witness or {}).items())
        where = "no point at which it fails was found" if witness is None else f"it is false at {at or 'every point'}"
        super().__init__(f'{claim}: the step "{step}" leaves {residual}; {where}.')


def check(statement: Statement, reason: str, *, claim: str = "claim") -> None:
    """Check that an expression or matrix vanishes, or that an equation or inequality holds, by its symbols alone.

    statement: an expression or matrix, to be zero; or a relation, to hold under the assumptions of its symbols.

    Raises ProofError, which names the claim, the step and the residual, for what does not simplify to true. A sign
    that SymPy cannot see from the form that it is given is refused, even where the inequality is true.
    """
    residual: Any
    if isinstance(statement, bool | BooleanAtom):
        residual = None if statement else sp.false
        witness = {}
    else:
        inequality = isinstance(statement, INEQUALITIES)
        gap: Any = gap_of(statement) if isinstance(statement, Relational) else statement
        strict = isinstance(statement, sp.Gt | sp.Lt)
        residual = (None if seen(gap, strict) else gap) if inequality else remainder(gap)
        witness = None if residual is None else refuting(gap, inequality, strict, ())
    if residual is not None:
        raise ProofError(claim, reason, residual, witness)


def gap_of(relation: Any) -> Any:
    """What must vanish, or be at least zero, where the relation holds."""
    left, right = (relation.lhs, relation.rhs) if relation.rel_op in ("==", "!=") else (relation.gts, relation.lts)
    return left - right


def same(left: Any, right: Any) -> bool:
    """Whether two relations say the same, term by term."""
    if left == right:
        return True
    if isinstance(left, INEQUALITIES) and isinstance(right, INEQUALITIES):
        strict = [isinstance(x, sp.Gt | sp.Lt) for x in (left, right)]
        return strict[0] == strict[1] and sp.expand(gap_of(left) - gap_of(right)) == 0
    return False


def unequal(relation: Any, base: Any) -> bool:
    """Whether a relation says that an expression is not zero."""
    if not isinstance(relation, sp.Ne | sp.Gt | sp.Lt):
        return False
    return sp.expand(gap_of(relation) - base) == 0 or sp.expand(gap_of(relation) + base) == 0


# What is checked does not depend on who asks: claims share steps, and a proof made again is the same.
_remembered = lru_cache(maxsize=4096)


@_remembered
def seen(gap: Any, strict: bool) -> bool:
    """Whether an expression is at least zero (above it where `strict`), as the assumptions of its symbols show."""
    sign = "is_positive" if strict else "is_nonnegative"
    return any(getattr(form(gap), sign) for form in (lambda e: e, sp.expand, sp.factor))


def remainder(gap: Any, thorough: bool = True) -> Any:
    """What is left of the first entry that does not simplify to zero."""
    for entry in _entries(gap):
        for part in [entry] if entry.is_commutative else _coefficients(entry):
            left = _left_over(part, thorough)
            if left != 0:
                return left
    return None


@_remembered
def _left_over(part: Any, thorough: bool) -> Any:
    """What an expression simplifies to, as far as it takes to reach zero."""
    for simplify in (_plain, sp.expand, _cancelled, *([sp.simplify] if thorough else [])):
        part = simplify(part)
        if part == 0:
            break
    return part


def _cancelled(entry: Any) -> Any:
    return sp.cancel(sp.together(_split_powers(entry)))


def _coefficients(entry: Any) -> list[Any]:
    """What stands before each word of letters that do not commute."""
    found: dict[Any, Any] = {}
    for term in sp.Add.make_args(sp.expand(entry)):
        numbers, word = term.args_cnc()
        found[tuple(word)] = found.get(tuple(word), 0) + sp.Mul(*numbers)
    return list(found.values())


def _plain(entry: Any) -> Any:
    """max(u, w) = (u + w + |u - w|) / 2, with what is common taken out of absolute values and roots."""
    if entry.has(sp.Max):
        entry = entry.rewrite(sp.Abs).replace(sp.Abs, lambda inside: sp.Abs(sp.factor(inside)))
    is_root = lambda e: e.is_Pow and e.exp == sp.S.Half and e.base.is_commutative
    return entry.replace(is_root, lambda e: sp.sqrt(sp.factor(e.base)))


def _split_powers(entry: Any) -> Any:
    """b^(n + 1) = b^n b, for a symbolic n."""
    split = lambda base, power: base ** power.as_coeff_Add()[1] * base ** power.as_coeff_Add()[0]
    powers = {p: split(p.base, p.exp) for p in entry.atoms(sp.Pow) if p.exp.is_Add}
    names = {p: sp.Dummy() for new in powers.values() for p in new.atoms(sp.Pow) if p.exp.free_symbols}
    powers = {old: sp.Mul(*(names.get(f, f) for f in sp.Mul.make_args(new))) for old, new in powers.items()}
    return entry.xreplace(powers | names)


def _entries(gap: Any) -> list[Any]:
    if isinstance(gap, sp.Tuple):
        return [entry for part in gap for entry in _entries(part)]
    if isinstance(gap, MatrixBase):
        return list(gap.flat())
    if isinstance(gap, sp.MatrixExpr):
        gap = gap.doit().expand().doit()
        return [sp.S.Zero] if gap == sp.ZeroMatrix(*gap.shape) else [sp.Symbol(str(gap))]
    return [gap]


def solve(gap: Any, strict: bool, z: sp.Symbol) -> Any:
    """Where gap >= 0 (or > 0); a maximum that is subtracted is bounded where each of its arguments is."""
    for largest in gap.atoms(sp.Max):
        if sp.diff(gap.subs(largest, sp.Symbol("M")), sp.Symbol("M")).is_negative:
            return sp.Intersection(*(solve(gap.subs(largest, part), strict, z) for part in largest.args))
    relation = gap > 0 if strict else gap >= 0
    if isinstance(relation, BooleanAtom):
        return sp.S.Reals if relation else sp.S.EmptySet
    return sp.solve_univariate_inequality(relation, z, relational=False)


def refuting(gap: Any, inequality: bool, strict: bool, bounds: Iterable[Any]) -> dict[Any, sp.Expr] | None:
    """A rational point that meets the bounds, and the symbols' assumptions, and at which the step is clearly false."""
    return _refuting_point(tuple(_entries(gap)), inequality, strict, tuple(b for b in bounds if b != sp.true))


@_remembered
def _refuting_point(entries: Any, inequality: bool, strict: bool, bounds: Any) -> dict[Any, sp.Expr] | None:
    free = sorted(set().union(*(x.free_symbols for x in (*entries, *bounds))), key=str)
    if not all(symbol.is_commutative for symbol in free):
        return None
    draw, found = random.Random(0), 0
    rooms, gaps = _floats([_margin(bound) for bound in bounds], free), _floats(entries, free)
    values = {symbol: _values(symbol, bounds) for symbol in free}
    for _ in range(_TRIES):
        point: dict[Any, sp.Expr] = {symbol: draw.choice(values[symbol]) for symbol in free}
        place = rooms(point)
        if place is None or any(room < -_NEAR for room in place):
            continue
        if not all(room > _NEAR for room in place) and any(bound.subs(point) != sp.true for bound in bounds):
            continue
        found += 1
        seen = gaps(point) if inequality else None
        clearly_true = seen is not None and all(value > _NEAR for value in seen)
        for entry in () if clearly_true else entries:
            value = sp.N(entry.subs(point), 30)
            if not value.is_extended_real:
                continue
            wrong = -value if inequality else abs(value)
            if wrong > _CLEARLY or (strict and inequality and value == 0):
                return point
        if inequality and bounds and found == _POINTS:
            break
    return None


def _margin(bound: Any) -> Any:
    """An expression that is positive inside a bound, negative outside."""
    gap = gap_of(bound)
    return gap if isinstance(bound, INEQUALITIES) else sp.Abs(gap) if bound.rel_op == "!=" else -sp.Abs(gap)


def _floats(exprs: Sequence[Any], free: Sequence[Any]) -> Callable[[Mapping[Any, Any]], list[float] | None]:
    """Values at a point in floating point, which decide most points; None where there are none."""
    function = sp.lambdify(free, list(exprs), "math")

    def values(point: Mapping[Any, Any]) -> list[float] | None:
        try:
            return [float(value) for value in function(*(float(point[symbol]) for symbol in free))]
        except (ArithmeticError, ValueError, TypeError, NameError):  # a root below zero, a name that math lacks
            return None

    return values


def _values(symbol: Any, bounds: Sequence[Any]) -> list[Any]:
    """Rational values of a symbol to try: those within the bounds that are its alone, evenly spaced."""
    low, high = (1, 8) if symbol.is_positive else (0, 8) if symbol.is_nonnegative else (-8, 8)
    ends: list[Any] = [sp.Rational(low, 4), sp.Rational(high, 4)]
    for bound in (b for b in bounds if b.lhs == symbol and b.rhs.is_Rational):
        if bound.rel_op == "==":
            return [bound.rhs]
        if bound.rel_op in ("<=", "<"):
            ends[1] = min(ends[1], bound.rhs)
        if bound.rel_op in (">=", ">"):
            ends[0] = max(ends[0], bound.rhs)
    if symbol.is_integer:
        low = int(ends[0])
        return [sp.Integer(n) for n in range(max(2, low), max(5, low + 3) + 1)]
    return [ends[0] + (ends[1] - ends[0]) * sp.Rational(n, 16) for n in range(17)]
