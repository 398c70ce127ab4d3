"""What functions ask of their numbers: one sentence for one that does not fit."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

import numpy as np

Number = float | np.ndarray


def require(name: str, value: Any, low: float, high: float) -> None:
    """Raise ValueError unless value is a number from low to high."""
    if not isinstance(value, Real) or not low <= float(value) <= high:
        raise ValueError(f"{name} is {value!r}; expected a number from {low:g} to {high:g}.")


def require_all(name: str, values: Any, low: float, high: float) -> np.ndarray:
    """Return values as a float64 array; raise ValueError unless they all lie from low to high."""
    array = np.asarray(values, dtype=np.float64)
    if not np.all((low <= array) & (array <= high)):
        found = f"[{array.min():g}, {array.max():g}]"
        raise ValueError(f"{name} has values in {found}; expected values in [{low:g}, {high:g}].")
    return array


def require_count(name: str, value: Any, least: int, most: float = math.inf) -> None:
    """Raise ValueError unless value is a whole number from least to most."""
    if not isinstance(value, Integral) or not least <= int(value) <= most:
        limit = f"of at least {least}" if most == math.inf else f"from {least} to {most:g}"
        raise ValueError(f"{name} is {value!r}; expected a whole number {limit}.")
