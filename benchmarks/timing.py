"""Time functions against each other in one run, in rounds that other processes left alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any, TypeVar

from .machine import other_seconds

Found = TypeVar("Found")

# Cores that other processes may take in a round that counts: the machine's own housekeeping.
_CALM = 0.05


def calmest(measure: Callable[[], Found], repeats: int, spare: int) -> tuple[list[Found], float]:
    """Return `repeats` measurements, and how many cores other processes took during the worst of them.

    A measurement during which others computed is made again, `spare` times in all; the calmest ones count.
    """
    rounds: list[tuple[float, Found]] = []
    while sum(others <= _CALM for others, _ in rounds) < repeats and len(rounds) < repeats + spare:
        before, begin = other_seconds(), time.perf_counter()
        found = measure()
        rounds.append(((other_seconds() - before) / (time.perf_counter() - begin), found))
    kept = sorted(rounds, key=lambda round: round[0])[:repeats]
    return [found for _, found in kept], kept[-1][0]


@dataclass(frozen=True)
class Times:
    """The seconds that each function took in each round, and how many cores other processes took in the worst."""

    seconds: dict[str, list[float]]
    others: float

    def ratio(self, slow: str, fast: str) -> float:
        """Return how many times longer `slow` takes than `fast`, by their medians."""
        return median(self.seconds[slow]) / median(self.seconds[fast])


def interleaved(functions: Mapping[str, Callable[[], Any]], repeats: int) -> Times:
    """Time each function in turn (A B A B ...), so that all meet the same machine; each is called once before."""
    for function in functions.values():
        function()
    rounds, others = calmest(lambda: {name: once(f) for name, f in functions.items()}, repeats, 2 * repeats)
    return Times({name: [found[name] for found in rounds] for name in functions}, others)


def once(function: Callable[[], Any]) -> float:
    """Return the seconds that one call takes."""
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin
