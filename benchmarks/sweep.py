"""A sweep of 10,000 points, from drawing the tokens to numbers on disk, against loops over the points in Python."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import xarray as xr

from qdelta_analysis import generators, sweep, trace
from qdelta_analysis.threads import one_thread
from qdelta_kernels import recurrent_qdelta_rule

from .report import Figure, among_others, timing
from .timing import interleaved

TITLE = "10,000 points (lam, beta, c, seed: 10 values each), d = 64, T = 256, float32, to disk (fewer with --quick)"
MEASURES = ("error", "memory", "recall", "transition")

Point = dict[str, Any]


def measure(quick: bool = False) -> list[Figure]:
    """Check some points of each sweep against a loop in float64, then time sweeps and loops in turn.

    A loop runs over a sample of points and is scaled. It has one thread, on which its small operations are quickest.
    """
    values, sample, repeats = (4, 8, 2) if quick else (10, 100, 5)
    grid = {"lam": np.linspace(0, 1, values), "beta": np.linspace(0.1, 1, values)}
    grid |= {"c": np.linspace(-0.9, 0.9, values), "seed": np.arange(values)}
    points = _sample(grid, sample)
    _check(grid, points[: max(4, sample // 10)])
    functions: dict[str, Callable[[], Any]] = {
        "loop trace": lambda: _loop(_traced, points),
        "loop tokens": lambda: _loop(_token_by_token, points[: sample // 10 + 1]),
    }
    for name in MEASURES:
        functions[f"sweep {name}"] = partial(_sweep, name, grid)
        functions[f"loop {name}"] = partial(_loop, sweep.MEASURES[name], points)
    times = interleaved(functions, repeats)
    return among_others(_figures(times.seconds, values**4, sample), times.others, "this")


def _figures(seconds: dict[str, list[float]], count: int, sample: int) -> list[Figure]:
    sizes = dict.fromkeys(seconds, sample) | {"loop tokens": sample // 10 + 1}
    whole = {name: median(x) * (count / sizes[name] if "loop" in name else 1) for name, x in seconds.items()}
    figures = [timing(f'sweep.run("{name}"), {count:,} points', seconds[f"sweep {name}"]) for name in MEASURES]
    words = {
        "loop trace": "a loop of trace(), scaled",
        "loop tokens": "a loop of the recurrence token by token, outputs alone, scaled",
        **{f"loop {name}": f"a loop of the measure {name}, scaled" for name in MEASURES},
    }
    figures += [Figure(f"{text} to {count:,} points", whole[name], "s") for name, text in words.items()]
    ratio = lambda loop, name: whole[loop] / whole[f"sweep {name}"]
    return [
        *figures,
        Figure('a loop of trace() / sweep.run("error")', ratio("loop trace", "error"), "x", at_least=20),
        Figure('a loop of trace() / sweep.run("memory")', ratio("loop trace", "memory"), "x"),
        Figure('a loop token by token / sweep.run("error")', ratio("loop tokens", "error"), "x"),
        *(
            Figure(f'a loop of the same measure / sweep.run("{name}")', ratio(f"loop {name}", name), "x")
            for name in MEASURES
        ),
    ]


def _sweep(name: str, grid: dict[str, np.ndarray]) -> xr.Dataset:
    with tempfile.TemporaryDirectory() as folder:
        return sweep.run(name, grid, path=Path(folder) / "it.zarr", progress=False)


def _sample(grid: dict[str, np.ndarray], count: int) -> list[Point]:
    shape = [len(values) for values in grid.values()]
    chosen = np.random.default_rng(0).choice(int(np.prod(shape)), count, replace=False)
    at = np.unravel_index(chosen, shape)
    columns = [values[i].tolist() for values, i in zip(grid.values(), at, strict=True)]
    return [dict(zip(grid, values, strict=True)) for values in zip(*columns, strict=True)]


def _inputs(lam: float, beta: float, c: float, seed: int):
    return generators.cone(T=256, K=64, V=64, cos=c, beta=beta, lam=lam, alpha=1.0, seed=seed)


def _loop(function: Callable, points: list[Point]) -> list[dict[str, float]]:
    with one_thread():
        return [{key: float(x) for key, x in function(_inputs(**point)).items()} for point in points]


def _traced(inputs) -> dict[str, Any]:
    """What the measures "error" and "memory" return, as one reads it off a trace."""
    data = trace(inputs, snapshots=0)
    return {
        "final_norm": data.state_norm[0, -1, 0],
        "largest_norm": data.state_norm.max(),
        "error_before": data.error_before.mean(),
        "error_after": data.error_after.mean(),
        "cosine": data.cosine.mean(),
    }


def _token_by_token(inputs) -> dict[str, Any]:
    o, _ = recurrent_qdelta_rule(**inputs.arguments())
    return {"norm": o.norm()}


def _check(grid: dict[str, np.ndarray], points: list[Point]) -> None:
    """Raise AssertionError unless every sweep has at some points what a loop in float64 finds there."""
    for name in MEASURES:
        data = _sweep(name, grid)
        assert bool((data.status == 1).all()), f"{name}: {data.error.values[data.status.values != 1][0]}"
        function = _traced if name in ("error", "memory") else sweep.MEASURES[name]
        for point in points:
            exact = function(_inputs(**point).to(torch.float64))
            for key, value in exact.items():
                if key not in data:
                    continue
                found, expected = data[key].sel(point).item(), float(value)
                assert abs(found - expected) <= 1e-4 * abs(expected) + 1e-5, f"{key} at {point}: {found}, {expected}"
