"""Pictures of the guarantees: one step's norm, the error against its bound, the memory, and the map of growth."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ..transition import Transition
from .theme import COLORS, DIVERGING, template

_SIZE = {"width": 640, "height": 360, "margin": {"l": 65, "r": 12, "t": 40, "b": 50}}
_LEGEND = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"}


def norm_against_lam(t: Transition) -> go.Figure:
    """Draw ||A||, the spectral radius, the moving eigenvalue and the norm's envelope over t.lam, [n]."""
    figure = go.Figure()
    lines = {
        "‖A‖": (t.operator_norm(), {"color": COLORS["norm"], "width": 2}),
        "ρ(A)": (t.spectral_radius(), {"color": COLORS["memory"], "width": 2, "dash": "dash"}),
        "α(1 − βa)": (t.eigenvalues()[..., -1], {"color": COLORS["eigenvalue"], "width": 2, "dash": "dot"}),
        "α√(1 + λ²)": (t.norm_envelope(), {"color": COLORS["reference"], "width": 1}),
    }
    for name, (y, line) in lines.items():
        figure.add_trace(go.Scatter(x=t.lam, y=y, name=name, line=line))
    figure.update_xaxes(title_text="query feedback λ")
    figure.update_yaxes(title_text="one step's transition")
    return figure.update_layout(template=template(), legend=_LEGEND, **_SIZE)


def error_against_bound(error: np.ndarray, bound: np.ndarray) -> go.Figure:
    """Draw the mixed error after each write, [T], under the bound of Theorem 3.2, [T]."""
    figure = go.Figure()
    time = np.arange(len(error))
    line = {"color": COLORS["reference"], "width": 2, "dash": "dash"}
    figure.add_trace(go.Scatter(x=time, y=bound, name="bound of Theorem 3.2", line=line))
    figure.add_trace(
        go.Scatter(x=time, y=error, name="‖v − Sx‖ after the write", line={"color": COLORS["error_after"], "width": 1})
    )
    figure.update_xaxes(title_text="token")
    figure.update_yaxes(title_text="mixed error", rangemode="tozero")
    return figure.update_layout(template=template(), legend=_LEGEND, **_SIZE)


def contraction_and_memory(factor: np.ndarray, memories: dict[str, np.ndarray]) -> go.Figure:
    """Draw the share of the mixed error that each write leaves, [T], over the norms of memories, [T] each."""
    figure = make_subplots(rows=2, shared_xaxes=True, vertical_spacing=0.06, row_heights=[0.35, 0.65])
    time = np.arange(len(factor))
    line = {"color": COLORS["error_after"], "width": 2}
    figure.add_trace(go.Scatter(x=time, y=factor, line=line, showlegend=False), row=1, col=1)
    styles = [("memory", "solid"), ("alignment", "dash"), ("norm", "dot"), ("reference", "dashdot")]
    for (name, norm), (color, dash) in zip(memories.items(), styles, strict=False):
        line = {"color": COLORS[color], "width": 2, "dash": dash}
        figure.add_trace(go.Scatter(x=np.arange(len(norm)), y=norm, name=name, line=line), row=2, col=1)
    figure.update_yaxes(title_text="|1 − βa|", range=[-0.05, 1.05], row=1, col=1)
    figure.update_yaxes(title_text="‖S‖<sub>F</sub>", type="log", row=2, col=1)
    figure.update_xaxes(title_text="token", row=2, col=1)
    return figure.update_layout(template=template(), legend=_LEGEND, **{**_SIZE, "height": 440})


def growth_map(
    lam: np.ndarray, beta: np.ndarray, growth: np.ndarray, boundaries: dict[str, Any], tokens: Any = None
) -> go.Figure:
    """Draw log10 of a growth factor, [len(beta), len(lam)], boundaries (lam, beta) as lines, and tokens as points.

    Colours are centred on no growth: red grows, blue shrinks.
    """
    figure = go.Figure()
    z = np.log10(growth)
    limit = float(np.nanmax(np.abs(z))) or 1.0
    bar = {"title": {"text": "log<sub>10</sub> growth"}, "thickness": 10, "outlinewidth": 0, "exponentformat": "power"}
    colors = {"zmin": -limit, "zmax": limit, "colorscale": list(DIVERGING), "colorbar": bar}
    figure.add_trace(go.Heatmap(x=lam, y=beta, z=z, **colors))
    if tokens is not None:
        marker = {"size": 3, "color": "black", "opacity": 0.35}
        figure.add_trace(go.Scatter(x=tokens[0], y=tokens[1], mode="markers", name="tokens", marker=marker))
    for (name, (x, y)), dash in zip(boundaries.items(), ("solid", "dash", "dot"), strict=False):
        figure.add_trace(
            go.Scatter(x=x, y=y, name=name, mode="lines", line={"color": "black", "width": 2, "dash": dash})
        )
    figure.update_xaxes(title_text="query feedback λ", range=[lam.min(), lam.max()], showgrid=False)
    figure.update_yaxes(title_text="write strength β", range=[beta.min(), beta.max()], showgrid=False)
    return figure.update_layout(template=template(), legend=_LEGEND, **{**_SIZE, "height": 460})
