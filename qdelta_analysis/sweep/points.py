"""The points of a sweep, and how a handful of them is computed, in whatever process."""

from __future__ import annotations

import inspect
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ..inputs import QDeltaInputs
from .measures import Measure
from .sources import Source

GATES = ("lam", "beta", "alpha")
RESERVED = ("status", "error")  # what every result has beside the numbers
# A task takes about this long: little is lost when its process is killed, and writing costs less than computing.
TASK_SECONDS = 0.2
# Floats of values that one call of a measure is given at once: enough to fill a core, few enough for its cache.
_FLOATS = 1 << 20

Point = tuple[Any, ...]  # the coordinates, in the order of the axes
Numbers = dict[str, float]


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

    def order(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sort flat indices so that points which share their tokens are neighbours, and say where each set begins."""
        at = dict(zip(self.axes, np.unravel_index(indices, self.shape), strict=True))
        ordered = np.lexsort([at[name] for name in [*self.gates[::-1], *self.taken[::-1]]])
        tokens = np.stack([np.zeros_like(indices), *(at[name] for name in self.taken)])[:, ordered]
        new = np.any(tokens[:, 1:] != tokens[:, :-1], axis=0)
        return indices[ordered], np.concatenate([[0], np.flatnonzero(new) + 1])

    def points(self, indices: np.ndarray) -> list[Point]:
        """Return the coordinates of some flat indices, as plain Python values."""
        at = np.unravel_index(indices, self.shape)
        columns = [values[i].tolist() for values, i in zip(self.axes.values(), at, strict=True)]
        return list(zip(*columns, strict=True))


@dataclass
class Found:
    """What came out of some points: numbers or an error for each, by its flat index."""

    numbers: dict[int, Numbers]
    errors: dict[int, str]
    seconds: float


def compute(plan: Plan, indices: np.ndarray, points: list[Point], ended: Callable[[], bool] = lambda: False) -> Found:
    """Measure some points; whatever one raises is kept as its error.

    After several times what a task should take the rest is left alone: whoever handed it out knew too little. So it is
    when the sweep has `ended`.
    """
    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)  # every worker is one thread: more of them would only wait for each other
    start = time.perf_counter()
    over = lambda: ended() or time.perf_counter() - start > 4 * TASK_SECONDS
    found = Found({}, {}, 0.0)
    settings = [dict(zip(plan.axes, point, strict=True)) for point in points]
    make = _Maker(plan)
    pending = list(_together(plan, list(zip(indices.tolist(), settings, strict=True))))[::-1]
    while pending and not (over() and (ended() or found.numbers or found.errors)):
        rows = pending.pop()
        try:
            found.numbers |= _measure(plan, make, rows, over)
        except Exception as error:
            if len(rows) == 1:
                found.errors[rows[0][0]] = f"{type(error).__name__}: {error}"
            else:  # one by one, to see which of them it was
                pending += [[row] for row in rows[::-1]]
    found.seconds = time.perf_counter() - start
    return found


class _Maker:
    """Makes tokens, and remembers the last, which neighbouring points share."""

    def __init__(self, plan: Plan):
        self.plan = plan
        self.last: tuple[dict[str, Any], QDeltaInputs] | None = None

    def __call__(self, point: Mapping[str, Any]) -> QDeltaInputs:
        taken = {name: point[name] for name in self.plan.taken}
        if self.last is None or self.last[0] != taken:
            made = self.plan.make(**taken)
            if not isinstance(made, QDeltaInputs) or (made.B, made.H) != (1, 1):
                raise ValueError(
                    f"{name_of(self.plan.make)} returned {made!r}; expected the inputs of one memory, B = H = 1."
                )
            self.last = taken, made
        return self.last[1]


Row = tuple[int, dict[str, Any]]


def _together(plan: Plan, todo: list[Row]) -> Iterator[list[Row]]:
    """Group points whose tokens are the same, and then sets of tokens that meet the same gates."""
    if not plan.batched:
        yield from ([row] for row in todo)
        return
    by_tokens = itertools.groupby(todo, key=lambda row: [row[1][name] for name in plan.taken])
    by_gates: dict[tuple, list[list[Row]]] = {}
    for _, same in by_tokens:
        rows = list(same)
        by_gates.setdefault(tuple(tuple(row[1][name] for name in plan.gates) for row in rows), []).append(rows)
    for blocks in by_gates.values():
        yield [row for block in blocks for row in block]


def _measure(plan: Plan, make: _Maker, rows: list[Row], over: Callable[[], bool]) -> dict[int, Numbers]:
    """Measure B sets of tokens with the same G gates each: rows [B G] -> numbers by index, as far as time allows."""
    key = lambda row: [row[1][name] for name in plan.taken]
    G = sum(key(row) == key(rows[0]) for row in rows)
    tokens = (make(point) for _, point in rows[::G])
    gates = {name: [point[name] for _, point in rows[:G]] for name in plan.gates}
    numbers: dict[int, Numbers] = {}
    for b, g, part in _slabs(tokens, gates, G):
        flat = _numbers(plan, plan.measure(part), (part.B, part.H))
        for at, (i, j) in enumerate(itertools.product(b, g)):
            numbers[rows[i * G + j][0]] = {name: float(x[at]) for name, x in flat.items()}
        if over():
            break
    return numbers


def _slabs(
    tokens: Iterable[QDeltaInputs], gates: Mapping[str, list[float]], G: int
) -> Iterator[tuple[range, range, QDeltaInputs]]:
    """Yield as many sets of tokens and gates at a time as _FLOATS allows, with their places."""
    start = 0
    for alike in _alike(tokens, G):
        stacked = _stack(alike)
        width = -(-G // -(-G * _size(alike[0]) // _FLOATS))  # equal parts, as few as fit
        for j in range(0, G, width):
            at = {name: values[j : j + width] for name, values in gates.items()}
            g = range(j, min(j + width, G))
            yield range(start, start + len(alike)), g, _with_gates(stacked, at, len(g))
        start += len(alike)


def _alike(tokens: Iterable[QDeltaInputs], G: int) -> Iterator[list[QDeltaInputs]]:
    """Gather neighbours that can be stacked, as many as _FLOATS allows with G gates each."""
    held: list[QDeltaInputs] = []
    kind = lambda x: (x.q.shape, x.v.shape, x.q.dtype, x.initial_state is None)
    for x in tokens:
        if held and (kind(x) != kind(held[0]) or (len(held) + 1) * G * _size(x) > _FLOATS):
            yield held
            held = []
        held.append(x)
    yield held


def _size(x: QDeltaInputs) -> int:
    return max(1, x.T) * max(x.K, x.V)


def _stack(alike: Sequence[QDeltaInputs]) -> QDeltaInputs:
    if len(alike) == 1:
        return alike[0]
    arguments = [x.arguments() for x in alike]
    together: dict[str, Any] = {
        name: None if first is None else torch.cat([each[name] for each in arguments])
        for name, first in arguments[0].items()
    }
    return QDeltaInputs(**together)


def _with_gates(x: QDeltaInputs, gates: Mapping[str, list[float]], G: int) -> QDeltaInputs:
    """Give each memory G value heads that share its q, k and v and differ in their gates."""
    given = {name: torch.tensor(values, dtype=x.beta.dtype) for name, values in gates.items()}
    if "alpha" in given:
        if not (given["alpha"] > 0).all():
            raise ValueError(f"alpha is as low as {given['alpha'].min():g}; expected values in (0, 1].")
        given["g"] = given.pop("alpha").log()
    own = {"g": x.g, "beta": x.beta, "lam": x.lam}
    heads = {name: given.get(name, own[name]).expand(x.B, x.T, G) for name in own}
    state = None if x.initial_state is None else x.initial_state.expand(-1, G, -1, -1)
    return QDeltaInputs(x.q, x.k, x.v.expand(-1, -1, G, -1), **heads, initial_state=state, metadata=x.metadata)


def _numbers(plan: Plan, values: Any, shape: tuple[int, int]) -> dict[str, np.ndarray]:
    """Return what a measure returned as float64 vectors, or say what is wrong with it."""
    named = values if isinstance(values, Mapping) else {"value": values}
    expected = f"[B, H] = {list(shape)}, one number for each memory" if plan.batched else "one number"
    flat = {}
    for name, value in named.items():
        if not isinstance(name, str) or not name.isidentifier() or name in (*plan.axes, *RESERVED):
            raise ValueError(
                f"{name_of(plan.measure)} returned something named {name!r}; "
                f"expected names like final_norm, and none of {', '.join((*plan.axes, *RESERVED))}."
            )
        array = np.asarray(value.detach().cpu() if isinstance(value, torch.Tensor) else value)
        if array.dtype.kind not in "fiub" or (array.shape != shape if plan.batched else array.size != 1):
            raise ValueError(
                f"{name_of(plan.measure)} returned {name} of {array.dtype} and shape {list(array.shape)}; "
                f"expected {expected}."
            )
        flat[name] = array.astype(np.float64).ravel()
    return flat


def name_of(function: Any) -> str:
    """Return where a function is defined and what it is called."""
    function = getattr(function, "func", function)  # a functools.partial is named after what it wraps
    named = getattr(function, "__qualname__", type(function).__qualname__)
    return f"{getattr(function, '__module__', '?')}.{named}"
