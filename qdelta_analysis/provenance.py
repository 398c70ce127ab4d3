"""What a figure was made from: parameters, versions, commit, and a fingerprint of everything that it draws."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from .extras import from_extra

with from_extra("lab"):
    import plotly.graph_objects as go

_PACKAGES = ("qdelta", "torch", "numpy", "plotly", "kaleido")
_LONG = 8  # arrays of more numbers are told by their moments
# Relative to an array's size: other processors round sums in other orders.
_TOLERANCE = 1e-5


# What paper does not show: a figure may differ in it and be the same drawing.
_REPLACED = {"title", "width", "height", "margin"}  # of the layout, by what a venue wants
_UNPRINTED = {"template", "hovertemplate", "hoverinfo", "hoverlabel", "meta", "modebar", "dragmode", "uid", "hovermode"}


def provenance(figure: go.Figure, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters, versions, the toolkit's commit, the data's hash and the drawing's fingerprint, for JSON.

    Raises TypeError for a parameter that JSON cannot hold.
    """
    drawing = fingerprint(figure)
    return {
        "parameters": json.loads(json.dumps(dict(parameters), default=_plain)),
        "versions": {"python": platform.python_version(), **_versions()},
        "commit": commit(),
        "data_sha256": data_hash(figure),
        "drawing": drawing,
    }


def commit() -> str | None:
    """Return the commit of the checkout that this code runs from, with "+changes" if it was edited; None outside."""
    here = Path(__file__).resolve().parent
    git = lambda *words: subprocess.run(["git", "-C", str(here), *words], capture_output=True, text=True, check=True)
    try:
        tracked = git("ls-files", "--", Path(__file__).name).stdout.strip()
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "*.py").stdout.strip()
        head = git("rev-parse", "HEAD").stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return (head + "+changes" if changed else head) if tracked else None


def data_hash(figure: go.Figure) -> str:
    """Return the SHA-256 of all arrays that a figure draws, bit by bit, with their names and shapes."""
    found = hashlib.sha256()
    for name, values in _leaves(_drawn(figure)["data"]):
        if isinstance(values, np.ndarray):
            found.update(f"{name} {values.dtype.str} {values.shape}".encode() + np.ascontiguousarray(values).tobytes())
    return found.hexdigest()


def fingerprint(figure: go.Figure) -> dict[str, Any]:
    """Return all that a figure draws, by name: texts and numbers as they are, long arrays as shape and moments."""
    return {name: _moments(x) if isinstance(x, np.ndarray) else x for name, x in _leaves(_drawn(figure))}


def differences(recorded: Mapping[str, Any], drawn: Mapping[str, Any]) -> list[str]:
    """Return the names at which two fingerprints differ by more than rounding."""
    names = sorted({*recorded, *drawn})
    missing = object()
    return [name for name in names if not _same(recorded.get(name, missing), drawn.get(name, missing))]


def _drawn(figure: go.Figure) -> dict[str, Any]:
    """Traces and layout, as far as they are printed; the template is the theme's, and the same for all."""
    drawn: Any = figure.data
    parts = [*(trace.to_plotly_json() for trace in drawn), figure.layout.to_plotly_json()]
    *traces, layout = ({name: x for name, x in part.items() if name not in _UNPRINTED} for part in parts)
    return {"data": traces, "layout": {name: x for name, x in layout.items() if name not in _REPLACED}}


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _leaves(x: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield what is in nested dicts and lists; lists of numbers become arrays."""
    if isinstance(x, dict):
        for key in sorted(x):
            yield from _leaves(x[key], f"{name}.{key}" if name else str(key))
    elif isinstance(x, list | tuple | np.ndarray) and len(x):
        array = np.asarray(x) if not isinstance(x, list | tuple) or _numeric(x) else None
        if array is not None and array.dtype.kind in "fiub" and array.size > _LONG:
            yield name, array
        elif isinstance(x, list | tuple) and len(x) > _LONG:
            digest = hashlib.sha256(json.dumps(x, default=_plain).encode()).hexdigest()
            yield name, f"{len(x)} parts, SHA-256 {digest}"
        else:
            for i, part in enumerate(x):
                yield from _leaves(part, f"{name}[{i}]")
    elif x is not None:
        yield name, _plain(x) if isinstance(x, np.generic) else x


def _numeric(x: Any) -> bool:
    return all(isinstance(y, int | float | np.number) and not isinstance(y, bool) for y in x)


def _moments(array: np.ndarray) -> dict[str, Any]:
    """Shape, gaps, mean, root mean square, and the scalar product with a fixed wave, which knows of the order."""
    values = array.astype(np.float64).ravel()
    kept = np.where(np.isfinite(values), values, 0)
    wave = np.cos(np.arange(kept.size) * np.sqrt(2.0))
    moments = {"mean": kept.mean(), "rms": np.sqrt(np.square(kept).mean()), "wave": (kept * wave).mean()}
    gaps = int((~np.isfinite(values)).sum())
    return {"shape": list(array.shape), "gaps": gaps, **{name: float(f"{x:.9g}") for name, x in moments.items()}}


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        size = max(abs(x["rms"]) for x in (a, b))
        close = all(abs(a[name] - b[name]) <= _TOLERANCE * size for name in ("mean", "rms", "wave"))
        return close and (a["shape"], a["gaps"]) == (b["shape"], b["gaps"])
    if isinstance(a, int | float) and isinstance(b, int | float):
        return abs(a - b) <= _TOLERANCE * max(abs(a), abs(b))
    return a == b


def _plain(x: Any) -> Any:
    """What JSON holds of a NumPy value or a path."""
    if isinstance(x, np.generic | np.ndarray):
        return x.tolist()
    if isinstance(x, range):
        return list(x)
    raise TypeError(f"a parameter is a {type(x).__name__}; expected numbers, texts, lists and dicts of them.")
