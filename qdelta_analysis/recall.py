"""The recall lab: write pairs into a memory, disturb it, read them back, and see what is left.

        write N pairs (k_i, v_i), each `writes` times, with q_t at a fixed angle to k_t; then D pairs that nobody reads
        read r_i = cue k_i + sqrt(1 - cue^2) n_i;    error = mean over i of ||S r_i - v_i||^2 / ||v_i||^2

Keys, values and all n are uniform on the unit sphere. Nothing is learned: this is what the recurrence itself can hold.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from qdelta_kernels import qdelta_rule
from qdelta_kernels.autocast import outside_autocast

from .checks import require, require_all, require_count
from .threads import one_thread

Numbers = float | Sequence[float] | np.ndarray
Counts = int | Sequence[int] | np.ndarray
# How many floats the largest tensor of one call may have: more gates than fit are taken in turn.
_MOST_FLOATS = 1 << 23
_MOST = 2**63 - 1  # of a count or a seed as a coordinate
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@outside_autocast
@one_thread()
@torch.no_grad()
def measure(
    *,
    lam: Numbers = 0.5,
    beta: Numbers = 1.0,
    alpha: Numbers = 1.0,
    pairs: Counts = 32,
    cos: Numbers = 0.0,
    cue: Numbers = 1.0,
    writes: Counts = 1,
    distractors: Counts = 0,
    d: int = 64,
    V: int | None = None,
    seeds: Counts = 8,
    dtype: torch.dtype = torch.float32,
) -> xr.Dataset:
    """Measure how well a memory recalls the pairs written into it, over a whole grid at once.

    Args:
        lam, beta, alpha: query feedback, write strength and decay, the same for every token.
        pairs: N, how many keys are written.
        cos: q.k of a token that writes.
        cue: r.k of what a key is asked with; below 1 the question is rotated away from the key.
        writes: how often each key is written, in rounds of random order, each time with a new value; the last counts.
        distractors: D, how many more pairs are written before reading.
        d: width of keys, at least 2.
        V: width of values; None is d.
        seeds: how many draws of everything, or which; all gates meet the same draws.
        dtype: what it is computed in.

    Returns:
        A dataset with a dim for each argument given as a sequence, and `seed`: `error`, the mean squared error of the
        reads relative to ||v||^2 (1 is as good as answering zero), and `accuracy`, the share of keys whose read has
        the largest inner product with the value that belongs to it; where reads leave the dtype the error is inf or
        NaN, the accuracy NaN. The coordinate `occupancy` is N / d.

    Raises ValueError for a value outside its range. All points with the same tokens share one pass: gates are heads.
    """
    require_count("d", d, 2)
    if dtype not in _DTYPES:
        raise ValueError(f"dtype is {dtype!r}; expected float16, bfloat16, float32 or float64 of torch.")
    width = d if V is None else V
    require_count("V", width, 1)
    axes = {
        "pairs": _counts("pairs", pairs, 1),
        "writes": _counts("writes", writes, 1),
        "distractors": _counts("distractors", distractors, 0),
        "cos": _numbers("cos", cos, -1, 1),
        "lam": _numbers("lam", lam, 0, 2),
        "beta": _numbers("beta", beta, 0, 2),
        "alpha": _numbers("alpha", alpha, math.ulp(0.0), 1),
        "cue": _numbers("cue", cue, -1, 1),
        "seed": _counts("seeds", _seeds(seeds), 0),
    }
    values = [axis.values.tolist() for axis in axes.values()]
    gates = torch.tensor(list(itertools.product(*values[4:7])), dtype=dtype)
    cues = torch.tensor(values[7], dtype=dtype)
    found = [
        _recall(_tasks(N, rounds, D, c, d, width, values[8], dtype), gates, cues)
        for N, rounds, D, c in itertools.product(*values[:4])
    ]
    shape = [len(axis.values) for axis in axes.values()]
    error, accuracy = (_numbers_of(torch.stack(x).view(shape)) for x in zip(*found, strict=True))
    return _labelled(axes, error, accuracy, d, width)


def curve(recalled: xr.Dataset) -> xr.Dataset:
    """Return means over seeds, and standard deviations as `error_sd` and `accuracy_sd` (NaN for one seed)."""
    _require_dims(recalled, "seed")
    spread = {f"{name}_sd": recalled[name].std("seed", ddof=1) for name in ("error", "accuracy")}
    return recalled.mean("seed").assign(spread).assign_attrs(recalled.attrs)


def capacity(recalled: xr.Dataset, accuracy: float = 0.9) -> xr.DataArray:
    """Return the largest N / d up to which the accuracy never fell below a level; 0 where it did at once.

    Only what was measured is returned, nothing is interpolated. Keeps the seeds apart: `.mean("seed")`, `.std("seed")`.
    Raises ValueError where `recalled` was not measured over pairs.
    """
    require("accuracy", accuracy, 0, 1)
    _require_dims(recalled, "pairs")
    ordered = recalled.sortby("pairs")
    # The running product: 1 until the first N that is too large, 0 from there on.
    held = (ordered.accuracy >= accuracy).cumprod("pairs")
    largest = (held * ordered.occupancy).max("pairs")
    return largest.assign_attrs(long_name=f"largest N/d recalled with an accuracy of {accuracy:g}").rename("capacity")


class _Tasks(NamedTuple):
    """Keys to be written, in order, and what is asked afterwards; B seeds side by side."""

    q: Float[Tensor, "B T K"]
    k: Float[Tensor, "B T K"]
    v: Float[Tensor, "B T V"]
    asked: Float[Tensor, "B N K"]
    across: Float[Tensor, "B N K"]  # a unit vector orthogonal to each key that is asked for
    answers: Float[Tensor, "B N V"]


def _tasks(N: int, writes: int, D: int, cos: float, d: int, V: int, seeds: list[int], dtype: torch.dtype) -> _Tasks:
    """Draw the same task from every seed, in float64, so that the dtype only changes the rounding."""
    draws = (_draw(N, writes, D, cos, d, V, seed) for seed in seeds)
    return _Tasks(*(torch.stack(x).to(dtype) for x in zip(*draws, strict=True)))


def _draw(N: int, writes: int, D: int, cos: float, d: int, V: int, seed: int) -> tuple[Tensor, ...]:
    random = torch.Generator().manual_seed(seed)
    unit = lambda n, width: normalize(torch.randn(n, width, dtype=torch.float64, generator=random), dim=-1)
    keys, others = unit(N, d), unit(D, d)
    order = torch.cat([torch.randperm(N, generator=random) for _ in range(writes)])
    k, v = torch.cat([keys[order], others]), unit(N * writes + D, V)
    q = cos * k + math.sqrt(1 - cos * cos) * _across(unit(len(k), d), k)
    last = torch.empty(N, dtype=torch.long).index_put_((order[-N:],), torch.arange(N * (writes - 1), N * writes))
    return q, k, v, keys, _across(unit(N, d), keys), v[last]


def _across(n: Tensor, k: Tensor) -> Tensor:
    """The unit vectors along the part of n that is orthogonal to k."""
    return normalize(n - (n * k).sum(-1, keepdim=True) * k, dim=-1)


def _recall(
    tasks: _Tasks, gates: Float[Tensor, "G 3"], cues: Float[Tensor, " C"]
) -> tuple[Float[Tensor, "G C B"], Float[Tensor, "G C B"]]:
    """Return error and accuracy; every triple of gates is a value head that shares the queries and keys."""
    B, T, V = tasks.v.shape
    c = cues.view(-1, 1, 1, 1)
    reads = c * tasks.asked + (1 - c * c).clamp(min=0).sqrt() * tasks.across  # [C, B, N, K]
    errors, accuracies = [], []
    C, _, N, K = reads.shape
    for part in gates.split(max(1, _MOST_FLOATS // (B * max(T * V, K * V, C * N * V, C * N * N)))):
        lam, beta, alpha = (x.expand(B, T, len(part)) for x in part.unbind(-1))
        v = tasks.v[:, :, None].expand(B, T, len(part), V)
        q, k = tasks.q[:, :, None], tasks.k[:, :, None]
        _, state = qdelta_rule(q, k, v, alpha.log(), beta, lam, output_final_state=True)
        assert state is not None
        answered = reads[:, :, None] @ state.to(reads)  # [C, B, G, N, V]
        errors.append((answered - tasks.answers[:, None]).square().sum(-1).mean(-1))
        likeness = answered @ tasks.answers[:, None].mT
        right = (likeness.argmax(-1) == torch.arange(likeness.shape[-1])).to(reads)
        accuracies.append(right.where(likeness.isfinite().all(-1), torch.nan).mean(-1))
    error, accuracy = (torch.cat(x, dim=-1).permute(2, 0, 1) for x in (errors, accuracies))
    return error, accuracy


def _numbers_of(x: Tensor) -> np.ndarray:
    return (x.float() if x.dtype == torch.bfloat16 else x).numpy()  # NumPy has no bfloat16


class _Axis(NamedTuple):
    values: np.ndarray
    alone: bool  # given as one number, so no dim of the result


def _numbers(name: str, given: Numbers, low: float, high: float) -> _Axis:
    values = np.atleast_1d(require_all(name, given, low, high))
    return _Axis(_distinct(name, values), np.ndim(given) == 0)


def _counts(name: str, given: Any, least: int) -> _Axis:
    alone = _is_one(given)
    values: list[Any] = [given] if alone else list(given)
    for value in values:
        require_count(name, value, least)
        if value > _MOST:
            require_count(name, value, least, _MOST)
    return _Axis(_distinct(name, np.asarray(values, dtype=np.int64)), alone)


def _is_one(given: Any) -> bool:
    return not hasattr(given, "__iter__") or np.ndim(given) == 0


def _seeds(given: Any) -> Counts:
    """Return the first seeds, where it was given how many."""
    if not _is_one(given):
        return given
    require_count("seeds", given, 1)
    return range(int(given))


def _distinct(name: str, values: np.ndarray) -> np.ndarray:
    if values.ndim != 1 or len(values) == 0 or len(np.unique(values)) < len(values):
        raise ValueError(f"{name} is {values.tolist()}; expected one number, or distinct ones in a list.")
    return values


def _labelled(axes: dict[str, _Axis], error: np.ndarray, accuracy: np.ndarray, d: int, V: int) -> xr.Dataset:
    data = xr.Dataset(
        {
            "error": (list(axes), error, {"long_name": "mean of ||S r - v||^2 / ||v||^2 over the keys"}),
            "accuracy": (list(axes), accuracy, {"long_name": "share of keys whose read is nearest to its own value"}),
        },
        {name: axis.values for name, axis in axes.items()},
        {"d": d, "V": V, "made_by": f"qdelta_analysis.recall {version('qdelta')}, torch {torch.__version__}"},
    )
    data = data.assign_coords(occupancy=("pairs", axes["pairs"].values / d, {"long_name": "N / d"}))
    return data.isel({name: 0 for name, axis in axes.items() if axis.alone})


def _require_dims(recalled: xr.Dataset, *dims: str) -> None:
    for dim in dims:
        if dim not in recalled.dims:
            raise ValueError(f"recalled has dims {list(recalled.dims)}; expected {dim} among them.")
