"""Time functions against each other in one run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

Times = dict[str, list[float]]


def interleaved(functions: Mapping[str, Callable[[], Any]], repeats: int) -> Times:
    """Return the seconds that each function takes, called in turn (A B A B ...) so that all meet the same load.

    Each is called once before, untimed.
    """
    for function in functions.values():
        function()
    times: Times = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            times[name].append(once(function))
    return times


def once(function: Callable[[], Any]) -> float:
    """Return the seconds that one call takes; what it returns is freed before the clock stops."""
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def ratio(times: Times, slow: str, fast: str) -> float:
    """Return how many times longer `slow` takes than `fast`, by their medians."""
    return median(times[slow]) / median(times[fast])
