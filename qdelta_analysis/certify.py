"""certify(): claims proved over whole boxes of beta, lam and cos(q, k), by interval arithmetic and bisection."""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import inf, isfinite, nextafter
from typing import Any, Literal

import numpy as np

from .boxes import VARIABLES, Box, Interval, Side, as_double, rounded_down, rounded_up, shortest, sides_of
from .transition import Transition

Certified = Literal["proved", "refuted", "undecided"]
Stopped = Literal["", "boxes", "time", "floats"]

PAPER_BOX: Box = {"beta": (0.0, 1.0), "lam": (0.0, 1.0), "cos": (-1.0, 1.0)}
DOUBLED_BOX: Box = {"beta": (0.0, 2.0), "lam": (0.0, 2.0), "cos": (-1.0, 1.0)}
# Bits of every endpoint: a product of the six factors below is then exact down to boxes of width 2^-20.
_PRECISION = 320
_STOPPED = {
    "boxes": "the boxes ran out",
    "time": "the time ran out",
    "floats": "what is left open is too thin to halve, or no float in it lies above the limit",
}


@dataclass(frozen=True)
class Certificate:
    """What `certify` found for one claim on one box; every number of it is certified, none sampled.

    verdict: "proved" on the whole box; "refuted" by `point`, where the quantity is strictly above limit + slack;
    "undecided" where the search stopped before. boxes: how many boxes were looked at.
    bound: the quantity that the claim bounds is at most this on the box; rounded up.
    point, value: where the quantity is largest among the points looked at, and its value there; rounded down.
    excess: by how much that value passes limit + slack; rounded down, and positive just where "refuted".
    slack: what was added to the limit before proving. method: how. stopped: what ran out, "" where decided.
    box: (low, high), or "(low, high]" and the like for sides with open ends, as `certify` takes it.
    """

    claim: str
    words: str
    box: dict[str, Side]
    verdict: Certified
    boxes: int
    limit: float
    bound: float
    point: dict[str, float]
    value: float
    excess: float
    slack: float
    method: str
    stopped: Stopped

    def __str__(self) -> str:
        """Say it with every digit that matters: bounds are decimals rounded up, values found are rounded down."""
        box = ", ".join(f"{name} in {side}" for name, side in sides_of(self.box).items())
        at = ", ".join(f"{name} = {shortest(value)}" for name, value in self.point.items())
        limit = shortest(self.limit) + (f" + {shortest(self.slack)}" if self.slack else "")
        boxes = "1 box" if self.boxes == 1 else f"{self.boxes} boxes"
        above = f", above the limit by at least {rounded_down(self.excess)}" if self.excess > 0 else ""
        return "\n".join(
            [
                f"{self.claim} {self.verdict} on {box}: {self.words} is at most {limit}.",
                f"    Certified bound {rounded_up(self.bound)}, {boxes} looked at.",
                f"    Largest value found: {rounded_down(self.value)} at {at}{above}.",
                *([f"    Stopped: {_STOPPED[self.stopped]}."] if self.stopped else []),
                f"    Method: {self.method}.",
            ]
        )

    def transition(self) -> Transition:
        """Return the plane's transition at `point`, alpha = 1, float64: k = (1, 0), q = (cos, sqrt(1 - cos^2))."""
        c = self.point["cos"]
        q = np.array([c, np.sqrt((1 - c) * (1 + c))])
        return Transition(np.array([1.0, 0.0]), q, self.point["beta"], self.point["lam"])


def certify(
    claim: str,
    box: Box = PAPER_BOX,
    *,
    bound: float = 1.0,
    slack: float = 0.0,
    max_boxes: int = 20_000,
    time_limit: float = inf,
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

    Args:
        box: for beta, lam and cos each (low, high), both ends included, or a string such as "(0, 1]" or "[0, 1)",
            where a round bracket leaves its end out. Ends are the floats that they are, or that the string reads as.
            A quantity is continuous, so it is bounded by the same number with and without the ends; but the point
            that refutes a claim lies inside.
        bound: the limit, for "radius" and "norm" only.
        max_boxes, time_limit: after so many boxes, or seconds, an open question stays "undecided"; the certificate
            has the bound reached by then.

    Raises ValueError for an unknown claim, a box that is none, numbers that no float64 is, or that do not fit.
    Source: this project's claims G2, G3, G6 and G7.
    """
    from flint import ctx

    if claim not in _CLAIMS:
        raise ValueError(f"claim is {claim!r}; expected one of {', '.join(_CLAIMS)}.")
    chosen = _CLAIMS[claim]
    sides = sides_of(box)
    bound, slack = as_double("bound", bound), as_double("slack", slack)
    _check(chosen, claim, bound, slack, max_boxes, time_limit)
    with ctx.workprec(_PRECISION):
        search = _Search(chosen, bound, slack, list(sides.values()))
        verdict, stopped = search.run(max_boxes, time_limit)
        return Certificate(
            claim=claim,
            words=chosen.words,
            box={name: side.as_given() for name, side in sides.items()},
            verdict=verdict,
            boxes=search.boxes,
            limit=float(bound),
            bound=_up(search.limit.hi if verdict == "proved" else search.upper()),
            point=dict(zip(VARIABLES, search.point, strict=True)),
            value=_down(search.value.lo),
            excess=_down((search.value - search.limit).lo),
            slack=float(slack),
            method=chosen.method + (f"; with a slack of {shortest(slack)}" if slack else ""),
            stopped=stopped,
        )


def _check(chosen: _Claim, claim: str, bound: float, slack: float, max_boxes: int, time_limit: float) -> None:
    if chosen.fixed and bound != 1:
        raise ValueError(f"bound is {bound}; expected 1, the limit that {claim} states.")
    if not (isfinite(bound) and bound >= 0 and isfinite(slack) and slack >= 0):
        raise ValueError(f"bound and slack are {bound} and {slack}; expected finite numbers of at least 0.")
    if max_boxes < 1:
        raise ValueError(f"max_boxes is {max_boxes}; expected at least 1.")
    if not time_limit >= 0:
        raise ValueError(f"time_limit is {time_limit}; expected a number of seconds, at least 0.")


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

    def __init__(self, claim: _Claim, limit: float, slack: float, box: list[Interval]):
        self.claim, self.box = claim, box
        self.limit = _number(limit) + _number(slack)
        self.boxes = 0
        self.open: list[tuple[float, int, list[_Interval], _Interval]] = []
        self.done: list[Any] = []  # upper bounds on the boxes that are proved
        self.stuck: list[Any] = []  # and on those too thin to halve
        self.point = [side.first for side in box]
        self.value = self._at(self.point)
        for corner in itertools.product(*((side.first, side.last) for side in box)):
            self._look(list(corner))
        self._push([_Interval(_number(side.low).lo, _number(side.high).hi) for side in box])

    def run(self, max_boxes: int, time_limit: float) -> tuple[Certified, Stopped]:
        """Halve boxes until all are proved, one point refutes the claim, or boxes or seconds run out."""
        until = time.monotonic() + time_limit
        while self.open and not self._refuted():
            if self.boxes >= max_boxes:
                return "undecided", "boxes"
            if time.monotonic() >= until:
                return "undecided", "time"
            self.boxes += 1
            _, _, sides, quantity = heapq.heappop(self.open)
            if self._proved(sides, quantity):
                self.done.append(min(quantity.hi, self.limit.hi))
                continue
            middles = [float(((s.lo + s.hi) / 2).mid()) for s in sides]
            self._look([min(max(x, side.first), side.last) for x, side in zip(middles, self.box, strict=True)])
            widest = max(range(3), key=lambda i: float(sides[i].hi - sides[i].lo))
            low, high = sides[widest].lo, sides[widest].hi
            middle = (low + high) / 2
            if not low < middle < high:  # a point, or too thin to halve
                self.stuck.append(quantity.hi)
                continue
            for half in (_Interval(low, middle), _Interval(middle, high)):
                self._push([*sides[:widest], half, *sides[widest + 1 :]])
        if self._refuted():
            return "refuted", ""
        return ("undecided", "floats") if self.stuck else ("proved", "")

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
    """Return the smallest float64 that is not below x."""
    found = float(x)
    return nextafter(found, inf) if x > found else found


def _down(x: Any) -> float:
    """Return the largest float64 that is not above x."""
    found = float(x)
    return nextafter(found, -inf) if x < found else found
