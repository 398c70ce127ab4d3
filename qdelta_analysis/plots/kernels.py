"""Pictures of the chunk form and its kernels: matrices, deviations, resources, throughput, traces at real scale."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from .theme import COLORS, DIVERGING_STOPS, spacing, styles, template

# What JupyterLab shows beside its file browser in a window of 1200 pixels.
_WIDTH = 740
_LEGEND = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"}
_MATRICES = {
    "decay": "decay D",
    "erase": "erase L",
    "inverse": "inverse T = (I + L)<sup>−1</sup>",
    "readout": "readout A",
}
# Below this a relative error is rounding; what is exactly zero would have no place on a logarithmic axis.
_ROUNDING = 1e-17
_FORMS = {
    "released": ("released form", COLORS["error_after"]),
    "recurrence": ("chunk form", COLORS["memory"]),
}
_CYCLE: list[str] = template().to_plotly_json()["layout"]["colorway"]
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star", "cross")
# Each lighter than the last, so that bars are told apart in greyscale too.
_BARS = ("memory", "error_after", "error_before", "marked")
_PATTERNS = ("", "/", "x", ".", "-")
_SERIES = {
    "operator_norm": ("‖A‖", COLORS["norm"]),
    "spectral_radius": ("ρ(A)", COLORS["eigenvalue"]),
    "beta_alignment": ("βa", COLORS["alignment"]),
    "error_before": ("‖v − Sx‖<br>before", COLORS["error_before"]),
    "error_after": ("‖v − Sx‖<br>after", COLORS["error_after"]),
    "state_norm": ("‖S‖<sub>F</sub>", COLORS["memory"]),
}
_BAR = {"thickness": 8, "outlinewidth": 0}


def chunk_figure(matrices: xr.Dataset) -> go.Figure:
    """Draw the matrices of one chunk of one head, each (i, j), 0 in the middle of the colours.

    D runs to 1, the others to 0.5 and beyond that in full colours; fixed, so that a colour keeps its meaning while
    gates move.
    """
    figure = make_subplots(rows=1, cols=4)
    domains = [[0.0, 0.195], [0.31, 0.505], [0.53, 0.725], [0.75, 0.945]]
    for column, (name, domain) in enumerate(zip(_MATRICES, domains, strict=True), start=1):
        m = matrices[name]
        hover = "token %{y} from token %{x}: %{z:.4f}<extra></extra>"
        colors = "coloraxis" if name == "decay" else "coloraxis2"
        heat = go.Heatmap(x=m.j, y=m.i, z=m.values, coloraxis=colors, hovertemplate=hover)
        figure.add_trace(heat, row=1, col=column)
        figure.update_xaxes(domain=domain, title_text="token j", nticks=4, showgrid=False, row=1, col=column)
        ticks = {"showticklabels": column <= 2, "nticks": 4, "showgrid": False}
        figure.update_yaxes(autorange="reversed", **ticks, row=1, col=column)
        title = {"text": _MATRICES[name], "x": sum(domain) / 2, "xanchor": "center", "showarrow": False}
        figure.add_annotation(**title, xref="paper", y=1.01, yanchor="bottom", yref="paper")
    figure.update_yaxes(title_text="token i", row=1, col=1)
    bars: dict[str, Any] = {f"coloraxis{n}": _colors(limit, x) for n, limit, x in (("", 1.0, 0.195), (2, 0.5, 0.945))}
    figure.update_layout(template=template(), dragmode=False, **bars)
    return figure.update_layout(width=_WIDTH, height=230, margin={"l": 60, "r": 12, "t": 35, "b": 50})


def deviation_figure(found: xr.Dataset) -> go.Figure:
    """Draw the deviation of both chunk forms from the recurrence over chunk size, and over lam.

    The axis is broken: above what a form gets wrong, below what is rounding.
    """
    exact, released = (found.deviation.sel(form=form) for form in ("recurrence", "released"))
    figure = make_subplots(rows=2, cols=2, shared_xaxes=True, shared_yaxes=True, vertical_spacing=0.04)
    panels = [("chunk_size", "lam", "λ", [0.0, 0.31]), ("lam", "chunk_size", "C", [0.5, 0.81])]
    for column, (along, by, sign, domain) in enumerate(panels, start=1):
        legend = "legend" if column == 1 else "legend2"
        x, lines = released[along].values, {}
        looks = styles(released.sizes[by], colors=_CYCLE, marks=_SYMBOLS)
        for value, (color, symbol) in zip(released[by].values, looks, strict=True):
            marker = {"symbol": symbol, "size": 7}
            style = {"marker": marker, "line": {"color": color, "width": 1.5}, "mode": "lines+markers"}
            lines[f"{sign} = {value:g}"] = (released.sel({by: value}).values, style)
        style = {"mode": "lines", "line": {"color": COLORS["reference"], "width": 5}, "opacity": 0.5}
        lines["chunk form"] = (exact.max(by).values, style)
        for row in (1, 2):
            for name, (y, style) in lines.items():
                shown = {"name": name, "legend": legend, "legendgroup": name, "showlegend": row == 1}
                figure.add_trace(_line(x, y, **style, **shown), row=row, col=column)
        figure.update_xaxes(domain=domain, col=column)
        title = {"text": "released form, at" if column == 1 else "in chunks of"}
        place = {"x": domain[1] + 0.01, "xanchor": "left", "y": 1, "yanchor": "top", "title": title}
        figure.update_layout({legend: place})
    sizes = released.chunk_size.values
    figure.update_xaxes(type="log", tickvals=sizes, ticktext=[f"{C}" for C in sizes], col=1)
    figure.update_xaxes(title_text="chunk size C", row=2, col=1)
    figure.update_xaxes(title_text="query feedback λ", row=2, col=2)
    _break_axis(figure, "‖o′ − o‖ / ‖o‖")
    figure.update_layout(template=template(), width=_WIDTH, height=400)
    return figure.update_layout(margin={"l": 65, "r": 12, "t": 12, "b": 50})


def token_deviation_figure(found: xr.Dataset) -> go.Figure:
    """Draw each form's deviation at each token, at one lam and chunk size, and say what it is over all of them."""
    figure, words = make_subplots(rows=2, cols=1, shared_xaxes=True), []
    for form, (name, color) in _FORMS.items():
        style = {"name": name, "legendgroup": name, "mode": "lines", "line": {"color": color, "width": 1.5}}
        for row in (1, 2):
            line = _line(found.time.values, found.by_token.sel(form=form).values, **style, showlegend=row == 1)
            figure.add_trace(line, row=row, col=1)
        words.append(f"{name} {float(found.deviation.sel(form=form)):.2g}")
    note = {"text": f"over all tokens: {', '.join(words)}", "xref": "paper", "yref": "paper", "showarrow": False}
    figure.add_annotation(**note, x=1, xanchor="right", y=1.02, yanchor="bottom")
    figure.update_xaxes(title_text="token t", row=2)
    _break_axis(figure, "‖o′<sub>t</sub> − o<sub>t</sub>‖ / ‖o<sub>t</sub>‖")
    figure.update_layout(template=template(), legend=_LEGEND, width=_WIDTH, height=360)
    return figure.update_layout(margin={"l": 65, "r": 12, "t": 40, "b": 50})


def launch_figure(needs: xr.Dataset) -> go.Figure:
    """Draw what each kernel of one row of the launch table takes of a chip's registers and shared memory."""
    figure = make_subplots(rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.06)
    labels = [_launch_label(needs.isel(launch=i)) for i in range(needs.sizes["launch"])]
    registers, shared = needs.registers.values, needs.shared.values / 1024
    spilled = [f", {n:.0f} bytes spilled" if n else "" for n in needs.spilled.values]
    panels = [
        (
            registers,
            [f"{n:.0f}{more}" for n, more in zip(registers, spilled, strict=True)],
            255,
            "registers<br>a thread",
        ),
        (shared, [f"{n:.0f}" for n in shared], needs.attrs["shared_limit"] / 1024, "shared memory<br>a program, KiB"),
    ]
    for column, (values, words, limit, title) in enumerate(panels, start=1):
        style = {
            "marker_color": COLORS["memory"],
            "textfont_color": "white",
            "insidetextanchor": "start",
            "textangle": 0,
        }
        bars = go.Bar(x=values, y=labels, orientation="h", text=words, textposition="inside", **style)
        figure.add_trace(bars, row=1, col=column)
        place: dict[str, Any] = {"row": 1, "col": column}
        line = {"color": COLORS["memory_bound"], "width": 1, "dash": "dot"}
        # It ends at the line, so that it stays within a narrow panel.
        said = {"text": f"limit {limit:.0f}", "y": 1, "xanchor": "right", "yanchor": "bottom"}
        figure.add_vline(x=limit, line=line, annotation=said, **place)
        figure.update_xaxes(title_text=title, range=[0, 1.06 * limit], nticks=4, tickangle=0, **place)
    figure.update_yaxes(autorange="reversed", showgrid=False, automargin=True)
    figure.update_layout(template=template(), showlegend=False, bargap=0.25, width=_WIDTH)
    figure.update_layout(height=90 + 43 * len(labels))
    return figure.update_layout(margin={"l": 10, "r": 12, "t": 25, "b": 65})


def throughput_figure(recorded: xr.Dataset) -> go.Figure:
    """Draw tokens times heads per second of each kernel at each shape, and the floor's: the most there could be."""
    figure = make_subplots(rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.06)
    labels = [_shape_label(recorded.isel(shape=i)) for i in range(recorded.sizes["shape"])]
    plain = [(color, "") for color in _BARS]
    looks = styles(recorded.sizes["kernel"], plain, colors=_BARS, marks=_PATTERNS)
    for column, name in enumerate(recorded["pass"].values, start=1):
        for kernel, (color, pattern) in zip(recorded.kernel.values, looks, strict=True):
            values = recorded.throughput.sel({"pass": name, "kernel": kernel}).values / 1e9
            if np.isnan(values).all():
                continue
            marker: dict[str, Any] = {"color": COLORS[color], "line": {"color": "#222222", "width": 0.5}}
            marker |= {"pattern": {"shape": pattern}} if pattern else {}
            style = {"name": kernel, "legendgroup": kernel, "showlegend": column == 1, "marker": marker}
            figure.add_trace(go.Bar(x=values, y=labels, orientation="h", **style), row=1, col=column)
        title = f"{name}, 10<sup>9</sup> tokens × heads / s"
        figure.update_xaxes(title_text=title, rangemode="tozero", row=1, col=column)
    marker = {"symbol": "line-ns", "size": 30, "line": {"color": COLORS["memory_bound"], "width": 2}}
    style = {"mode": "markers", "marker": marker, "name": "floor: one ideal fused kernel"}
    figure.add_trace(go.Scatter(x=recorded.floor.values / 1e9, y=labels, **style), row=1, col=1)
    figure.update_yaxes(autorange="reversed", showgrid=False, automargin=True)
    size = {"width": _WIDTH, "height": 160 + 62 * len(labels), "margin": {"l": 10, "r": 12, "t": 70, "b": 50}}
    legend = _LEGEND | {"title": {"text": f"on {recorded.attrs['device']}", "side": "top"}}
    return figure.update_layout(template=template(), legend=legend, bargap=0.2, **size)


def envelope_figure(envelopes: dict[str, xr.Dataset]) -> go.Figure:
    """Draw bands from the least to the largest value of each stretch of tokens, one panel for each diagnostic.

    Each band is drawn as steps with a line around it, so that the narrowest spike has a width on the screen.
    """
    figure = make_subplots(
        rows=len(envelopes), cols=1, shared_xaxes=True, vertical_spacing=spacing(0.03, len(envelopes))
    )
    for row, (name, band) in enumerate(envelopes.items(), start=1):
        label, color = _SERIES.get(name, (name, COLORS["memory"]))
        edges = np.stack([band["first"].values, band["last"].values + 1], axis=1).flatten()
        line = {"color": color, "width": 1}
        style: dict[str, Any] = {"mode": "lines", "line": line, "showlegend": False}
        for side, fill in (("low", None), ("high", "tonexty")):
            hover = f"{label.replace('<br>', ' ')}, {side}: %{{y:.5g}}<br>token %{{x}}<extra></extra>"
            trace = go.Scatter(x=edges, y=band[side].values.repeat(2), fill=fill, **style, hovertemplate=hover)
            figure.add_trace(trace, row=row, col=1)
        figure.update_yaxes(title_text=label, nticks=5, row=row, col=1)
    figure.update_xaxes(title_text="token", tickformat=",", row=len(envelopes), col=1)
    figure.update_layout(template=template(), width=_WIDTH, height=70 + 125 * len(envelopes))
    return figure.update_layout(margin={"l": 75, "r": 12, "t": 12, "b": 50})


def _break_axis(figure: go.Figure, title: str) -> None:
    """Show relative errors from 0.1 % up in the first row, and rounding in the second."""
    figure.update_yaxes(type="log", domain=[0.3, 1], range=[-3, 0.2], dtick=1, row=1)
    figure.update_yaxes(type="log", domain=[0, 0.26], range=[-17.2, -14.5], dtick=1, row=2)
    figure.update_yaxes(title_text=title, row=1, col=1)


def _line(x: np.ndarray, y: np.ndarray, **style: Any) -> go.Scatter:
    """Return a line on a logarithmic axis, where what is exactly zero is drawn at the bottom."""
    return go.Scatter(x=x, y=np.maximum(y, _ROUNDING), hovertemplate="%{y:.3g}", **style)


def _colors(limit: float, x: float) -> dict[str, Any]:
    ticks = {"tickvals": [-limit, 0, limit], "ticklen": 3, "xpad": 4}
    return {"cmin": -limit, "cmax": limit, "colorscale": DIVERGING_STOPS, "colorbar": _BAR | ticks | {"x": x}}


def _launch_label(launch: xr.Dataset) -> str:
    blocks = "".join(f", {name} {int(launch[name])}" for name in ("BK", "BV") if int(launch[name]))
    kernel, stages = str(launch.kernel.values).replace("_", " "), int(launch.stages)
    return f"{kernel}{blocks}<br>{int(launch.warps)} warps, {stages} stage{'s' if stages > 1 else ''}"


def _shape_label(shape: xr.Dataset) -> str:
    B, T, H, K, V = (int(shape[name]) for name in "BTHKV")
    return f"{B} × {T:,} tokens,<br>H {H}, K {K}, V {V}"
