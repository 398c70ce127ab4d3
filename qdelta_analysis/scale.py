"""Real scale: traces as long as this machine carries, and what of them a screen can show without hiding anything."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np
import torch
import xarray as xr

from qdelta_kernels import qdelta_rule_reference

from .checks import require, require_count
from .inputs import QDeltaInputs
from .threads import one_thread
from .tracing import trace

MILLION = 1 << 20
# Tokens of the first run that is timed, after one of an eighth that warms up (on a GPU the kernels are compiled in it).
_FIRST = 4096
# Of the memory that is free on a GPU.
_SHARE = 0.8


def envelope(values: xr.DataArray, columns: int = 600) -> xr.Dataset:
    """Return the least and the largest of every stretch of tokens: one column of a screen each, nothing smoothed.

    `values` has a dim `time`; in its place `low` and `high` have a dim `column`, with the coordinates `first` and
    `last`, the tokens that a column covers. No value lies outside, and a spike in one token of a million is kept. Of
    fewer tokens than columns each is a column. A NaN makes its column NaN: a gap, since what it hides is unknown.

    Raises ValueError for values without `time` or without tokens, or columns below 1.
    """
    require_count("columns", columns, 1)
    if "time" not in values.dims or values.sizes["time"] == 0:
        raise ValueError(f"values have sizes {dict(values.sizes)}; expected at least one token along time.")
    T, axis = values.sizes["time"], values.get_axis_num("time")
    edges = np.linspace(0, T, min(columns, T) + 1).astype(int)
    dims = tuple("column" if dim == "time" else dim for dim in values.dims)
    found = {
        name: (dims, extreme.reduceat(values.values, edges[:-1], axis=axis))
        for name, extreme in (("low", np.minimum), ("high", np.maximum))
    }
    tokens = values["time"].values if "time" in values.coords else np.arange(T)
    others = {name: c for name, c in values.coords.items() if "time" not in c.dims}
    covered = {"first": ("column", tokens[edges[:-1]]), "last": ("column", tokens[edges[1:] - 1])}
    return xr.Dataset(found, {**others, **covered}, values.attrs)


@one_thread()
def long_trace(
    make: Callable[[int], QDeltaInputs], seconds: float = 2.0, most: int = MILLION, keep_last: int = 64
) -> tuple[QDeltaInputs, xr.Dataset]:
    """Trace as many of these tokens as this machine carries in about so many seconds.

    Short runs are measured first and scaled up; on a GPU they also tell how many tokens its memory holds. `make(T)`
    returns T tokens. The dataset is that of `trace`, with two snapshots: the memory before the last `keep_last` tokens
    and after them, so that they can be held against the recurrence. Returns it with the inputs.

    Raises ValueError for no time, or fewer than keep_last + 1 tokens at most. On a CPU it computes on one thread.
    """
    require("seconds", seconds, 1e-3, np.inf)
    require_count("keep_last", keep_last, 1)
    require_count("most", most, keep_last + 1)
    first = max(keep_last + 1, min(_FIRST, most))
    _traced(make(max(keep_last + 1, first // 8)), keep_last)
    inputs = make(_carried(make, first, seconds, most, keep_last))
    return inputs, _traced(inputs, keep_last)


@one_thread()
@torch.no_grad()
def reference_error(inputs: QDeltaInputs, traced: xr.Dataset) -> float:
    """Return how far a trace's last snapshot lies from the definition, run in float64 from the snapshot before it.

        ||S' - S||_F / ||S||_F over all sequences and heads

    So any stretch of a trace too long for the definition can be held against it. Raises ValueError for a trace with
    fewer than two snapshots, or of another number of tokens.
    """
    if traced.sizes["snapshot"] < 2 or traced.sizes["time"] != inputs.T:
        raise ValueError(
            f"traced has {traced.sizes['snapshot']} snapshots of {traced.sizes['time']} tokens; expected at least two, "
            f"of the {inputs.T} tokens of the inputs."
        )
    first, last = (int(t) + 1 for t in traced.snapshot[-2:])
    before, after = (torch.as_tensor(traced.state.isel(snapshot=i).values).mT.double() for i in (-2, -1))
    tokens = {name: getattr(inputs, name)[:, first:last].double().cpu() for name in ("q", "k", "v", "g", "beta", "lam")}
    _, exact = qdelta_rule_reference(**tokens, initial_state=before, output_final_state=True)
    assert exact is not None
    size = exact.norm()
    return float((after - exact).norm() / torch.where(size > 0, size, 1))


def _carried(make: Callable[[int], QDeltaInputs], first: int, seconds: float, most: int, keep_last: int) -> int:
    """Return how many tokens fit into the time and, on a GPU, into its memory.

    Runs grow fourfold until one takes an eighth of the time: what every run costs alike would look like a slow machine.
    """
    T = first
    while True:
        took, room = _measured(make, T, keep_last)
        limit = max(first, min(most, room))
        if took >= seconds / 8 or limit <= T:
            return min(limit, max(first, int(T * seconds / took)))
        T = min(limit, 4 * T)


def _measured(make: Callable[[int], QDeltaInputs], T: int, keep_last: int) -> tuple[float, int]:
    """Return the seconds of one trace, and for how many tokens like these a GPU has room (a CPU: for any)."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if torch.cuda.is_available() else 0
    inputs = make(T)
    start = time.perf_counter()
    _traced(inputs, keep_last)  # its results are NumPy arrays, so a GPU is done when it returns
    took = time.perf_counter() - start
    if not inputs.q.is_cuda:
        return took, sys.maxsize
    per_token = (torch.cuda.max_memory_allocated() - before) / T
    del inputs
    torch.cuda.empty_cache()
    return took, int(_SHARE * torch.cuda.mem_get_info()[0] / per_token)


def _traced(inputs: QDeltaInputs, keep_last: int) -> xr.Dataset:
    return trace(inputs, snapshots=[inputs.T - keep_last - 1, inputs.T - 1])
