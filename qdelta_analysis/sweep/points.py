"""The points of a sweep: which there are, and which of them are computed together."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..checks import require_room
from .measures import Measure
from .sources import Source

GATES = ("lam", "beta", "alpha")
RESERVED = ("status", "error")  # what every result has beside the numbers
# Memories that one call of a measure is given at most: more of them cost hardly less each, and keep who stops waiting.
TOGETHER = 128
_POINT_BYTES = 100  # a mark, an error, about five numbers, and once more for the copy that is returned


@dataclass(frozen=True)
class Block:
    """B sets of tokens that meet the same G gates, [B, G]: the flat index of each point is rows[b] + columns[g]."""

    rows: np.ndarray
    columns: np.ndarray

    @property
    def indices(self) -> np.ndarray:
        """The flat index of every point, [B, G]."""
        return self.rows[:, None] + self.columns


@dataclass(frozen=True)
class Plan:
    """What is computed: a measure of the inputs that `make` returns, at the points of a grid.

    Axes that are gates, and that `make` does not take itself, become heads of one call; the others go to `make`.
    grown: the shapes that the grid had before values were added to its axes, in their order.
    """

    measure: Measure
    make: Source
    axes: dict[str, np.ndarray]
    batched: bool
    grown: tuple[tuple[int, ...], ...] = ()
    gates: tuple[str, ...] = field(init=False)
    taken: tuple[str, ...] = field(init=False)

    def __post_init__(self):
        parameters = inspect.signature(self.make).parameters
        gates = tuple(name for name in self.axes if name in GATES and name not in parameters)
        taken = tuple(name for name in self.axes if name not in gates)
        object.__setattr__(self, "gates", gates)
        object.__setattr__(self, "taken", taken)
        try:
            inspect.signature(self.make).bind(**dict.fromkeys(taken))
        except TypeError as error:
            raise ValueError(
                f"grid has the axes {', '.join(self.axes)}; expected lam, beta, alpha and parameters of "
                f"{name_of(self.make)}({', '.join(parameters)}): {error}."
            ) from None

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of values on every axis."""
        return tuple(len(values) for values in self.axes.values())

    def tokens_at(self, index: int) -> dict[str, Any]:
        """Return what `make` is called with for a point, given by its flat index, as plain Python values."""
        at = dict(zip(self.axes, np.unravel_index(index, self.shape), strict=True))
        return {name: self.axes[name][at[name] : at[name] + 1].tolist()[0] for name in self.taken}

    def gates_at(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Return the gates of some points."""
        at = dict(zip(self.axes, np.unravel_index(indices, self.shape), strict=True))
        return {name: self.axes[name][at[name]] for name in self.gates}

    def blocks(self) -> list[Block]:
        """Cut the grid into blocks, points that share their tokens together.

        What is computed together decides how sums are rounded. It is the grid's alone, and for values that were added
        later what they added: neither what is done already nor how long anything takes changes a block.
        """
        found: list[Block] = []
        before: tuple[int, ...] = (0,) * len(self.axes)
        for shape in (*self.grown, self.shape):
            (rows, old_rows), (columns, old_columns) = (
                self._places(names, shape, before) for names in (self.taken, self.gates)
            )
            for some, gates in ((rows[old_rows], columns[~old_columns]), (rows[~old_rows], columns)):
                if len(some) and len(gates):
                    found += [Block(some, part) for part in np.array_split(gates, -(-len(gates) // TOGETHER))]
            before = shape
        return found

    def _places(
        self, names: Sequence[str], shape: Sequence[int], before: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """What the combinations of values on some axes add to a flat index, and which of them were there before."""
        axes, places, old = list(self.axes), np.zeros(1, int), np.full(1, math.prod(before) > 0)
        for name in names:
            i = axes.index(name)
            at = np.arange(shape[i])
            places = np.add.outer(places, at * math.prod(self.shape[i + 1 :])).ravel()
            old = np.logical_and.outer(old, at < before[i]).ravel()
        return places, old


def require_grid(sizes: Mapping[str, int]) -> None:
    """Raise ValueError for a grid of so many values on each axis whose results do not fit into memory."""
    axes = " x ".join(f"{name} {size:,}" for name, size in sizes.items())
    points = math.prod(sizes.values())
    require_room(f"a grid of {points:,} points ({axes})", _POINT_BYTES * points)


def name_of(function: Any) -> str:
    """Return where a function is defined and what it is called."""
    function = getattr(function, "func", function)  # a functools.partial is named after what it wraps
    named = getattr(function, "__qualname__", type(function).__qualname__)
    return f"{getattr(function, '__module__', '?')}.{named}"
