"""certify(): claims proved over whole boxes of beta, lam and cos(q, k), by interval arithmetic and bisection."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal

import numpy as np

from .transition import Transition

Certified = Literal["proved", "refuted", "undecided"]
Box = Mapping[str, tuple[float, float]]

PAPER_BOX = {"beta": (0.0, 1.0), "lam": (0.0, 1.0), "cos": (-1.0, 1.0)}
DOUBLED_BOX = {"beta": (0.0, 2.0), "lam": (0.0, 2.0), "cos": (-1.0, 1.0)}
_VARIABLES = tuple(PAPER_BOX)
# Bits of every endpoint: a product of the six factors below is then exact down to boxes of width 2^-20.
_PRECISION = 320


@dataclass(frozen=True)
class Certificate:
    """What `certify` found for one claim on one box; every number of it is certified, none sampled.

    verdict: "proved" on the whole box; "refuted" by `point`; "undecided" where the boxes ran out.
    boxes: how many boxes were looked at. bound: the quantity that the claim bounds is at most this on the box.
    point, value: where the quantity is largest among the points looked at, and its value there, rounded down;
    for "refuted" that value exceeds the limit. slack: what was added to the limit before proving. method: how.
    """

    claim: str
    words: str
    box: dict[str, tuple[float, float]]
    verdict: Certified
    boxes: int
    limit: float
    bound: float
    point: dict[str, float]
    value: float
    slack: float
    method: str

    def __str__(self) -> str:
        box = ", ".join(f"{name} in [{low:g}, {high:g}]" for name, (low, high) in self.box.items())
        at = ", ".join(f"{name} = {value:g}" for name, value in self.point.items())
        limit = f"{self.limit:g}" + (f" + {self.slack:g}" if self.slack else "")
        boxes = "1 box" if self.boxes == 1 else f"{self.boxes} boxes"
        return "\n".join(
            [
                f"{self.claim} {self.verdict} on {box}: {self.words} is at most {limit}.",
                f"    Certified bound {self.bound:.12g}, {boxes} looked at.",
                f"    Largest value found: {self.value:.12g} at {at}.",
                f"    Method: {self.method}.",
            ]
        )

    def transition(self) -> Transition:
        """Return the plane's transition at `point`, alpha = 1, float64: k = (1, 0), q = (cos, sqrt(1 - cos^2))."""
        c = self.point["cos"]
        q = np.array([c, np.sqrt(1 - c * c)])
        return Transition(np.array([1.0, 0.0]), q, self.point["beta"], self.point["lam"])


def certify(
    claim: str, box: Box = PAPER_BOX, *, bound: float = 1.0, slack: float = 0.0, max_boxes: int = 20_000
) -> Certificate:
    """Prove or refute a claim for unit q, k in R^d, d >= 2, and every beta, lam and cos(q, k) in a box.

        "G6"      |1 - beta a| <= 1, that is beta a in [0, 2]
        "G7"      ||A|| <= alpha sqrt(1 + lam^2), as a ratio of at most 1
        "radius"  rho(A) = alpha max(1, |1 - beta a|) <= alpha bound
        "norm"    ||A|| <= alpha bound

    with a = 1 + lam cos. Intervals have endpoints of 320 bits rounded outward (Arb, by python-flint), and a
    box that is neither proved nor refuted is halved. Claims whose two sides touch (G6 at beta = 0, G7 at
    beta = 1, cos = 0) are proved exactly, after rewriting them as products and sums of factors that are
    nonnegative one by one; where such a form is not at hand, `slack` is what the limit is allowed to be passed by.

    box: (low, high) for beta, lam, cos; the floats are taken as they are. bound: for "radius" and "norm" only.
    Raises ValueError for an unknown claim, a box that is none, bound or slack that do not fit, max_boxes < 1.
    Source: this project's claims G2, G3, G6 and G7.
    """
    from flint import ctx

    if claim not in _CLAIMS:
        raise ValueError(f"claim is {claim!r}; expected one of {', '.join(_CLAIMS)}.")
    chosen = _CLAIMS[claim]
    _check(chosen, claim, box, bound, slack, max_boxes)
    with ctx.workprec(_PRECISION):
        search = _Search(
            chosen, bound, slack, [(float(low), float(high)) for low, high in (box[n] for n in _VARIABLES)]
        )
        verdict = search.run(max_boxes)
        return Certificate(
            claim=claim,
            words=chosen.words,
            box={name: (float(box[name][0]), float(box[name][1])) for name in _VARIABLES},
            verdict=verdict,
            boxes=search.boxes,
            limit=bound,
            bound=bound + slack if verdict == "proved" else _up(search.upper()),
            point=dict(zip(_VARIABLES, search.point, strict=True)),
            value=_down(search.value.lo),
            slack=slack,
            method=chosen.method + (f"; with a slack of {slack:g}" if slack else ""),
        )


def _check(chosen: _Claim, claim: str, box: Box, bound: float, slack: float, max_boxes: int) -> None:
    if set(box) != set(_VARIABLES):
        raise ValueError(f"box has {sorted(box)}; expected beta, lam and cos.")
    for name, (low, high) in box.items():
        if not (isfinite(low) and isfinite(high) and low <= high):
            raise ValueError(f"box has {name} in [{low}, {high}]; expected finite bounds, the lower one first.")
    low, high = box["cos"]
    if low < -1 or high > 1:
        raise ValueError(f"box has cos in [{low}, {high}]; expected bounds in [-1, 1].")
    if chosen.fixed and bound != 1:
        raise ValueError(f"bound is {bound}; expected 1, the limit that {claim} states.")
    if not (isfinite(bound) and bound >= 0 and isfinite(slack) and slack >= 0):
        raise ValueError(f"bound and slack are {bound} and {slack}; expected finite numbers of at least 0.")
    if max_boxes < 1:
        raise ValueError(f"max_boxes is {max_boxes}; expected at least 1.")


class _Interval:
    """[lo, hi] with endpoints that Arb rounds outward."""

    __slots__ = ("hi", "lo")

    def __init__(self, lo: Any, hi: Any):
        self.lo, self.hi = lo.lower(), hi.upper()

    def __add__(self, other: _Interval) -> _Interval:
        return _Interval(self.lo + other.lo, self.hi + other.hi)

    def __sub__(self, other: _Interval) -> _Interval:
        return _Interval(self.lo - other.hi, self.hi - other.lo)

    def __mul__(self, other: _Interval) -> _Interval:
        products = [a * b for a, b in itertools.product((self.lo, self.hi), (other.lo, other.hi))]
        lows, highs = [p.lower() for p in products], [p.upper() for p in products]
        return _Interval(min(lows), max(highs))

    def square(self) -> _Interval:
        """x^2 over the interval: never negative, unlike x * x."""
        low, high = sorted((abs(self.lo), abs(self.hi)))
        return _Interval(low * 0 if self.lo <= 0 <= self.hi else low * low, high * high)

    def root(self) -> _Interval:
        """sqrt of the part that is not negative."""
        return _Interval(max(self.lo, self.lo * 0).sqrt(), max(self.hi, self.hi * 0).sqrt())

    def abs(self) -> _Interval:
        """|x| over the interval."""
        low, high = sorted((abs(self.lo), abs(self.hi)))
        return _Interval(low * 0 if self.lo <= 0 <= self.hi else low, high)


def _number(x: float) -> _Interval:
    from flint import arb

    return _Interval(arb(x), arb(x))


@dataclass(frozen=True)
class _Point:
    """The quantities of one box (or point) that all claims are written in; a = 1 + lam cos for unit vectors."""

    beta: _Interval
    lam: _Interval
    cos: _Interval

    @property
    def a(self) -> _Interval:
        return _number(1) + self.lam * self.cos

    @property
    def across2(self) -> _Interval:
        """||k||^2 ||x||^2 - a^2 = lam^2 (1 - cos^2)."""
        return self.lam.square() * (_number(1) - self.cos.square())

    @property
    def xx(self) -> _Interval:
        """||x||^2 = a^2 + lam^2 (1 - cos^2)."""
        return self.a.square() + self.across2

    def norm(self) -> _Interval:
        """s+ = (||beta x|| + ||2 k - beta x||) / 2."""
        aligned, side = self.beta * self.a, self.beta.square() * self.across2
        first = (self.beta.square() * self.xx).root()
        second = ((_number(2) - aligned).square() + side).root()
        return (first + second) * _number(0.5)


def _alignment_forms(p: _Point, limit: _Interval) -> list[_Interval]:
    """0 <= beta a, factor by factor; 2 - beta a = (1 - beta) a + (1 - lam) + lam (1 - cos) >= 0, summand by summand."""
    one = _number(1)
    spare = (one - p.beta) * p.a + (one - p.lam) + p.lam * (one - p.cos)
    return [p.beta * p.a, spare]


def _envelope_forms(p: _Point, limit: _Interval) -> list[_Interval]:
    """Both s+^2 and s-^2 are at most r = 1 + lam^2 where r^2 - (s+^2 + s-^2) r + s+^2 s-^2 >= 0 and their sum <= 2 r.

    The first is lam^2 ((1 - beta) ((1 + beta) lam^2 + 2 beta a) + beta^2 cos^2),
    the second beta (1 - beta) ||x||^2 + beta + lam^2 (2 - beta).
    """
    one, two, lam2 = _number(1), _number(2), p.lam.square()
    inner = (one + p.beta) * lam2 + two * p.beta * p.a
    product = lam2 * ((one - p.beta) * inner + p.beta.square() * p.cos.square())
    return [product, p.beta * (one - p.beta) * p.xx + p.beta + lam2 * (two - p.beta)]


def _norm_forms(p: _Point, limit: _Interval) -> list[_Interval]:
    """The same two conditions for r = limit^2: (r - 1) (r - 1 + w) - beta^2 across2 and 2 (r - 1) + w >= 0.

    Here w = beta (2 a - beta ||x||^2). Only for limit >= 1: below it the norm is never.
    """
    one, two = _number(1), _number(2)
    excess = (limit - one) * (limit + one)
    w = p.beta * (two * p.a - p.beta * p.xx)
    return [excess, excess * (excess + w) - p.beta.square() * p.across2, two * excess + w]


def _no_forms(p: _Point, limit: _Interval) -> list[_Interval] | None:
    return None


def _factor(p: _Point) -> _Interval:
    return (_number(1) - p.beta * p.a).abs()


def _radius(p: _Point) -> _Interval:
    factor = _factor(p)
    one = _number(1)
    return _Interval(max(factor.lo, one.lo), max(factor.hi, one.hi))


def _envelope_ratio(p: _Point) -> _Interval:
    norm, envelope = p.norm(), (_number(1) + p.lam.square()).root()
    return _Interval(norm.lo / envelope.hi, norm.hi / envelope.lo)


@dataclass(frozen=True)
class _Claim:
    words: str  # the quantity
    method: str
    quantity: Callable[[_Point], _Interval]
    forms: Callable[[_Point, _Interval], list[_Interval] | None]  # the claim holds where all are >= 0
    fixed: bool = False  # the limit is 1


_REWRITTEN = "exact; the claim rewritten as products and sums of factors that are nonnegative one by one"
_CLAIMS = {
    "G6": _Claim("|1 - beta a|", _REWRITTEN, _factor, _alignment_forms, fixed=True),
    "G7": _Claim("||A|| / (alpha sqrt(1 + lam^2))", _REWRITTEN, _envelope_ratio, _envelope_forms, fixed=True),
    "radius": _Claim("rho(A) / alpha", "exact; beta a is affine in each variable", _radius, _no_forms),
    "norm": _Claim(
        "||A|| / alpha", "the characteristic polynomial of A^T A in factored form, bisection", _Point.norm, _norm_forms
    ),
}


class _Search:
    """Bisection, the box with the largest possible value first."""

    def __init__(self, claim: _Claim, limit: float, slack: float, box: list[tuple[float, float]]):
        self.claim = claim
        self.limit = _number(limit) + _number(slack)
        self.boxes = 0
        self.open: list[tuple[float, int, list[_Interval], _Interval]] = []
        self.done: list[Any] = []  # upper bounds on the boxes that are proved
        self.stuck: list[Any] = []  # and on those too thin to halve
        self.point = [low for low, _ in box]
        self.value = self._at(self.point)
        for corner in itertools.product(*box):
            self._look(list(corner))
        self._push([_Interval(_number(low).lo, _number(high).hi) for low, high in box])

    def run(self, max_boxes: int) -> Certified:
        """Halve boxes until all are proved, one point refutes the claim, or the boxes run out."""
        while self.open and not self._refuted():
            if self.boxes >= max_boxes:
                return "undecided"
            self.boxes += 1
            _, _, sides, quantity = heapq.heappop(self.open)
            if self._proved(sides, quantity):
                self.done.append(min(quantity.hi, self.limit.hi))
                continue
            self._look([float(((s.lo + s.hi) / 2).mid()) for s in sides])
            widest = max(range(3), key=lambda i: float(sides[i].hi - sides[i].lo))
            low, high = sides[widest].lo, sides[widest].hi
            middle = (low + high) / 2
            if not low < middle < high:  # a point, or too thin to halve
                self.stuck.append(quantity.hi)
                continue
            for half in (_Interval(low, middle), _Interval(middle, high)):
                self._push([*sides[:widest], half, *sides[widest + 1 :]])
        if self._refuted():
            return "refuted"
        return "undecided" if self.stuck else "proved"

    def _refuted(self) -> bool:
        return self.value.lo > self.limit.hi

    def upper(self) -> Any:
        """Return a certified upper bound of the quantity on the whole box."""
        return max([quantity.hi for _, _, _, quantity in self.open] + self.done + self.stuck)

    def _proved(self, sides: list[_Interval], quantity: _Interval) -> bool:
        if quantity.hi <= self.limit.lo:
            return True
        forms = self.claim.forms(_Point(*sides), self.limit)
        return forms is not None and all(form.lo >= 0 for form in forms)

    def _push(self, sides: list[_Interval]) -> None:
        quantity = self.claim.quantity(_Point(*sides))
        heapq.heappush(self.open, (-float(quantity.hi), len(self.open) + 2 * self.boxes, sides, quantity))

    def _at(self, point: list[float]) -> _Interval:
        return self.claim.quantity(_Point(*map(_number, point)))

    def _look(self, point: list[float]) -> None:
        value = self._at(point)
        if value.lo > self.value.lo:
            self.point, self.value = point, value


def _up(x: Any) -> float:
    return float(np.nextafter(float(x), np.inf)) if x > float(x) else float(x)


def _down(x: Any) -> float:
    return float(np.nextafter(float(x), -np.inf)) if x < float(x) else float(x)
