"""What a memory holds: influence of past values, and recall."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from jaxtyping import Float
from plotly.subplots import make_subplots

from .theme import COLORS, DIVERGING_STOPS, spacing, styles, template

_LEGEND = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"}
# Told apart by colour, by lightness and by dash.
_SERIES = (("memory_bound", "solid"), ("memory", "dash"), ("error_after", "dashdot"), ("error_before", "dot"))

_SYMBOLS = {"lam": "λ", "beta": "β", "alpha": "α", "cos": "cos(q, k)", "cue": "cos(r, k)"}
_ALONG = _SYMBOLS | {
    "lam": "query feedback λ",
    "pairs": "N/d",
    "cue": "cosine of the question and the key",
    "distractors": "pairs written in between",
    "writes": "times each key was written",
}


def influence_figure(found: Mapping[str, Float[np.ndarray, "T T"]], block: slice) -> go.Figure:
    """Draw a block of each influence matrix M[i, j] side by side, and below the mean |M| over the distance i - j."""
    specs = [[{}] * len(found), [{"colspan": len(found)}, *[None] * (len(found) - 1)]]
    figure = make_subplots(
        rows=2,
        cols=len(found),
        specs=specs,
        subplot_titles=list(found),
        horizontal_spacing=spacing(0.14, len(found)),
        row_heights=[0.6, 0.4],
        vertical_spacing=0.2,
    )
    parts = {name: M[block, block] for name, M in found.items()}
    limit = max(float(np.abs(part).max()) for part in parts.values())
    at = np.arange(len(next(iter(found.values()))))[block]
    ticks = {"dtick": max(1, round(len(at) / 3, -1)), "showgrid": False}
    for column, (name, part) in enumerate(parts.items(), start=1):
        place: dict[str, Any] = {"row": 1, "col": column}
        hover = f"{name}: %{{x}} on %{{y}}: %{{z:.4f}}<extra></extra>"
        # Above the diagonal there is no past, so nothing is drawn.
        z = np.where(np.tri(len(at), dtype=bool), part, np.nan)
        figure.add_trace(go.Heatmap(x=at, y=at, z=z, coloraxis="coloraxis", hovertemplate=hover), **place)
        figure.update_xaxes(title_text="written at j", **ticks, **place)
        figure.update_yaxes(autorange="reversed", **ticks, showticklabels=column == 1, **place)
    figure.update_yaxes(title_text="read at i", row=1, col=1)
    for (name, M), (color, dash) in zip(found.items(), styles(len(found), _SERIES), strict=True):
        distance, mean = mean_by_distance(M)
        line = {"color": COLORS[color], "dash": dash, "width": 2}
        figure.add_trace(go.Scatter(x=distance, y=mean, name=name, mode="lines", line=line), row=2, col=1)
    figure.update_xaxes(title_text="distance i − j", type="log", dtick=1, row=2, col=1)
    figure.update_yaxes(title_text="mean |M|", type="log", dtick=1, row=2, col=1)
    bar = {
        "len": 0.62,
        "y": 1,
        "yanchor": "top",
        "thickness": 8,
        "outlinewidth": 0,
        "nticks": 5,
        "title": {"text": "M"},
    }
    colors = {"cmin": -limit, "cmax": limit, "colorscale": DIVERGING_STOPS, "colorbar": bar}
    legend = {"x": 0.02, "y": 0.02, "xanchor": "left", "yanchor": "bottom"}
    figure.update_annotations(font_size=12)
    return figure.update_layout(template=template(), width=640, height=620, coloraxis=colors, legend=legend)


def mean_by_distance(M: Float[np.ndarray, "T T"]) -> tuple[np.ndarray, np.ndarray]:
    """Return distances i - j from 1 on, growing by a factor, and the mean |M| around each."""
    T = len(M)
    edges = np.unique(np.round(np.geomspace(1, T, 25)).astype(int))
    diagonals = np.array([np.abs(np.diagonal(M, -n)).sum() for n in range(T)])
    counts = np.arange(T, 0, -1)
    stretches = [slice(a, b) for a, b in pairwise(edges)]
    mean = np.array([diagonals[part].sum() / counts[part].sum() for part in stretches])
    return np.sqrt(edges[:-1] * (edges[1:] - 1.0)), mean


def recall_figure(curve: xr.Dataset, along: str = "lam", by: str = "pairs", of: str = "error") -> go.Figure:
    """Draw recall along one argument of `recall.measure` for each value of another, with a band over seeds.

    curve: what `recall.curve` returned, with these two dims; the band is one standard deviation to either side. of:
    "error" or "accuracy". Pairs are drawn as N/d, what is written for each dimension of the keys. Raises ValueError
    for other dims, or more values of the other than there are lines to tell apart.
    """
    if set(curve[of].dims) != {along, by}:
        raise ValueError(f"curve has dims {list(curve[of].dims)}; expected {along} and {by}.")
    if curve.sizes[by] > len(_SERIES):
        raise ValueError(f"curve has {curve.sizes[by]} values of {by}; expected at most {len(_SERIES)}.")
    figure = go.Figure()
    across = (curve.occupancy if along == "pairs" else curve[along]).values
    for value, (color, dash) in zip(curve[by].values, _SERIES, strict=False):
        at = curve.sel({by: value})
        low, high = at[of] - at[f"{of}_sd"], at[of] + at[f"{of}_sd"]
        band = {"x": [*across, *across[::-1]], "y": [*high.values, *low.values[::-1]]}
        fill = {"fill": "toself", "line": {"width": 0}, "fillcolor": COLORS[color], "opacity": 0.2, "mode": "lines"}
        figure.add_trace(go.Scatter(**band, **fill, hoverinfo="skip", showlegend=False))
        line = {"color": COLORS[color], "dash": dash, "width": 2}
        symbol, size = ("N/d", float(at.occupancy)) if by == "pairs" else (_SYMBOLS.get(by, by), value)
        name = f"{symbol} = {size:g}".replace("-", "−")
        figure.add_trace(go.Scatter(x=across, y=at[of].values, name=name, mode="lines", line=line))
    figure.update_xaxes(title_text=_ALONG.get(along, along))
    figure.update_yaxes(title_text=f"recall {of}", rangemode="tozero")
    return figure.update_layout(template=template(), legend=_LEGEND, width=640, height=400)
