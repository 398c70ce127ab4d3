"""Boxes of beta, lam and cos(q, k), with ends that belong to them or do not, and their numbers in decimals."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from math import inf, isfinite, nan, nextafter

Side = tuple[float, float] | str
Box = Mapping[str, Side]

VARIABLES = ("beta", "lam", "cos")
_WRITTEN = re.compile(r"\s*([\[(])([^,]+),([^,]+)([\])])\s*")


@dataclass(frozen=True)
class Interval:
    """One side of a box: low and high, and brackets, of which a round one leaves its end out."""

    low: float
    high: float
    brackets: str = "[]"

    @property
    def first(self) -> float:
        """The smallest float in it."""
        return self.low if self.brackets[0] == "[" else nextafter(self.low, inf)

    @property
    def last(self) -> float:
        """The largest float in it."""
        return self.high if self.brackets[1] == "]" else nextafter(self.high, -inf)

    def __str__(self) -> str:
        return f"{self.brackets[0]}{shortest(self.low)}, {shortest(self.high)}{self.brackets[1]}"

    def as_given(self) -> Side:
        """Return the pair, or where an end is open the string, that stands for it in a box."""
        return (self.low, self.high) if self.brackets == "[]" else str(self)


def sides_of(box: Box) -> dict[str, Interval]:
    """Return the sides of a box; raises ValueError, in one sentence, for what is none."""
    if set(box) != set(VARIABLES):
        raise ValueError(f"box has {sorted(box)}; expected beta, lam and cos.")
    return {name: _side(name, box[name]) for name in VARIABLES}


def _side(name: str, given: Side) -> Interval:
    parts = _WRITTEN.fullmatch(given) if isinstance(given, str) else None
    if parts is not None:
        low, high, brackets = _read(parts[2]), _read(parts[3]), parts[1] + parts[4]
    elif isinstance(given, str) or len(given) != 2:
        raise ValueError(f"box has {name} in {given!r}; expected (low, high), or a string such as '(0, 1]'.")
    else:
        (low, high), brackets = given, "[]"
    found = f"box has {name} in {brackets[0]}{low}, {high}{brackets[1]}"
    low, high = as_double(f"the lower end of {name}", low), as_double(f"the upper end of {name}", high)
    if not (isfinite(low) and isfinite(high) and low <= high):
        raise ValueError(f"{found}; expected finite bounds, the lower one first.")
    if name == "cos" and (low < -1 or high > 1):
        raise ValueError(f"{found}; expected bounds in [-1, 1].")
    side = Interval(low, high, brackets)
    if side.first > side.last:
        raise ValueError(f"{found}; expected an interval that some float lies in.")
    return side


def _read(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return nan


def as_double(name: str, x: float) -> float:
    """Return x as a float; raises ValueError where that is another number: a fraction, an integer above 2^53."""
    try:
        same = float(x) == x or x != x
    except OverflowError:
        same = False
    if not same:
        raise ValueError(
            f"{name} is {x!r}, which no float64 is; expected one, for what is proved is about that number."
        )
    return float(x)


def shortest(x: float) -> str:
    """Return the shortest decimal that reads as x, without the point of whole numbers."""
    return repr(float(x)).removesuffix(".0")


def rounded_up(x: float) -> str:
    """Return the shortest decimal that reads as x and, as a number, is not below it."""
    return _decimal(x, ROUND_CEILING)


def rounded_down(x: float) -> str:
    """Return the shortest decimal that reads as x and, as a number, is not above it."""
    return _decimal(x, ROUND_FLOOR)


def _decimal(x: float, rounding: str) -> str:
    decimals = (Context(digits, rounding).plus(Decimal(x)) for digits in range(1, 19))
    return next(f"{y:g}" for y in decimals if float(y) == x) if isfinite(x) else repr(x)
