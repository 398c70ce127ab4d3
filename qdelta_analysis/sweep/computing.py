"""How a handful of points is computed, in whatever process: to the last bit the same, whoever is given which."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ..inputs import QDeltaInputs
from .points import RESERVED, TOGETHER, Block, Plan, name_of

# A task takes about this long: little is lost when its process is killed, and writing costs less than computing.
TASK_SECONDS = 0.2
# Floats of values that one call of a measure is given at once: enough to fill a core, few enough for its cache.
_FLOATS = 1 << 20

Numbers = dict[str, np.ndarray]


@dataclass(frozen=True)
class Task:
    """Some points of a block, given by their places in it, row after row.

    rows, columns: of the block those that the points need, and all that could be computed with them.
    before: the last place ahead of these that is missing too, -1 for none: whoever has that one computes whatever is
    computed together with it.
    """

    rows: np.ndarray
    columns: np.ndarray
    places: np.ndarray
    before: int


def task_of(block: Block, missing: np.ndarray, start: int, end: int) -> Task:
    """Return the task of missing[start:end], places in a block."""
    G, step = len(block.columns), most_rows(len(block.columns))
    first = missing[start] // G // step * step
    last = missing[end - 1] // G // step * step + step
    before = missing[start - 1] - first * G if start else -1
    return Task(block.rows[first:last], block.columns, missing[start:end] - first * G, max(int(before), -1))


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


def compute(plan: Plan, task: Task, ended: Callable[[], bool] = lambda: False) -> Found:
    """Measure the points of a task, and whatever is computed with them; what one raises is kept as its error.

    After several times what a task should take the rest is left alone: whoever handed it out knew too little. So it is
    when the sweep has `ended`. Neither changes what is computed together.
    """
    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)  # every worker is one thread: more of them would only wait for each other
    begun = time.perf_counter()
    over = lambda: ended() or time.perf_counter() - begun > 4 * TASK_SECONDS
    found, slabs = Found(), _Slabs(plan, task)
    end = 0
    for place in task.places.tolist():
        if place < end:
            continue
        if over() and (ended() or found.count):
            break
        slab = slabs.around(place)
        end = slab.end
        if slab.start > task.before:
            _measure(plan, slab, found, ended)
    found.seconds = time.perf_counter() - begun
    return found


@dataclass(frozen=True)
class _Slab:
    """Points that one call measures: flat indices [B, G], the inputs of each row, or why there are none.

    start, end: its places in the block, of which it holds all between.
    """

    indices: np.ndarray
    inputs: list[QDeltaInputs]
    start: int
    end: int
    error: str = ""


class _Slabs:
    """Cuts a block into slabs by the sizes of its tokens alone, wherever one begins to look."""

    def __init__(self, plan: Plan, task: Task):
        self.plan, self.task = plan, task
        self.made: dict[int, QDeltaInputs | BaseException] = {}

    def around(self, place: int) -> _Slab:
        """Return the slab that a place of the block lies in."""
        G = len(self.task.columns)
        row, column = divmod(place, G)
        own = self._make(row)
        many = min(most_rows(G), _power_of_two(_FLOATS // (G * _size(own)))) if self.plan.batched else 1
        for passed in [other for other in self.made if other < row // many * many]:
            del self.made[passed]
        if isinstance(own, BaseException):
            return self._slab(row, 1, 0, G, _said(own))
        if not self.plan.batched:
            return self._slab(row, 1, column, column + 1)
        if G * _size(own) > _FLOATS:
            width = -(-G // -(-G * _size(own) // _FLOATS))  # equal parts, as few as fit
            return self._slab(row, 1, column // width * width, min(column // width * width + width, G))
        return self._slab(*self._stackable(row, many), 0, G)

    def _stackable(self, row: int, many: int) -> tuple[int, int]:
        """Return the first row and how many: the largest of the aligned groups 1, 2, 4, ... around it that stack."""
        while many > 1:
            first = row // many * many
            group = range(first, min(first + many, len(self.task.rows)))
            if all(_kind(self._make(other)) == _kind(self._make(row)) for other in group):
                return first, len(group)
            many //= 2
        return row, 1

    def _slab(self, row: int, many: int, left: int, right: int, error: str = "") -> _Slab:
        G, rows = len(self.task.columns), range(row, row + many)
        indices = self.task.rows[row : row + many, None] + self.task.columns[left:right]
        inputs = [x for x in map(self._make, rows) if isinstance(x, QDeltaInputs)]
        return _Slab(indices, inputs, row * G + left, (row + many - 1) * G + right, error)

    def _make(self, row: int) -> QDeltaInputs | BaseException:
        if row not in self.made:
            try:
                made = self.plan.make(**self.plan.tokens_at(int(self.task.rows[row])))
                if not isinstance(made, QDeltaInputs) or (made.B, made.H) != (1, 1):
                    raise ValueError(
                        f"{name_of(self.plan.make)} returned {made!r}; expected the inputs of one memory, B = H = 1."
                    )
            except (Exception, SystemExit) as error:
                made = error
            self.made[row] = made
        return self.made[row]


def _measure(plan: Plan, slab: _Slab, found: Found, ended: Callable[[], bool]) -> None:
    """Measure a slab in one call; where that raises, half by half, to see which point it was."""
    if slab.error:
        found.errors |= dict.fromkeys(slab.indices.ravel().tolist(), slab.error)
        return
    pending = [(slab.indices, slab.inputs)]
    while pending and not ended():
        indices, inputs = pending.pop()
        try:
            together = _with_gates(_stack(inputs), plan.gates_at(indices[0]), indices.shape[1])
            numbers = _numbers(plan, plan.measure(together), (together.B, together.H))
            found.numbers.append((indices.ravel(), numbers))
        except (Exception, SystemExit) as error:
            if indices.size == 1:
                found.errors[int(indices[0, 0])] = _said(error)
            elif len(inputs) > 1:
                half = -(-len(inputs) // 2)
                pending += [(indices[half:], inputs[half:]), (indices[:half], inputs[:half])]
            else:
                pending += [(part, inputs) for part in np.array_split(indices, 2, axis=1)[::-1]]


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _kind(x: QDeltaInputs | BaseException) -> Any:
    """What has to be the same of inputs that are stacked; nothing is the same as what could not be made."""
    return x if isinstance(x, BaseException) else (x.q.shape, x.v.shape, x.q.dtype, x.initial_state is None)


def most_rows(G: int) -> int:
    """How many sets of tokens a call is given at most."""
    return _power_of_two(TOGETHER // G)


def _power_of_two(x: int) -> int:
    return 1 << max(x, 1).bit_length() - 1


def _size(x: QDeltaInputs | BaseException) -> int:
    return 1 if isinstance(x, BaseException) else max(1, x.T) * max(x.K, x.V)


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
