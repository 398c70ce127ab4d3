"""`qdelta sweep` without the options: what they mean, and what is printed."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import joblib
import numpy as np
import xarray as xr

from ..checks import require_room
from ..extras import from_extra
from .measures import MEASURES
from .store import DONE, FAILED


def grid_of(given: Mapping[str, str | None], more: Sequence[str]) -> dict[str, list[Any]]:
    """Return the axes from their options, and from NAME=VALUES."""
    texts = {name: text for name, text in given.items() if text is not None}
    numbers = set(texts)
    for pair in more:
        name, equals, text = pair.partition("=")
        if not name or not equals:
            raise ValueError(f"--axis is {pair!r}; expected NAME=VALUES.")
        if name in texts:
            raise ValueError(f"--axis gives {name} again; expected every axis once.")
        texts[name] = text
    return {name: values_of(name, text, words=name not in numbers) for name, text in texts.items()}


def values_of(name: str, text: str, words: bool = True) -> list[Any]:
    """Read "0,0.5,1", or "0:1:11" for 11 evenly spaced values from 0 to 1, or both: "0:1:3,2".

    Words stay words, where they are allowed. Raises ValueError for anything else, or more values than memory holds.
    """
    values: list[Any] = []
    for part in text.split(","):
        ends = part.split(":")
        try:
            given = _spaced(ends) if len(ends) == 3 else None
        except ValueError:
            given = None
        if given is not None:
            require_room(f"{given[2]} values of {name}", 100 * given[2])
            spaced = np.linspace(*given)
            whole = not any(mark in ends[0] + ends[1] for mark in ".eE") and (spaced == spaced.round()).all()
            values += [int(x) for x in spaced] if whole else spaced.tolist()
            continue
        value = _value(part)
        if len(ends) != 1 or not part or (isinstance(value, str) and not words):
            raise ValueError(f"{name} is {text!r}; expected values such as 0,0.5,1 or FIRST:LAST:HOW-MANY.")
        values.append(value)
    return values


def _spaced(ends: Sequence[str]) -> tuple[float, float, int] | None:
    first, last, many = float(ends[0]), float(ends[1]), int(ends[2])
    return (first, last, many) if many >= 2 and np.isfinite([first, last]).all() else None


def measure_of(name: str) -> str | Callable:
    """Return a named measure, or the function that MODULE:FUNCTION names, found from the current folder too."""
    if name in MEASURES or ":" not in name:
        return name
    module, _, function = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return getattr(importlib.import_module(module), function)
    except (Exception, SystemExit) as error:  # whatever the module does when it is imported
        raise ValueError(
            f"measure is {name!r}; expected MODULE:FUNCTION that can be imported: {type(error).__name__}: {error}."
        ) from error


@contextmanager
def workers(scheduler: str | None) -> Iterator[None]:
    """Let a Dask cluster compute, if its scheduler's address is given."""
    if scheduler is None:
        yield
        return
    with from_extra("cluster"):
        from distributed import Client
    with Client(scheduler, timeout="10s") as client, joblib.parallel_config(backend="dask", client=client):
        yield


def summary(data: xr.Dataset) -> str:
    """Lay out what was measured, how much of it is done, and what failed."""
    axes = ", ".join(f"{name} {len(data[name])}" for name in data.dims)
    done, failed = (int((data.status == mark).sum()) for mark in (DONE, FAILED))
    lines = [f"{data.status.size} points ({axes}): {done} done, {failed} failed", ""]
    lines.append(f"{'over all points':<18} {'min':>11} {'median':>11} {'max':>11}")
    for name, values in data.data_vars.items():
        if name in ("status", "error"):
            continue
        x = values.values[data.status.values == DONE]
        found = np.quantile(x, [0, 0.5, 1], method="nearest") if len(x) else [np.nan] * 3
        lines.append(f"{name:<18} " + " ".join(f"{value:>11.4g}" for value in found))
    if failed:
        first = np.unravel_index(int((data.status.values == FAILED).argmax()), data.status.shape)
        where = ", ".join(f"{name}={data[name].values[i]}" for name, i in zip(data.dims, first, strict=True))
        lines += ["", f"failed at {where}: {data.error.values[first]}"]
    return "\n".join(lines)


def _value(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
