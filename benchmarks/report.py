"""What a benchmark found: figures with their goals, as a table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from qdelta_analysis.files import write as write_file

# Cores that other processes may take before a figure is no longer to be trusted.
_DISTURBING = 0.2
RESULTS = Path(__file__).parent / "results"


class Unavailable(Exception):
    """Raised by a benchmark that this machine cannot run; the message says what is missing."""


@dataclass(frozen=True)
class Figure:
    """One measured number, how many repeats it comes from and their range, and what it has to reach."""

    name: str
    value: float
    unit: str
    repeats: int | None = None
    low: float | None = None
    high: float | None = None
    at_least: float | None = None
    at_most: float | None = None
    disturbed: bool = False

    @property
    def verdict(self) -> str:
        """Return "reached" or "missed", or nothing where there is no goal."""
        if self.at_least is None and self.at_most is None:
            return ""
        reached = self.value >= self.at_least if self.at_least is not None else self.value <= (self.at_most or 0)
        return ("reached" if reached else "missed") + (", but disturbed" if self.disturbed else "")

    @property
    def goal(self) -> str:
        """Return the goal in words."""
        if self.at_least is not None:
            return f"at least {self.at_least:g}"
        return "" if self.at_most is None else f"at most {self.at_most:g}"


def timing(name: str, seconds: Sequence[float]) -> Figure:
    """Return the median of these times with their range, in seconds or milliseconds."""
    unit, factor = ("s", 1.0) if median(seconds) >= 1 else ("ms", 1e3)
    return spread(name, [factor * x for x in seconds], unit)


def spread(name: str, values: Sequence[float], unit: str, at_most: float | None = None) -> Figure:
    """Return the median of these values with their range."""
    return Figure(name, median(values), unit, len(values), min(values), max(values), at_most=at_most)


def among_others(figures: Sequence[Figure], cores: float, what: str) -> list[Figure]:
    """Add how many cores other processes took in the worst round that counts, and mark the figures if too many."""
    row = Figure(f"cores taken by other processes during {what}, at most", max(cores, 0.0), "")
    return [*(replace(figure, disturbed=cores > _DISTURBING) for figure in figures), row]


def table(title: str, machine: dict[str, Any], figures: Sequence[Figure]) -> str:
    """Return the figures as aligned text under what they were measured on."""
    rows = [("figure", "value", "unit", "range", "repeats", "goal", "")]
    for f in figures:
        span = "" if f.low is None or f.high is None else f"{_short(f.low)} .. {_short(f.high)}"
        repeats = "" if f.repeats is None else str(f.repeats)
        rows.append((f.name, _short(f.value), f.unit, span, repeats, f.goal, f.verdict))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "-" * max(map(len, lines)))
    where = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in machine.items())
    return "\n".join(["", title, where, "", *lines])


def write(name: str, title: str, machine: dict[str, Any], figures: Sequence[Figure]) -> None:
    """Write results/<name>.json."""
    RESULTS.mkdir(exist_ok=True)
    found = []
    for f in figures:
        row = {key: _rounded(x) for key, x in asdict(f).items() if x is not None and key != "disturbed"}
        found.append(row | ({"verdict": f.verdict} if f.goal else {}))
    text = json.dumps({"benchmark": name, "title": title, "machine": machine, "figures": found}, indent=2)
    write_file(RESULTS / f"{name}.json", text + "\n")


def _short(x: float) -> str:
    return f"{x:,.0f}" if abs(x) >= 1000 else f"{x:.2f}" if abs(x) < 0.01 else f"{x:.3g}"


def _rounded(x: Any) -> Any:
    return float(f"{x:.5g}") if isinstance(x, float) else x
