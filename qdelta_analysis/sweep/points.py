"""The points of a sweep: which there are, and which of them share their tokens."""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..checks import require_room
from .measures import Measure
from .sources import Source

GATES = ("lam", "beta", "alpha")
RESERVED = ("status", "error")  # what every result has beside the numbers


@dataclass(frozen=True)
class Plan:
    """What is computed: a measure of the inputs that `make` returns, at the points of a grid.

    Axes that are gates, and that `make` does not take itself, become heads of one call; the others go to `make`.
    """

    measure: Measure
    make: Source
    axes: dict[str, np.ndarray]
    batched: bool
    gates: tuple[str, ...] = field(init=False)
    taken: tuple[str, ...] = field(init=False)

    def __post_init__(self):
        # Numbers, marks, errors and the order in which points are computed.
        require_room(f"a grid of {' x '.join(map(str, self.shape))} points", 100 * math.prod(self.shape))
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

    def order(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sort flat indices so that points which share their tokens are neighbours, and say where each set begins."""
        tokens, gates = (self._numbered(names, indices) for names in (self.taken, self.gates))
        ordered = np.lexsort([gates, tokens])
        return indices[ordered], np.flatnonzero(np.diff(tokens[ordered], prepend=-1))

    def blocks(self, indices: np.ndarray) -> list[np.ndarray]:
        """Cut ordered flat indices into blocks [B, G]: B sets of tokens that meet the same G gates each."""
        if not self.batched:
            return [np.array([[index]]) for index in indices]
        indices, starts = self.order(indices)
        blocks: dict[bytes, list[np.ndarray]] = {}
        for one in np.split(indices, starts[1:]):
            blocks.setdefault(self._numbered(self.gates, one).tobytes(), []).append(one)
        return [np.stack(alike) for alike in blocks.values()]

    def _numbered(self, names: tuple[str, ...], indices: np.ndarray) -> np.ndarray:
        """Number the combinations of values on some axes, in their order."""
        at = dict(zip(self.axes, np.unravel_index(indices, self.shape), strict=True))
        number = np.zeros_like(indices)
        for name in names:
            number = number * len(self.axes[name]) + at[name]
        return number


def name_of(function: Any) -> str:
    """Return where a function is defined and what it is called."""
    function = getattr(function, "func", function)  # a functools.partial is named after what it wraps
    named = getattr(function, "__qualname__", type(function).__qualname__)
    return f"{getattr(function, '__module__', '?')}.{named}"
