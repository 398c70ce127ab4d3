"""Pictures of the guarantees: one step's norm, the error against its bound, the memory, and the map of growth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ..stability import StabilityMap
from ..transition import Transition
from .theme import COLORS, DIVERGING_STOPS, spacing, styles, template

Traces = dict[str, dict[str, Any]]

_SIZE = {"width": 640, "height": 360, "margin": {"l": 65, "r": 12, "t": 40, "b": 50}}
_AXES = {"beta": "write strength β", "cos": "cos(q, k)"}
# What concerns the error is green, what concerns the memory black.
_BOUNDARIES = {
    "G4": ("βa = 0, 2 (G4)", COLORS["error_bound"], "dash"),
    "G6": ("β, λ = 1 (G6)", COLORS["error_bound"], "solid"),
    "G9": ("γ = 1 (G8, G9)", COLORS["memory_bound"], "solid"),
    "G10": ("β* (G10)", COLORS["memory_bound"], "dot"),
}
_MARKED = {"size": 12, "color": COLORS["marked"], "line": {"color": "black", "width": 2}}
_LEGEND = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"}


def norm_against_lam(t: Transition) -> go.Figure:
    """Draw ||A||, the spectral radius, the moving eigenvalue and the norm's envelope over t.lam, [n]."""
    figure = go.Figure()
    lines = {
        "‖A‖": (t.operator_norm(), {"color": COLORS["norm"], "width": 2}),
        "ρ(A)": (t.spectral_radius(), {"color": COLORS["memory"], "width": 2, "dash": "dash"}),
        "α(1 − βa)": (t.eigenvalues()[..., -1], {"color": COLORS["eigenvalue"], "width": 2, "dash": "dot"}),
        "α√(1 + λ²)": (t.norm_envelope(), {"color": COLORS["reference"], "width": 1, "dash": "dashdot"}),
    }
    for name, (y, line) in lines.items():
        figure.add_trace(go.Scatter(x=t.lam, y=y, name=name, line=line))
    figure.update_xaxes(title_text="query feedback λ")
    figure.update_yaxes(title_text="norm, eigenvalues")
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
    looks = styles(
        len(memories), [("memory", "solid"), ("alignment", "dash"), ("norm", "dot"), ("reference", "dashdot")]
    )
    for (name, norm), (color, dash) in zip(memories.items(), looks, strict=True):
        line = {"color": COLORS[color], "width": 2, "dash": dash}
        figure.add_trace(go.Scatter(x=np.arange(len(norm)), y=norm, name=name, line=line), row=2, col=1)
    figure.update_yaxes(title_text="|1 − βa|", range=[-0.05, 1.05], row=1, col=1)
    figure.update_yaxes(title_text="‖S‖<sub>F</sub>", type="log", row=2, col=1)
    figure.update_xaxes(title_text="token", row=2, col=1)
    return figure.update_layout(template=template(), legend=_LEGEND, **{**_SIZE, "height": 440})


def stability_figure(
    maps: Sequence[StabilityMap], tokens: dict[str, np.ndarray] | None = None, token: int | None = None
) -> go.Figure:
    """Draw maps of one step's growth side by side, the claims' boundaries, and tokens as points, one of them marked.

    Colours are centred on no growth: red grows, blue shrinks. tokens: "lam", "beta" and "cos", [n] each.
    """
    figure = make_subplots(
        rows=1, cols=len(maps), horizontal_spacing=spacing(0.15, len(maps)), subplot_titles=map_titles(maps)
    )
    for column, m in enumerate(maps, start=1):
        place: dict[str, Any] = {"row": 1, "col": column}
        for key, values in map_traces(m).items():
            figure.add_trace(_drawn(key, values, first=column == 1), **place)
        if tokens is not None:
            figure.add_trace(_points(m, tokens), **place)
        if tokens is not None and token is not None:
            for key, values in token_traces([m], tokens, token).items():
                style = {"mode": "markers", "marker": _MARKED, "hoverinfo": "skip", "showlegend": False}
                figure.add_trace(go.Scatter(**values, **style, meta=key), **place)
        figure.update_xaxes(title_text="query feedback λ", range=[0, 2], nticks=5, showgrid=False, **place)
        low, high = (0, 2) if m.over == "beta" else (-1, 1)
        figure.update_yaxes(title_text=_AXES[m.over], range=[low, high], nticks=5, showgrid=False, **place)
    figure.update_annotations(font_size=12)
    size: dict[str, Any] = (
        {"width": 480, "height": 400} if len(maps) == 1 else {"width": 60 + 250 * len(maps), "height": 330}
    )
    legend = {"orientation": "h", "x": -0.1, "xanchor": "left", "y": 1.12, "yanchor": "bottom"}
    figure.update_layout(template=template(), **size, margin={"l": 60, "r": 12, "t": 50, "b": 98})
    figure.update_layout(dragmode=False)  # a click goes to a token, so a drag may not zoom
    return figure.update_layout(legend=legend, coloraxis=growth_colors(maps[0]))


def map_traces(m: StabilityMap) -> Traces:
    """Return x, y and z for a map's growth, and x and y for its boundaries."""
    lines = {f"{m.over} {claim}": {"x": x, "y": y} for claim, (x, y) in m.boundaries.items()}
    return {f"{m.over} growth": {"x": m.lam, "y": m.y, "z": m.growth.astype(np.float32)}, **lines}


def token_traces(maps: Sequence[StabilityMap], tokens: dict[str, np.ndarray], token: int) -> Traces:
    """Return x and y for the marked token in each map."""
    at = slice(token, token + 1)
    return {f"{m.over} token": {"x": tokens["lam"][at], "y": tokens[m.over][at]} for m in maps}


def map_titles(maps: Sequence[StabilityMap]) -> list[str]:
    """Return each map's title: what is fixed in it."""
    fixed = {"beta": "cos(q, k)", "cos": "β"}
    # Not "-0" for what rounds to zero.
    return [f"at {fixed[m.over]} = {round(m.at, 3) + 0:g}, α = {round(m.alpha, 4):g}" for m in maps]


def growth_colors(m: StabilityMap) -> dict[str, Any]:
    """Return the colour axis for a quantity: from half to double for a norm, and e^(-1/d) to e^(1/d) in mean square.

    Beyond that, colours are full; fixed ranges, so that a colour keeps its meaning while gates move.
    """
    what, limit = {
        "norm": ("‖A‖, the most that this step can expand a memory", np.log(2)),
        "mean square": (f"growth of a typical memory in mean square, d = {m.d}", 1 / m.d),
    }[m.quantity]
    ticks = [step * float(limit) for step in (-1, -0.5, 0, 0.5, 1)]
    bar = {
        "title": {"text": what, "side": "top"},
        "orientation": "h",
        "x": 0.5,
        "len": 0.8,
        "y": -0.25,
        "yanchor": "top",
        "thickness": 8,
        "outlinewidth": 0,
        "tickvals": ticks,
        "ticktext": [f"×{np.exp(tick):.3g}" for tick in ticks],
    }
    return {"cmin": ticks[0], "cmax": ticks[-1], "colorscale": DIVERGING_STOPS, "colorbar": bar}


def _drawn(key: str, values: dict[str, Any], first: bool) -> Any:
    over, what = key.split()
    if what == "growth":
        name = "β" if over == "beta" else "cos(q, k)"
        hover = f"λ = %{{x:.3f}}, {name} = %{{y:.3f}}<br>%{{z:.4f}} nats a step<extra></extra>"
        return go.Heatmap(**values, meta=key, coloraxis="coloraxis", hovertemplate=hover)
    name, color, dash = _BOUNDARIES[what]
    line = {"color": color, "width": 2, "dash": dash}
    style = {"mode": "lines", "line": line, "name": name, "legendgroup": what, "hoverinfo": "skip"}
    return go.Scatter(**values, **style, meta=key, showlegend=first)


def _points(m: StabilityMap, tokens: dict[str, np.ndarray]) -> go.Scatter:
    hover = "token %{pointNumber}: λ = %{x:.3f}, " + ("β" if m.over == "beta" else "cos(q, k)") + " = %{y:.3f}"
    return go.Scatter(
        x=tokens["lam"],
        y=tokens[m.over],
        mode="markers",
        marker={"size": 4, "color": "black", "opacity": 0.3},
        meta=f"{m.over} tokens",
        hovertemplate=hover + "<extra></extra>",
        showlegend=False,
    )
