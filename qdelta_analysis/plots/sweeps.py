"""Pictures of sweeps: a number over two axes as a heat map, with what is missing and what failed."""

from __future__ import annotations

import textwrap
from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from .panels import log_if_wide
from .theme import DIVERGING_STOPS, SEQUENTIAL, UNDRAWN, template

Traces = dict[str, dict[str, Any]]

_AXES = {
    "lam": "query feedback λ",
    "beta": "write strength β",
    "alpha": "decay α",
    "c": "cos(q, k)",
    "d": "width d",
    "N": "tokens N",
}
_SYMBOLS = {"lam": "λ", "beta": "β", "alpha": "α", "c": "cos(q, k)"}
# Seen on dark cells and on light ones.
_MARKS = {"failed": ("x", "black", "white"), "not finite": ("circle", "white", "black")}
_BAR = {"thickness": 10, "outlinewidth": 0, "ticklen": 3, "exponentformat": "power", "nticks": 6}
_WIDE = 60  # characters of a line of a hover text


def sweep_figure(cells: xr.Dataset) -> go.Figure:
    """Draw what `sweep.cells` returns as a heat map.

    Cells where nothing is done stay grey. A cross marks cells with a point that failed, and says its error on hover; a
    ring those with a number that is not finite.
    """
    traces, layout = sweep_state(cells)
    y, x = cells["mean"].dims
    hover = f"{_symbol(x)} = %{{x}}<br>{_symbol(y)} = %{{y}}<br>%{{text}}<extra></extra>"
    places: dict[str, Any] = {"x": _ticks(cells[x]), "y": _ticks(cells[y])}
    heat = go.Heatmap(**places, **traces["cells"], meta="cells", coloraxis="coloraxis", hovertemplate=hover)
    figure = go.Figure(heat)
    for key, (symbol, color, edge) in _MARKS.items():
        marker = {"symbol": symbol, "size": 8, "color": color, "line": {"color": edge, "width": 1.5}}
        style = {"mode": "markers", "marker": marker, "name": key, "meta": key}
        figure.add_trace(go.Scatter(**traces[key], **style, hovertemplate="%{text}<extra></extra>"))
    for name, update in ((x, figure.update_xaxes), (y, figure.update_yaxes)):
        update(title_text=_AXES.get(str(name), str(name)), **_span(cells[name].values), showgrid=False, nticks=8)
    legend = {"orientation": "h", "x": 0, "y": 1.01, "yanchor": "bottom"}
    size = {"width": 620, "height": 430, "margin": {"l": 65, "r": 12, "t": 30, "b": 50}}
    return figure.update_layout(template=template(), legend=legend, plot_bgcolor=UNDRAWN, **size, **layout)


def sweep_state(cells: xr.Dataset) -> tuple[Traces, dict[str, Any]]:
    """Return what of `sweep_figure` changes while a sweep runs: values of its traces, by their `meta`, and layout."""
    y, x = (_ticks(cells[name]) for name in cells["mean"].dims)
    done, failed, finite = (cells[name].values for name in ("done", "failed", "finite"))
    points, number = cells.attrs["points"], _symbol(cells.attrs["number"])
    z, colors = _colored(cells["mean"].values)
    share = lambda n: f", {n} of {points} points" if points > 1 else ""
    text = [
        [f"{number} = {m:.5g}{share(n)}" for m, n in zip(means, counts, strict=True)]
        for means, counts in zip(cells["mean"].values.tolist(), done.tolist(), strict=True)
    ]
    said = {
        "failed": lambda i, j: f"failed{share(failed[i, j])}:<br>{_wrapped(cells.error.values[i, j])}",
        "not finite": lambda i, j: f"{number} is not finite{share(done[i, j] - finite[i, j])}",
    }
    where = {"failed": failed > 0, "not finite": (done > finite) & (failed == 0)}
    traces: Traces = {"cells": {"z": z, "text": text}}
    for key, marked in where.items():
        i, j = np.nonzero(marked)
        # Lists, for they may be words.
        traces[key] = {
            "x": x[j].tolist(),
            "y": y[i].tolist(),
            "text": [said[key](*at) for at in zip(i, j, strict=True)],
        }
    over = ", ".join(f"{n} {name}s" if name == "seed" else _symbol(name) for name, n in cells.attrs["over"].items())
    colors["colorbar"] = {**colors["colorbar"], "title": {"text": number + (f", mean over {over}" if over else "")}}
    colors["colorbar"]["title"]["side"] = "right"
    return traces, {"coloraxis": colors, "showlegend": any(marked.any() for marked in where.values())}


def _colored(mean: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """Return what colours stand for, and the colour axis: centred on 0 where there are signs, else from low to high.

    Over more than three decades they stand for the logarithm.
    """
    found = mean[np.isfinite(mean)]
    low, high = (float(found.min()), float(found.max())) if len(found) else (0.0, 1.0)
    if low < 0:
        limit = max(-low, high)
        return mean, {"cmin": -limit, "cmax": limit, "colorscale": DIVERGING_STOPS, "colorbar": _BAR}
    if log_if_wide(found) == "log":
        least = float(found[found > 0].min())
        powers = np.arange(np.floor(np.log10(least)), np.ceil(np.log10(high)) + 1)
        shown = powers[:: max(1, round(len(powers) / 6))]
        ticks = {"tickvals": shown.tolist(), "ticktext": [f"10<sup>{p:.0f}</sup>".replace("-", "−") for p in shown]}
        colors = {"cmin": powers[0], "cmax": powers[-1], "colorscale": SEQUENTIAL, "colorbar": _BAR | ticks}
        return np.log10(np.maximum(mean, least)), colors
    if low == high:
        low, high = low - 0.5, high + 0.5
    return mean, {"cmin": low, "cmax": high, "colorscale": SEQUENTIAL, "colorbar": _BAR}


def _wrapped(error: str) -> str:
    """Break an error into lines that fit on the screen, none of it read as markup."""
    return "<br>".join(textwrap.wrap(error.replace("&", "&amp;").replace("<", "&lt;"), _WIDE))


def _symbol(name: Any) -> str:
    return _SYMBOLS.get(str(name), str(name).replace("_", " "))


def _even(values: np.ndarray) -> bool:
    """Whether these are numbers at even distances, rising."""
    if values.dtype.kind not in "iuf" or len(values) < 2:
        return False
    steps = np.diff(values)
    return bool(steps[0] > 0 and np.allclose(steps, steps[0]))


def _span(values: np.ndarray) -> dict[str, Any]:
    """Return an axis from the first cell's edge to the last one's."""
    if not _even(values):
        return {"type": "category", "range": [-0.5, len(values) - 0.5]}
    half = float(values[1] - values[0]) / 2
    return {"type": "linear", "range": [float(values[0]) - half, float(values[-1]) + half]}


def _ticks(values: xr.DataArray) -> np.ndarray:
    """Return places on an axis: numbers if they are even, else words, each as wide as the others."""
    x = values.values
    return x if _even(x) else np.array([f"{one:g}" if x.dtype.kind in "iuf" else str(one) for one in x])
