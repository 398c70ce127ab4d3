"""The explorer's panels: traces as data, so that a live figure and a saved one are drawn from the same arrays."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ..view import View
from .theme import COLORS, DIVERGING_STOPS, template

Traces = dict[str, dict[str, Any]]
Place = dict[str, Any]  # row and col of a panel
_TURN = np.linspace(0, 2 * np.pi, 73)
_CIRCLE = (np.cos(_TURN), np.sin(_TURN))
SIGMA, NORM, EIGENVALUES = "singular values", "operator norm", "eigenvalues"


def spectrum_traces(view: View, token: int) -> Traces:
    """Return x, y and hover texts for the singular values of S and the transition's spectrum at a token."""
    values = view.singular_values(token)
    still, moved = view.eigenvalues(token)
    norm = float(view.operator_norm[token])
    d = view.k.shape[1]
    return {
        SIGMA: {"x": np.arange(1, len(values) + 1), "y": values},
        NORM: {"x": norm * _CIRCLE[0], "y": norm * _CIRCLE[1], "text": f"‖A‖ = {norm:.4f}"},
        EIGENVALUES: {
            "x": np.array([still, moved]),
            "y": np.zeros(2),
            "text": [f"α = {still:.4f}, {d - 1} times", f"α(1 − βa) = {moved:.4f}"],
        },
    }


def time_traces(view: View) -> Traces:
    """Return x and y for the mixed error, the memory's norm and beta a over time.

    Of more than 512 tokens the extremes are kept: the smallest and the largest value of each of 256 stretches.
    """
    series = {name: getattr(view, name) for name in ("error_before", "error_after", "state_norm", "beta_alignment")}
    kept = {name: extremes(y) for name, y in series.items()}
    return {name: {"x": kept[name], "y": y[kept[name]]} for name, y in series.items()}


def extremes(y: np.ndarray, stretches: int = 256) -> np.ndarray:
    """Return where y [n] is smallest and largest in each of some stretches, ascending; all places of a short y."""
    if len(y) <= 2 * stretches:
        return np.arange(len(y))
    edges = np.linspace(0, len(y), stretches + 1).astype(int)
    found = ((a + y[a:b].argmin(), a + y[a:b].argmax()) for a, b in pairwise(edges))
    return np.unique(list(found))


def panels_figure(view: View, token: int) -> go.Figure:
    """Draw everything but the memory itself: singular values, eigenvalues, and the diagnostics over time.

    One figure for five panels: in a browser each further figure costs a redraw of its own.
    """
    figure = make_subplots(rows=1, cols=2, horizontal_spacing=0.17)
    # With these margins the upper panels are square, so that circles are round without a constraint to solve.
    figure.update_yaxes(domain=[0.66, 1.0])
    _add_spectrum(figure, view, token, {"row": 1, "col": 1}, {"row": 1, "col": 2})
    _add_time(figure, view, token, 3, ([0.4, 0.57], [0.2, 0.37], [0.0, 0.17]))
    figure.update_layout(template=template(), width=560, height=670, margin={"l": 65, "r": 12, "t": 28, "b": 45})
    return figure


def explorer_figure(view: View, token: int) -> go.Figure:
    """Draw every panel of the explorer in one figure, for files."""
    figure = make_subplots(rows=1, cols=3, column_widths=[0.36, 0.28, 0.36], horizontal_spacing=0.11)
    figure.update_yaxes(domain=[0.65, 1.0])
    S = view.state(token)
    limit = float(np.abs(S).max()) or 1.0
    colors = {"zmin": -limit, "zmax": limit, "colorscale": DIVERGING_STOPS}
    figure.add_trace(go.Heatmap(z=S, **colors), row=1, col=1)
    place = _axes(figure, {"row": 1, "col": 1})
    (_, right), (low, high) = place.xaxis.domain, place.yaxis.domain
    figure.data[0].colorbar = {
        "x": right,
        "xpad": 4,
        "y": (low + high) / 2,
        "len": high - low,
        "thickness": 8,
        "nticks": 5,
        "ticklen": 3,
        "exponentformat": "power",
        "outlinewidth": 0,
    }
    figure.update_xaxes(title_text=f"key dimension of S after token {token}", row=1, col=1)
    figure.update_yaxes(title_text="value dimension", autorange="reversed", row=1, col=1)
    _add_spectrum(figure, view, token, {"row": 1, "col": 2}, {"row": 1, "col": 3})
    plane = _axes(figure, {"row": 1, "col": 3})
    plane.yaxis.update(scaleanchor="x3", constrain="domain")  # circles are round, whatever the venue's proportions
    plane.xaxis.update(constrain="domain")
    figure.update_traces(name=f"‖A‖ = {view.operator_norm[token]:.3f}", selector={"meta": NORM})
    _add_time(figure, view, token, 4, ([0.4, 0.55], [0.2, 0.35], [0.0, 0.15]))
    figure.update_layout(template=template(), width=1000, height=800, margin={"l": 65, "r": 12, "t": 28, "b": 45})
    return figure


def value_ranges(view: View, token: int) -> dict[str, list[float]]:
    """Return the y ranges of the panels that show values, rounded outward so that they seldom change.

    Left to plotly, they would be found anew at every redraw, which takes it as long as drawing the lines.
    """
    alignment = view.beta_alignment
    norm = view.state_norm
    if log_if_wide(norm) == "log":
        powers = np.log10(norm[norm > 0])
        memory = [float(np.floor(powers.min())), float(np.ceil(powers.max()))]
    else:
        memory = [0.0, _above(norm.max())]
    return {
        SIGMA: [0.0, _above(view.singular_values(token)[0])],
        "errors": [0.0, _above(1.25 * view.error_before.max())],  # with room for the legend
        "state_norm": memory,
        "beta_alignment": [min(0.0, float(np.floor(alignment.min()))), max(2.0, float(np.ceil(alignment.max())))],
    }


def _above(value: float) -> float:
    """Return the next half of a power of ten's multiple above value: 1.2 -> 1.5, 37 -> 40."""
    if value <= 0:
        return 1.0
    step = 10.0 ** np.floor(np.log10(value)) / 2
    return float(step * np.ceil(1.02 * value / step))


def plane_range(view: View) -> list[float]:
    """Return the range of both axes of the complex plane, in steps of 0.25: it seldom changes, so nothing jumps."""
    factor = view.alpha * np.abs(1 - view.beta_alignment)
    reach = max(1.0, float(view.operator_norm.max()), float(factor.max()))
    limit = np.ceil(4.4 * reach) / 4
    return [-limit, limit]


def log_if_wide(values: np.ndarray) -> str:
    """Return the axis type on which these non-negative values can be read: "log" from three decades up."""
    positive = values[values > 0]
    return "log" if len(positive) and positive.max() > 1e3 * np.median(positive) else "linear"


def _axes(figure: go.Figure, place: Place) -> Any:
    """Return the panel's pair of axes; plotly's own stub allows for subplots that have none."""
    return figure.get_subplot(**place)


def _add(figure: go.Figure, key: str, values: dict[str, Any], place: Place, **style: Any) -> None:
    """Add a line or points under a key, by which a live figure finds them again."""
    figure.add_trace(go.Scatter(**values, meta=key, **style), **place)


def _add_spectrum(figure: go.Figure, view: View, token: int, left: Place, right: Place) -> None:
    traces = spectrum_traces(view, token)
    points = {"mode": "lines+markers", "marker": {"size": 5, "color": COLORS["memory"]}, "line": {"width": 1}}
    hover = "σ<sub>%{x}</sub> = %{y:.4g}<extra></extra>"
    _add(figure, SIGMA, traces[SIGMA], left, **points, showlegend=False, hovertemplate=hover)
    line = {"hoverinfo": "skip", "mode": "lines"}
    circle = {"x": _CIRCLE[0], "y": _CIRCLE[1]}
    _add(figure, "unit circle", circle, right, **line, name="unit circle", line={"color": COLORS["reference"]})
    norm = {"mode": "lines", "name": "‖A‖", "line": {"color": COLORS["norm"], "dash": "dash"}}
    _add(figure, NORM, traces[NORM], right, **norm, hovertemplate="%{text}<extra></extra>")
    marker = {"size": 10, "color": COLORS["eigenvalue"], "symbol": ["circle", "diamond"]}
    style = {"mode": "markers", "name": "eigenvalues of A", "marker": marker}
    _add(figure, EIGENVALUES, traces[EIGENVALUES], right, **style, hovertemplate="%{text}<extra></extra>")
    figure.update_xaxes(title_text="i", **left)
    span = value_ranges(view, token)[SIGMA]
    figure.update_yaxes(title_text="singular value σ<sub>i</sub>(S)", range=span, nticks=5, **left)
    span = plane_range(view)
    figure.update_xaxes(title_text="Re", range=span, **right)
    figure.update_yaxes(title_text="Im", range=span, **right)
    figure.update_layout(legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1.01, "yanchor": "bottom"})


def _add_time(figure: go.Figure, view: View, token: int, first: int, domains: Sequence[list[float]]) -> None:
    """Add three panels that share one time axis, the x axis number `first`: fewer axes are sooner drawn."""
    traces, ranges = time_traces(view), value_ranges(view, token)
    errors, memory, alignment = (f"y{first + row}" for row in range(3))
    time = f"x{first}"
    lines = [
        ("error_before", errors, "error_before", "error before the write", {"dash": "dot"}),
        ("error_after", errors, "error_after", "error after the write", {}),
        ("state_norm", memory, "memory", "‖S‖", {}),
        ("beta_alignment", alignment, "alignment", "βa", {}),
    ]
    for key, y, color, name, dash in lines:
        style = {"line": {"color": COLORS[color], "width": 1, **dash}, "name": name, "legend": "legend2"}
        _add(figure, key, traces[key], {}, **style, xaxis=time, yaxis=y, showlegend=y == errors)
    axes = {
        # Linear: after a perfect write the error is zero, which a logarithmic axis cannot show.
        errors: {"title": {"text": "‖v − Sx‖"}, "range": ranges["errors"]},
        memory: {
            "title": {"text": "‖S‖<sub>F</sub>"},
            "type": log_if_wide(view.state_norm),
            "range": ranges["state_norm"],
        },
        alignment: {"title": {"text": "βa"}, "range": ranges["beta_alignment"]},
    }
    layout: dict[str, Any] = {
        f"yaxis{first + row}": {"domain": domain, "anchor": time, "nticks": 4, **axes[name]}
        for row, (name, domain) in enumerate(zip(axes, domains, strict=True))
    }
    span = {"range": [0, max(1, view.T - 1)], "anchor": alignment, "mirror": "all"}
    layout[f"xaxis{first}"] = {"title": {"text": "token"}, **span}
    top = domains[0][1]
    legend = {"orientation": "h", "x": 0.01, "xanchor": "left", "y": top, "yanchor": "top"}
    figure.update_layout(**layout, legend2={**legend, "bgcolor": "rgba(0,0,0,0)"})
    band = {"xref": f"{time} domain", "x0": 0, "x1": 1, "yref": alignment, "y0": 0, "y1": 2, "layer": "below"}
    figure.add_shape(type="rect", fillcolor=COLORS["guaranteed"], line_width=0, **band)
    line = {"color": COLORS["reference"], "width": 1}
    figure.add_shape(type="line", xref=time, x0=token, x1=token, yref="paper", y0=0, y1=top, line=line)
