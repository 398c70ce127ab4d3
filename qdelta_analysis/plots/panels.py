"""The explorer's panels: traces as data, so that a live figure and a saved one are drawn from the same arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ..view import View
from .theme import COLORS, DIVERGING, template

Traces = dict[str, dict[str, Any]]
Place = dict[str, Any]  # row and col of a panel
_TURN = np.linspace(0, 2 * np.pi, 121)
_CIRCLE = (np.cos(_TURN), np.sin(_TURN))
_WRITE = {"error_before": "before the write", "error_after": "after the write"}


def spectrum_traces(view: View, token: int) -> Traces:
    """Return x, y and hover texts for the singular values of S and the transition's spectrum at a token."""
    values = view.singular_values(token)
    still, moved = view.eigenvalues(token)
    norm = float(view.operator_norm[token])
    d = view.k.shape[1]
    return {
        "singular values": {"x": np.arange(1, len(values) + 1), "y": values},
        "unit circle": {"x": _CIRCLE[0], "y": _CIRCLE[1]},
        "operator norm": {"x": norm * _CIRCLE[0], "y": norm * _CIRCLE[1], "name": f"‖A‖ = {norm:.3f}"},
        "eigenvalues": {
            "x": np.array([still, moved]),
            "y": np.zeros(2),
            "text": [f"α = {still:.4f}, {d - 1} times", f"α(1 − βa) = {moved:.4f}"],
        },
    }


def time_traces(view: View) -> Traces:
    """Return x and y for the mixed error, the memory's norm and beta a over time."""
    time = np.arange(view.T)
    series = {name: getattr(view, name) for name in ("error_before", "error_after", "state_norm", "beta_alignment")}
    return {name: {"x": time, "y": y} for name, y in series.items()}


def spectrum_figure(view: View, token: int) -> go.Figure:
    """Draw the singular values of S and the transition's eigenvalues in the complex plane."""
    figure = make_subplots(cols=2, column_widths=[0.46, 0.54], horizontal_spacing=0.17)
    _add_spectrum(figure, spectrum_traces(view, token), {"row": 1, "col": 1}, {"row": 1, "col": 2})
    figure.update_layout(template=template(), width=560, height=300, margin={"l": 55, "r": 12, "t": 28, "b": 45})
    return figure


def time_figure(view: View, token: int) -> go.Figure:
    """Draw the mixed error, the memory's norm and beta a over time, with a line at the token."""
    figure = make_subplots(rows=3, shared_xaxes=True, vertical_spacing=0.06)
    _add_time(figure, view, token, [{"row": row, "col": 1} for row in (1, 2, 3)])
    figure.update_layout(template=template(), width=560, height=380, margin={"l": 65, "r": 12, "t": 12, "b": 45})
    return figure


def explorer_figure(view: View, token: int) -> go.Figure:
    """Draw every panel of the explorer in one figure, for files."""
    figure = make_subplots(
        rows=4,
        cols=3,
        specs=[[{}, {}, {}], *[[{"colspan": 3}, None, None]] * 3],
        column_widths=[0.36, 0.28, 0.36],
        horizontal_spacing=0.11,
    )
    for row, domain in enumerate(([0.6, 1.0], [0.37, 0.51], [0.185, 0.325], [0.0, 0.14]), start=1):
        figure.update_yaxes(domain=domain, row=row)
    S = view.state(token)
    limit = float(np.abs(S).max()) or 1.0
    figure.add_trace(
        go.Heatmap(
            z=S,
            zmin=-limit,
            zmax=limit,
            colorscale=list(DIVERGING),
        ),
        row=1,
        col=1,
    )
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
    _add_spectrum(figure, spectrum_traces(view, token), {"row": 1, "col": 2}, {"row": 1, "col": 3})
    _add_time(figure, view, token, [{"row": row, "col": 1} for row in (2, 3, 4)])
    figure.update_layout(template=template(), width=1000, height=800, margin={"l": 65, "r": 12, "t": 12, "b": 45})
    return figure


def log_if_wide(values: np.ndarray) -> str:
    """Return the axis type on which these non-negative values can be read: "log" from three decades up."""
    positive = values[values > 0]
    return "log" if len(positive) and positive.max() > 1e3 * np.median(positive) else "linear"


def _axes(figure: go.Figure, place: Place) -> Any:
    """Return the panel's pair of axes; plotly's own stub allows for subplots that have none."""
    return figure.get_subplot(**place)


def _add_spectrum(figure: go.Figure, traces: Traces, left: Place, right: Place) -> None:
    figure.add_trace(
        go.Scatter(
            **traces["singular values"],
            mode="lines+markers",
            marker={"size": 5, "color": COLORS["memory"]},
            line={"width": 1},
            showlegend=False,
            hovertemplate="σ<sub>%{x}</sub> = %{y:.4g}<extra></extra>",
        ),
        **left,
    )
    figure.update_xaxes(title_text="i", **left)
    figure.update_yaxes(title_text="singular value σ<sub>i</sub>(S)", rangemode="tozero", **left)
    line = {"hoverinfo": "skip", "mode": "lines"}
    figure.add_trace(
        go.Scatter(**traces["unit circle"], **line, name="unit circle", line={"color": COLORS["reference"]}), **right
    )
    figure.add_trace(
        go.Scatter(**traces["operator norm"], **line, line={"color": COLORS["norm"], "dash": "dash"}), **right
    )
    figure.add_trace(
        go.Scatter(
            **traces["eigenvalues"],
            mode="markers",
            name="eigenvalues of A",
            marker={"size": 10, "color": COLORS["eigenvalue"], "symbol": ["circle", "diamond"]},
            hovertemplate="%{text}<extra></extra>",
        ),
        **right,
    )
    figure.update_xaxes(title_text="Re", constrain="domain", **right)
    anchor = _axes(figure, right).xaxis.plotly_name.replace("xaxis", "x")
    figure.update_yaxes(title_text="Im", scaleanchor=anchor, **right)
    figure.update_layout(legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1.01, "yanchor": "bottom"})


def _add_time(figure: go.Figure, view: View, token: int, rows: list[Place]) -> None:
    traces = time_traces(view)
    errors, memory, alignment = rows
    dashes = {"error_before": "dot", "error_after": "solid"}
    for name, dash in dashes.items():
        line = {"color": COLORS[name], "width": 1, "dash": dash}
        figure.add_trace(go.Scatter(**traces[name], name=_WRITE[name], line=line, legend="legend2"), **errors)
    figure.add_trace(
        go.Scatter(**traces["state_norm"], name="‖S‖", line={"color": COLORS["memory"], "width": 1}, showlegend=False),
        **memory,
    )
    figure.add_trace(
        go.Scatter(
            **traces["beta_alignment"], name="βa", line={"color": COLORS["alignment"], "width": 1}, showlegend=False
        ),
        **alignment,
    )
    figure.add_hrect(y0=0, y1=2, fillcolor=COLORS["guaranteed"], line_width=0, **alignment)
    for row in rows:
        figure.add_vline(x=token, line={"color": COLORS["reference"], "width": 1}, **row)
    # Linear: after a perfect write the error is zero, which a logarithmic axis cannot show.
    figure.update_yaxes(title_text="‖v − Sx‖", rangemode="tozero", **errors)
    top = _axes(figure, errors).yaxis.domain[1]
    figure.update_layout(legend2={"orientation": "h", "x": 0.01, "xanchor": "left", "y": top, "yanchor": "top"})
    figure.update_yaxes(title_text="‖S‖<sub>F</sub>", type=log_if_wide(view.state_norm), **memory)
    figure.update_yaxes(title_text="βa", **alignment)
    figure.update_xaxes(title_text="token", **alignment)
    for row in rows:
        figure.update_xaxes(range=[0, max(1, view.T - 1)], showticklabels=row is alignment, **row)
