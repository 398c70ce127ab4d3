"""Pictures of what queries predict and keys retrieve: their cosines, their subspaces, and the tokens they come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from .theme import COLORS, styles, template

_LEGEND = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"}
_LINES = (("memory", "solid"), ("error_after", "dash"), ("alignment", "dot"), ("norm", "dashdot"))


def readouts_figure(compared: xr.Dataset) -> go.Figure:
    """Draw one head's cosines of v_hat and o_hat as a histogram, beside their principal angles over those of chance.

    compared: a head of what `readouts.compare` returned.
    """
    figure = make_subplots(rows=1, cols=2, horizontal_spacing=0.13)
    color = COLORS["memory"]
    bars = go.Bar(x=compared["bin"], y=compared.density, marker_color=color, width=2 / compared.sizes["bin"])
    figure.add_trace(bars.update(showlegend=False, name="density"), row=1, col=1)
    pairs = np.arange(1, compared.sizes["pair"] + 1)
    low, middle, high = (compared.chance.isel(quantile=i) for i in range(3))
    band = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}
    shade = "rgba(127, 127, 127, 0.25)"
    figure.add_trace(go.Scatter(x=pairs, y=low, **band), row=1, col=2)
    figure.add_trace(go.Scatter(x=pairs, y=high, fill="tonexty", fillcolor=shade, **band), row=1, col=2)
    line = {"color": COLORS["reference"], "dash": "dash", "width": 1}
    figure.add_trace(go.Scatter(x=pairs, y=middle, mode="lines", line=line, name="chance, 5 to 95 %"), row=1, col=2)
    marks = {"mode": "lines+markers", "line": {"color": color, "width": 2}, "name": "v̂ and ô"}
    figure.add_trace(go.Scatter(x=pairs, y=compared.angle, **marks), row=1, col=2)
    figure.update_xaxes(title_text="cos(v̂, ô)", range=[-1, 1], row=1, col=1)
    figure.update_yaxes(title_text="density over tokens", rangemode="tozero", row=1, col=1)
    figure.update_xaxes(title_text="pair of directions", dtick=1 if len(pairs) <= 10 else None, row=1, col=2)
    figure.update_yaxes(title_text="principal angle, degrees", range=[0, 92], row=1, col=2)
    size = {"width": 640, "height": 330, "margin": {"l": 60, "r": 12, "t": 40, "b": 50}}
    return figure.update_layout(template=template(), legend=_LEGEND | {"x": 0.57}, bargap=0, **size)


def sources_figure(rows: Mapping[str, np.ndarray], labels: Sequence[str]) -> go.Figure:
    """Draw how much each past value gives to one token's readouts, [n] each, over the tokens' labels, n of them."""
    figure = go.Figure()
    places = np.arange(len(labels))
    for (name, row), (color, dash) in zip(rows.items(), styles(len(rows), _LINES), strict=True):
        line = {"color": COLORS[color], "dash": dash, "width": 2, "shape": "hvh"}
        figure.add_trace(go.Scatter(x=places, y=row, name=name, mode="lines", line=line))
    figure.add_hline(0, line={"color": COLORS["reference"], "width": 1})
    figure.update_xaxes(title_text="past token", tickvals=places, ticktext=list(labels), tickangle=0, showgrid=False)
    figure.update_yaxes(title_text="influence")
    size = {"width": 640, "height": 300, "margin": {"l": 60, "r": 12, "t": 40, "b": 50}}
    return figure.update_layout(template=template(), legend=_LEGEND, **size)


def over_lam_figure(
    lam: np.ndarray, lines: Mapping[str, np.ndarray], title: str, marked: float | None = None
) -> go.Figure:
    """Draw quantities, [n] each, over the query feedback lam, [n]; `marked` is a lam to point out."""
    figure = go.Figure()
    for (name, y), (color, dash) in zip(lines.items(), styles(len(lines), _LINES), strict=True):
        style = {"color": COLORS[color], "dash": dash, "width": 2}
        figure.add_trace(go.Scatter(x=lam, y=y, name=name, mode="lines+markers", line=style))
    if marked is not None:
        figure.add_vline(marked, line={"color": COLORS["reference"], "width": 1, "dash": "dot"})
    figure.update_xaxes(title_text="query feedback λ")
    figure.update_yaxes(title_text=title)
    size = {"width": 640, "height": 340, "margin": {"l": 65, "r": 12, "t": 40, "b": 50}}
    return figure.update_layout(template=template(), legend=_LEGEND, **size)
