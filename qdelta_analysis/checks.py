"""What functions ask of their numbers: one sentence for one that does not fit."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np

Number = float | np.ndarray
# Each is a thread or a process: more of them than any cluster's cores end in the system's refusal.
_MOST_JOBS = 4096


def require(name: str, value: Any, low: float, high: float) -> None:
    """Raise ValueError unless value is a number from low to high."""
    number: Any = value
    if not isinstance(value, Real) or not low <= number <= high:
        raise ValueError(f"{name} is {value!r}; expected a number from {low:g} to {high:g}.")


def require_all(name: str, values: Any, low: float, high: float) -> np.ndarray:
    """Return values as a float64 array; raise ValueError unless they all lie from low to high."""
    try:
        array = np.asarray(values, dtype=np.float64)
    except (ValueError, TypeError):
        raise ValueError(f"{name} is {values!r}; expected numbers from {low:g} to {high:g}.") from None
    if not np.all((low <= array) & (array <= high)):
        found = f"[{array.min():g}, {array.max():g}]"
        raise ValueError(f"{name} has values in {found}; expected values in [{low:g}, {high:g}].")
    return array


def require_count(name: str, value: Any, least: int, most: float = math.inf) -> None:
    """Raise ValueError unless value is a whole number from least to most."""
    if not is_whole(value) or not least <= int(value) <= most:
        limit = f"of at least {least}" if most == math.inf else f"from {least} to {most:g}"
        raise ValueError(f"{name} is {value!r}; expected a whole number {limit}.")


def require_jobs(jobs: Any) -> None:
    """Raise ValueError unless jobs is a number of workers: as joblib has it, -1 is one for each core."""
    if not is_whole(jobs) or jobs == 0 or not -_MOST_JOBS <= jobs <= _MOST_JOBS:
        raise ValueError(f"jobs is {jobs!r}; expected 1 to {_MOST_JOBS} workers, or -1 for one for each core.")


def places(name: str, chosen: Any, size: int) -> list[int]:
    """Return which of `size` things were chosen, each from 0 to size - 1: by a number, several of them, or a slice.

    As in Python -1 is the last, and a slice keeps what there is of it. Raises ValueError for a place that is not there,
    for what is no whole number, and for no place at all.
    """
    found: list[Any]
    chosen = plain(chosen)
    if isinstance(chosen, slice):
        try:
            found = list(range(size)[chosen])
        except (TypeError, ValueError):
            raise ValueError(f"{name} is {chosen!r}; expected a slice of whole numbers.") from None
    elif isinstance(chosen, Integral):
        found = [chosen]
    else:
        try:
            found = [plain(i) for i in chosen]
        except TypeError:
            found = [chosen]
    if not found or not all(is_whole(i) and -size <= i < size for i in found):
        raise ValueError(f"{name} is {chosen!r}; expected some of 0 to {size - 1}, or -1 to {-size} from the end.")
    return [int(i) % size for i in found]


def require_room(what: str, wanted: int) -> None:
    """Raise ValueError where `what` would take more bytes than there is memory, before it is tried."""
    room = _memory()
    if wanted > room:
        wanted, room = wanted // 10**9, room // 10**9
        raise ValueError(f"{what} would take about {wanted:,} GB; expected at most the {room:,.0f} GB of memory here.")


def is_whole(value: Any) -> bool:
    """Return whether value is a whole number; True and False are none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def require_seed(seed: Any) -> int:
    """Return a seed that a torch.Generator takes; raise ValueError for another."""
    require_count("seed", seed, -(2**63), 2**64 - 1)
    return int(seed)


def plain(value: Any) -> Any:
    """Return the number, or the list of numbers, that an array or a tensor holds; anything else as it is."""
    return value.tolist() if hasattr(value, "tolist") else value


def _memory() -> float:
    """Return the bytes of memory that this process may have: the machine's, or its container's."""
    limits = [math.inf]
    with suppress(AttributeError, ValueError, OSError):
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(ValueError, OSError):  # "max" is no number, and elsewhere there is no such file
            limits.append(int(Path(path).read_text()))
    return min(limits)
