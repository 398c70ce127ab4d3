"""How a handful of points is computed, in whatever process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ..inputs import QDeltaInputs
from .points import RESERVED, Plan, name_of

# A task takes about this long: little is lost when its process is killed, and writing costs less than computing.
TASK_SECONDS = 0.2
# Floats of values that one call of a measure is given at once: enough to fill a core, few enough for its cache.
_FLOATS = 1 << 20

Numbers = dict[str, np.ndarray]


@dataclass
class Found:
    """What came out of some points: numbers for lists of flat indices, or a point's error, and how long it took."""

    numbers: list[tuple[np.ndarray, Numbers]] = field(default_factory=list)
    errors: dict[int, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def count(self) -> int:
        """How many points there are."""
        return sum(len(indices) for indices, _ in self.numbers) + len(self.errors)


def compute(plan: Plan, indices: np.ndarray, ended: Callable[[], bool] = lambda: False) -> Found:
    """Measure the points of some flat indices; whatever one raises is kept as its error.

    After several times what a task should take the rest is left alone: whoever handed it out knew too little. So it is
    when the sweep has `ended`.
    """
    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)  # every worker is one thread: more of them would only wait for each other
    start = time.perf_counter()
    over = lambda: ended() or time.perf_counter() - start > 4 * TASK_SECONDS
    found, make = Found(), _Maker(plan)
    pending = plan.blocks(indices)[::-1]
    while pending and not (over() and (ended() or found.count)):
        block = pending.pop()
        try:
            found.numbers += _measure(plan, make, block, over)
        except Exception as error:
            if block.size == 1:
                found.errors[int(block[0, 0])] = f"{type(error).__name__}: {error}"
            else:  # half by half, to see which point it was
                pending += np.array_split(block, 2, axis=int(block.shape[0] == 1))[::-1]
    found.seconds = time.perf_counter() - start
    return found


class _Maker:
    """Makes tokens, and remembers the last, which neighbouring points share."""

    def __init__(self, plan: Plan):
        self.plan = plan
        self.last: tuple[dict[str, Any], QDeltaInputs] | None = None

    def __call__(self, index: int) -> QDeltaInputs:
        taken = self.plan.tokens_at(index)
        if self.last is None or self.last[0] != taken:
            made = self.plan.make(**taken)
            if not isinstance(made, QDeltaInputs) or (made.B, made.H) != (1, 1):
                raise ValueError(
                    f"{name_of(self.plan.make)} returned {made!r}; expected the inputs of one memory, B = H = 1."
                )
            self.last = taken, made
        return self.last[1]


def _measure(plan: Plan, make: _Maker, block: np.ndarray, over: Callable[[], bool]) -> list[tuple[np.ndarray, Numbers]]:
    """Measure a block [B, G] of flat indices, slab by slab, as far as time allows."""
    found = []
    tokens = (make(index) for index in block[:, 0].tolist())
    for b, g, inputs in _slabs(tokens, plan.gates_at(block[0]), block.shape[1]):
        found.append((block[b, g].ravel(), _numbers(plan, plan.measure(inputs), (inputs.B, inputs.H))))
        if over():
            break
    return found


def _slabs(
    tokens: Iterable[QDeltaInputs], gates: Mapping[str, np.ndarray], G: int
) -> Iterator[tuple[slice, slice, QDeltaInputs]]:
    """Yield as many sets of tokens and gates at a time as _FLOATS allows, with their places."""
    start = 0
    for alike in _alike(tokens, G):
        stacked = _stack(alike)
        width = -(-G // -(-G * _size(alike[0]) // _FLOATS))  # equal parts, as few as fit
        for j in range(0, G, width):
            g = slice(j, min(j + width, G))
            inputs = _with_gates(stacked, {name: values[g] for name, values in gates.items()}, g.stop - g.start)
            yield slice(start, start + len(alike)), g, inputs
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


def _with_gates(x: QDeltaInputs, gates: Mapping[str, np.ndarray], G: int) -> QDeltaInputs:
    """Give each memory G value heads that share its q, k and v and differ in their gates."""
    given = {name: torch.as_tensor(values, dtype=x.beta.dtype) for name, values in gates.items()}
    if "alpha" in given:
        if not (given["alpha"] > 0).all():
            raise ValueError(f"alpha is as low as {given['alpha'].min():g}; expected values in (0, 1].")
        given["g"] = given.pop("alpha").log()
    own = {"g": x.g, "beta": x.beta, "lam": x.lam}
    heads = {name: given.get(name, own[name]).expand(x.B, x.T, G) for name in own}
    state = None if x.initial_state is None else x.initial_state.expand(-1, G, -1, -1)
    return QDeltaInputs(x.q, x.k, x.v.expand(-1, -1, G, -1), **heads, initial_state=state, metadata=x.metadata)


def _numbers(plan: Plan, values: Any, shape: tuple[int, int]) -> Numbers:
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
