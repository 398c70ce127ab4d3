"""A figure as a paper prints it: text in points, thin lines, no title, no space lost; nothing is computed anew."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import plotly.graph_objects as go

from .theme import FONT, FONT_SIZE

_POINT = 96 / 72  # pixels
TEXT, SMALL, SMALLEST = 9.0, 7.5, 6.0  # points: text, ticks and legends, and below which nothing may be
_POWERS = SMALLEST / 0.7 / 1.25 + 0.05  # plotly enlarges powers of ten, and exponents are 0.7 of them
_LINE = 1.3  # from one line of a text to the next, of its size
_CASING = 0.75  # points on either side
_SHRINK = TEXT * _POINT / FONT_SIZE
_HEATMAP = 600  # pixels along an axis: a picture of few pixels is blurred by some viewers


def for_print(figure: go.Figure) -> go.Figure:
    """Return a copy of a figure for paper: 9-point text, none below 6, lines and points in proportion, no title.

    Margins fit what stands in them; the size is left to who draws it.
    """
    layout = figure.to_dict()["layout"]
    # A name that plotly would else choose by chance.
    drawn: Any = figure.data
    traces = _cased([_trace(trace.to_plotly_json()) for trace in drawn])
    traces = [{**trace, "uid": str(i)} for i, trace in enumerate(traces)]
    printed = go.Figure({"data": traces, "layout": _shrunk(layout)})
    printed.update_layout(
        title=None,
        width=None,
        height=None,
        font={"family": FONT, "size": TEXT * _POINT},
        margin={"l": 3, "r": 8, "t": 8 + _head(printed), "b": 3, "pad": 0, "autoexpand": True},
    )
    ticks = {"automargin": True, "ticklen": 3, "tickwidth": 0.75, "linewidth": 0.75, "gridwidth": 0.5}
    # Plotly sets powers of ten larger than it makes room for: y titles stay clear of them.
    for update, standoff in ((printed.update_xaxes, 3), (printed.update_yaxes, 8)):
        update(**ticks, tickfont_size=SMALL * _POINT, title_font_size=TEXT * _POINT, title_standoff=standoff)
        update(tickfont_size=_POWERS * _POINT, selector=lambda axis: axis.type == "log" and axis.ticktext is None)
    for name in layout:
        if name.startswith("legend"):
            printed.layout[name].update(font={"size": SMALL * _POINT}, tracegroupgap=0, itemwidth=30)
        if name.startswith("coloraxis"):
            printed.layout[name].update(colorbar=_COLORBAR)
    printed.update_traces(colorbar=_COLORBAR, selector=lambda trace: trace.type == "heatmap" and not trace.coloraxis)
    return printed


_COLORBAR = {
    "tickfont": {"size": SMALL * _POINT},
    "title": {"font": {"size": SMALL * _POINT}},
    "ticklen": 2,
    "tickwidth": 0.75,
}


def _head(figure: go.Figure) -> float:
    """Return the height in pixels of what stands above all panels, as titles do: plotly makes no room for it."""
    layout: dict[str, Any] = figure.layout.to_plotly_json()
    lines = 0
    for note in layout.get("annotations", ()):
        if note.get("yanchor") != "bottom" or note.get("y", 0) <= 0.99:
            continue
        where = note.get("yref", "")
        _, top = layout.get(where.removesuffix(" domain").replace("y", "yaxis", 1), {}).get("domain", (0, 1))
        if where == "paper" or (where.endswith(" domain") and top > 0.99):
            lines = max(lines, 1 + note.get("text", "").count("<br>"))
    return TEXT * _POINT * (lines if lines < 2 else _LINE * lines)


def _shrunk(x: Any, key: str = "") -> Any:
    """Scale sizes of text and widths of lines that a figure sets itself."""
    if isinstance(x, dict):
        skipped = ("template", "title") if key == "" else ()
        return {name: _shrunk(value, name) for name, value in x.items() if name not in skipped} | (
            {"template": x["template"]} if "template" in x and key == "" else {}
        )
    if isinstance(x, list | tuple):
        return [_shrunk(part, key) for part in x]
    if key == "size" and isinstance(x, int | float):
        return max(x * _SHRINK, SMALLEST * _POINT)
    return x


def _trace(trace: dict[str, Any]) -> dict[str, Any]:
    """Thin a trace's lines and points; draw a heat map with more pixels."""
    trace = dict(trace)
    if "line" in trace:
        width = trace["line"].get("width", 2)  # 0 is no line, and stays so
        trace["line"] = {**trace["line"], "width": max(0.75, 0.7 * width) if width else 0, "simplify": False}
    if "marker" in trace and trace["type"].startswith("scatter"):
        size = trace["marker"].get("size", 6)
        trace["marker"] = {**trace["marker"], "size": 0.7 * (np.asarray(size) if np.ndim(size) else size)}
    for bars in ("error_x", "error_y"):
        if bars in trace:
            thin = {"thickness": 0.7 * trace[bars].get("thickness", 2), "width": 0.7 * trace[bars].get("width", 4)}
            trace[bars] = {**trace[bars], **thin}
    if "textfont" in trace:
        trace["textfont"] = _shrunk(trace["textfont"], "textfont")
    return _enlarged(trace) if trace["type"] == "heatmap" else trace


def _cased(traces: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Lay a wider white line under every line on a heat map: it is then seen on dark colours, in greyscale too."""
    place = lambda trace: (trace.get("xaxis", "x"), trace.get("yaxis", "y"))
    maps = {place(trace): i for i, trace in enumerate(traces) if trace["type"] == "heatmap"}
    under: dict[int, list[dict[str, Any]]] = {i: [] for i in maps.values()}
    for trace in traces:
        if trace["type"] == "scatter" and trace.get("mode") == "lines" and place(trace) in maps and "fill" not in trace:
            width = trace.get("line", {}).get("width", 2) + 2 * _CASING * _POINT
            line = {"color": "rgba(255, 255, 255, 0.8)", "width": width, "simplify": False}
            under[maps[place(trace)]].append({**trace, "line": line, "showlegend": False})
    return [part for i, trace in enumerate(traces) for part in (trace, *under.get(i, ()))]


def _enlarged(trace: dict[str, Any]) -> dict[str, Any]:
    """Repeat each value of an evenly spaced heat map a whole number of times along both axes."""
    z = np.asarray(trace["z"])
    centres = [
        np.asarray(trace[name]) if name in trace else np.arange(n) for name, n in zip("yx", z.shape, strict=True)
    ]
    steps = [np.diff(at) if at.dtype.kind in "fiu" else np.array([]) for at in centres]
    if not all(len(step) and np.allclose(step, step[0]) for step in steps):
        return trace
    times = [max(1, math.ceil(_HEATMAP / n)) for n in z.shape]
    y, x = (
        at[0] + step[0] * ((np.arange(n * t) + 0.5) / t - 0.5)
        for at, step, n, t in zip(centres, steps, z.shape, times, strict=True)
    )
    return {**trace, "x": x, "y": y, "z": np.kron(z, np.ones(times, dtype=z.dtype))}
