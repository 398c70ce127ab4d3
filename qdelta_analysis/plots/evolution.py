"""Pictures of memories that evolve side by side: states as a strip, and what is measured of them over time."""

from __future__ import annotations

import html
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from jaxtyping import Float

from .panels import extremes, log_if_wide
from .theme import COLORS, DIVERGING_STOPS, FONT_SIZE, SEQUENTIAL, template

Span = list[float]  # from, to
# Rows of `evolution_figure`, top to bottom: the y title, and its lines: variable, name, colour.
_ROWS: tuple[tuple[str, tuple[tuple[str, str, str], ...]], ...] = (
    ("index i", ()),
    ("effective<br>rank", (("effective_rank", "effective rank", "alignment"),)),
    ("‖S‖<sub>F</sub>", (("state_norm", "‖S‖", "memory_bound"),)),
    ("norm", (("key_retrieval", "v̂ = αSk", "memory"), ("query_prediction", "ô = αSq", "error_after"))),
    ("energy", (("key_energy", "v̂", "memory"), ("query_energy", "ô", "error_after"))),
    ("angle", (("angle", "∠(v̂, ô)", "norm"),)),
)
_NORM, _ENERGY, _ANGLE = 3, 4, 5  # of these rows
_SPECTRUM = "singular values"
_HEIGHTS = (1.3, 1.0, 1.0, 1.25, 1.25, 1.1)
_GAP = 0.022  # between panels, of their height together
# In pixels: columns are as wide, and as far apart, as the scrubber's maps that stand above them.
_COLUMN, _SIDE, MARGIN = 256, 12, 70
_TOP, _PANELS, _STATES = 55, 605, 320  # heights in pixels: above the panels, of them, and of the states above them
_MEANS = 129  # points of a running mean
_SNIPPET = 10  # characters under a tick
_SEPARATION = 2  # cells between the states of a strip


def strip_figure(evolved: xr.Dataset, tokens: Sequence[int]) -> go.Figure:
    """Draw the memories' states S [V, K] after some tokens: a row for each memory, a column for each token.

    evolved: what `evolution.evolve` returned, with these tokens among its snapshots. One colour scale for all.
    """
    S = evolved.state.sel(snapshot=list(tokens)).transpose("memory", "snapshot", "value", "key")
    z, places = _mosaic(S.values)
    limit = float(np.nanmax(np.abs(z))) or 1.0
    hover = "S[%{customdata[0]}, %{customdata[1]}] = %{z:.4g}<br>token %{customdata[2]}<extra></extra>"
    token = np.array([-1, *tokens])[places[..., 2] + 1]
    cells = np.concatenate([places[..., :2], token[..., None]], axis=-1).astype(np.int32)
    heat = go.Heatmap(z=z, coloraxis="coloraxis", customdata=cells, hovertemplate=hover, hoverongaps=False)
    figure = go.Figure(heat)
    V, K = (n + _SEPARATION for n in S.shape[2:])
    bare = {"showgrid": False, "ticks": "", "showline": False, "mirror": False, "ticklabelstandoff": 4}
    text = evolved.attrs.get("text", "")
    labels = [f"token {t}<br>{_written(text, t)}" if text else f"token {t}" for t in tokens]
    columns = [K * i + (K - _SEPARATION - 1) / 2 for i in range(len(tokens))]
    figure.update_xaxes(tickvals=columns, ticktext=labels, tickangle=0, **bare)
    rows = [V * i + (V - _SEPARATION - 1) / 2 for i in range(S.shape[0])]
    names = [str(name).replace(" ", "<br>", 1) if len(str(name)) > 8 else str(name) for name in S.memory.values]
    figure.update_yaxes(tickvals=rows, ticktext=names, autorange="reversed", **bare)
    figure.update_layout(template=template(), coloraxis=_diverging(limit), plot_bgcolor="white")
    width = 740
    height = 70 + (width - 150) * z.shape[0] / z.shape[1]
    return figure.update_layout(width=width, height=height, margin={"l": 75, "r": 12, "t": 10, "b": 50})


def evolution_figure(
    evolved: xr.Dataset,
    token: int | None = None,
    *,
    states: Float[np.ndarray, "M V K"] | None = None,
    stretches: int = 5000,
) -> go.Figure:
    """Draw what is measured of each memory over time, a column of panels for each.

    From the top: the singular values of S, relative to the largest; its effective rank and norm; norm, share of the
    memory's energy, and angle of v_hat = alpha S k and o_hat = alpha S q before the write. Rows share their y axes,
    and all panels their time.

    Thin lines are single tokens, thick ones running means; the dotted line is what a random direction reads, 1/K.

    evolved: what `evolution.evolve` returned. token: where a line marks the time. states: the memories after the
    token, to be drawn above. stretches: of more than twice as many tokens, the smallest and the largest value of each
    of so many are drawn.
    """
    figure = go.Figure()
    count, T, text = evolved.sizes["memory"], evolved.sizes["time"], evolved.attrs.get("text", "")
    rows, columns = _domains(count, states is not None)
    ticks = _time_ticks(T, text, max(2, 10 // count))
    for column in range(count):
        _add_memory(figure, evolved, column, rows, stretches)
        _add_time(figure, evolved, column, rows, columns[column], token)
        time = {"range": [0, max(1, T - 1)], "matches": None if column == 0 else "x", **ticks}
        figure.update_layout({_axis("x", column): time})
    figure.update_layout(template=template(), coloraxis=_sequential(rows[0]), **evolution_ranges(evolved))
    legend = {"orientation": "h", "x": 1, "xanchor": "right", "y": 1, "yanchor": "top", "yref": "container"}
    width = 2 * MARGIN + _COLUMN * count + _SIDE * (count - 1)
    figure.update_layout(legend=legend, width=width, margin={"l": MARGIN, "r": MARGIN, "t": _TOP, "b": 60})
    if states is not None:
        _add_states(figure, states, rows[0][1], columns)
    return figure.update_layout(height=_TOP + 60 + _PANELS + (_STATES if states is not None else 0))


def evolution_ranges(evolved: xr.Dataset) -> dict[str, Any]:
    """Return the range of each row's y axes, as layout properties: found once, not by the browser.

    A norm that spans more than three decades gets a logarithmic axis.
    """
    layout: dict[str, Any] = {}
    for row, (_, lines) in enumerate(_ROWS[1:_ANGLE], start=1):
        values = np.concatenate([evolved[name].values.ravel() for name, _, _ in lines])
        kind = log_if_wide(values[np.isfinite(values)])
        if kind == "log":
            powers = np.log10(values[values > 1e-12 * np.nanmax(values)])
            span = [float(np.floor(powers.min())), float(np.ceil(powers.max()))]
        else:
            span = [0.0, 1.04 * float(np.nanmax(values)) or 1.0]
        for column in range(evolved.sizes["memory"]):
            axis = _axis("y", column * len(_ROWS) + row)
            layout |= {f"{axis}.type": kind, f"{axis}.range": span}
    return layout


def evolution_traces(evolved: xr.Dataset, column: int, *, stretches: int = 5000) -> dict[str, dict[str, Any]]:
    """Return x, y (or z) and hover texts of one memory's traces in `evolution_figure`, under their `meta`."""
    memory, text = evolved.isel(memory=column), evolved.attrs.get("text", "")
    sigma = memory.singular_values
    largest = sigma.isel(rank=0)
    shape = sigma / largest.where(largest > 0, 1)
    heat = {"x": sigma.snapshot.values, "y": np.arange(1, sigma.sizes["rank"] + 1), "z": shape.values.T}
    found: dict[str, dict[str, Any]] = {f"{_SPECTRUM} {column}": heat}
    said = _quoted(text)
    for name in _variables():
        series = memory[name]
        if "time" in series.dims:
            kept = extremes(series.values, stretches)
            x, y = series.time.values[kept], series.values[kept]
        else:
            x, y = series.snapshot.values, series.values
        found[f"{name} {column}"] = {"x": x, "y": y} | ({"text": [said[t] for t in x]} if text else {})
        if f"{name}_mean" in memory:
            at = np.unique(np.linspace(0, memory.sizes["time"] - 1, _MEANS).astype(int))
            found[f"{name}_mean {column}"] = {"x": memory.time.values[at], "y": memory[f"{name}_mean"].values[at]}
    return found


def _add_memory(figure: go.Figure, evolved: xr.Dataset, column: int, rows: list[Span], stretches: int) -> None:
    """Add one memory's traces and y axes."""
    traces = evolution_traces(evolved, column, stretches=stretches)
    x = _name("x", column, 0)
    for row, ((title, lines), domain) in enumerate(zip(_ROWS, rows, strict=True)):
        y = _name("y", column, row)
        axis = {"domain": domain, "anchor": x, "nticks": 4, "showticklabels": column == 0, "ticks": "outside"}
        axis |= {"title": {"text": title}} if column == 0 else {"matches": _name("y", 0, row), "ticks": ""}
        if row == 0:
            hover = "σ<sub>%{y}</sub>/σ<sub>1</sub> = %{z:.4g}<br>token %{x}<extra></extra>"
            key = f"{_SPECTRUM} {column}"
            heat = go.Heatmap(**traces[key], meta=key, coloraxis="coloraxis", hovertemplate=hover, xaxis=x, yaxis=y)
            figure.add_trace(heat)
            axis |= {"autorange": "reversed", "showgrid": False}
        if row == _ANGLE:
            axis |= {"range": [0, 180], "tickvals": [0, 90, 180], "ticktext": ["0°", "90°", "180°"]}
        place: dict[str, Any] = {"mode": "lines", "xaxis": x, "yaxis": y}
        for name, label, color in lines:
            key, noisy = f"{name} {column}", f"{name}_mean {column}" in traces
            hover = f"{label}: %{{y:.4g}}<br>token %{{x}} %{{text}}<extra></extra>"
            style = {"line": {"color": COLORS[color], "width": 0.75 if noisy else 1.5}, "opacity": 0.45 if noisy else 1}
            line = go.Scatter(**traces[key], meta=key, **place, **style, hovertemplate=hover, showlegend=False)
            figure.add_trace(line)
        # After all of these, so that no token hides a mean.
        for name, label, color in lines:
            if (key := f"{name}_mean {column}") in traces:
                dash = "dot" if name.startswith("query") else "solid"  # told apart in greyscale too
                hover = f"{label}, mean over {evolved.attrs['window']}: %{{y:.4g}}<br>token %{{x}}<extra></extra>"
                style = {"line": {"color": COLORS[color], "width": 2, "dash": dash}, "hovertemplate": hover}
                legend = {"name": label, "showlegend": column == 0 and row == _NORM}
                figure.add_trace(go.Scatter(**traces[key], meta=key, **place, **style, **legend))
        figure.update_layout({_axis("y", column * len(_ROWS) + row): axis})


def _add_time(
    figure: go.Figure, evolved: xr.Dataset, column: int, rows: list[Span], domain: Span, token: int | None
) -> None:
    """Add one memory's time axis, its name above, what a random direction would read, and the line at the token."""
    x = _name("x", column, 0)
    below = {"domain": domain, "anchor": _name("y", column, len(_ROWS) - 1), "mirror": "all"}
    figure.update_layout({_axis("x", column): below})
    title = {"x": sum(domain) / 2, "xanchor": "center", "text": _escaped(str(evolved.memory.values[column]))}
    figure.add_annotation(**title, xref="paper", y=1, yshift=2, yanchor="bottom", yref="paper", showarrow=False)
    share = 1 / evolved.sizes["key"]
    level = {"xref": f"{x} domain", "x0": 0, "x1": 1, "yref": _name("y", column, _ENERGY), "y0": share, "y1": share}
    figure.add_shape(type="line", **level, line={"color": COLORS["memory_bound"], "width": 1, "dash": "dot"})
    if token is not None:
        span = {"xref": x, "x0": token, "x1": token, "yref": "paper", "y0": rows[-1][0], "y1": rows[0][1]}
        line = {"color": COLORS["reference"], "width": 1}
        figure.add_shape(type="line", name="token", **span, line=line)


def _add_states(figure: go.Figure, states: np.ndarray, top: float, columns: list[Span]) -> None:
    """Add the memories' states above all else, on one colour scale."""
    low = 1 - (1 - top) * _COLUMN / _STATES
    for column, (S, domain) in enumerate(zip(states, columns, strict=True)):
        x, y = len(columns) + column, len(columns) * len(_ROWS) + column
        hover = "S[%{y}, %{x}] = %{z:.4g}<extra></extra>"
        place = {"xaxis": f"x{x + 1}", "yaxis": f"y{y + 1}"}
        figure.add_trace(go.Heatmap(z=S, coloraxis="coloraxis2", hovertemplate=hover, **place))
        bare: dict[str, Any] = {"showgrid": False, "nticks": 4}
        across = {"domain": domain, "anchor": place["yaxis"], "title": {"text": "key"}, **bare}
        down = {"domain": [low, 1], "anchor": place["xaxis"], "autorange": "reversed", **bare}
        down |= {"title": {"text": "value"}} if column == 0 else {"showticklabels": False}
        figure.update_layout({_axis("x", x): across, _axis("y", y): down})
    colors = _diverging(float(np.abs(states).max()) or 1.0)
    colors["colorbar"] |= {"x": 1, "y": (low + 1) / 2, "len": 1 - low, "xpad": 6, "title": {"text": "S"}}
    figure.update_layout(coloraxis2=colors)


def _variables() -> list[str]:
    return [name for _, lines in _ROWS for name, _, _ in lines]


def _name(letter: str, column: int, row: int) -> str:
    """Return an axis as traces refer to it: x axes number the columns, y axes all panels."""
    number = column if letter == "x" else column * len(_ROWS) + row
    return letter if number == 0 else f"{letter}{number + 1}"


def _axis(letter: str, number: int) -> str:
    return f"{letter}axis" if number == 0 else f"{letter}axis{number + 1}"


def _domains(count: int, states: bool) -> tuple[list[Span], list[Span]]:
    """Return the rows' y domains from the top down, with room above for states, and the columns' x domains."""
    top = _PANELS / (_PANELS + _STATES) if states else 1.0
    unit, gap, rows, at = top * (1 - _GAP * (len(_HEIGHTS) - 1)) / sum(_HEIGHTS), _GAP * top, [], top
    for height in _HEIGHTS:
        rows.append([max(0.0, at - unit * height), at])
        at = rows[-1][0] - gap
    whole = _COLUMN * count + _SIDE * (count - 1)
    lefts = [i * (_COLUMN + _SIDE) for i in range(count)]
    return rows, [[left / whole, (left + _COLUMN) / whole] for left in lefts]


def _time_ticks(T: int, text: str, count: int) -> dict[str, Any]:
    """Return the ticks of a time axis, with what the tokens say below where they are text."""
    if not text:
        step = 10.0 ** np.floor(np.log10(max(1, T)))
        step = next(step / part for part in (1, 2, 5, 10) if 0.92 * T / (step / part) > count - 1)
        # None near the right end, where the next panel's begin.
        return {"title": {"text": "token"}, "tickvals": np.arange(0, 0.92 * T, max(1, step)), "tickformat": ","}
    at = [round(T * (i + 0.5) / count) for i in range(count)]
    labels = [f"{t}<br>{_escaped(_shown(text[t : t + _SNIPPET]))}" for t in at]
    small = {"size": FONT_SIZE - 2}
    return {"title": {"text": "token"}, "tickvals": at, "ticktext": labels, "tickangle": 0, "tickfont": small}


def _escaped(text: str) -> str:
    return html.escape(text, quote=False)


def _shown(text: str) -> str:
    return text.replace("\n", "⏎").replace("\t", "⇥")


@lru_cache(maxsize=8)
def _quoted(text: str) -> list[str]:
    """Return each token with what stands around it, the token in bold."""
    shown = _shown(text)
    around = lambda t: (shown[max(0, t - 8) : t], shown[t], shown[t + 1 : t + 9])
    return ["{}<b>{}</b>{}".format(*map(_escaped, around(t))) for t in range(len(shown))]


def _written(text: str, token: int) -> str:
    """Return the last characters up to a token, white space as spaces: a font for print has no signs for it."""
    return f"…{_escaped(' '.join(text[: token + 1][-_SNIPPET:].split()))}"


def _mosaic(S: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Join states [M, N, V, K] into one map with gaps of NaN; returns it with (value, key, n) of each cell, -1 in gaps.

    One picture in a file in place of many, each of which would be enlarged by itself.
    """
    M, N, V, K = S.shape
    cells = np.stack(np.meshgrid(np.arange(V), np.arange(K), indexing="ij"), axis=-1)
    rows, places = [], []
    for m in range(M):
        for n in range(N):
            ends = (_SEPARATION * (m < M - 1), _SEPARATION * (n < N - 1))
            pad = ((0, ends[0]), (0, ends[1]))
            rows.append(np.pad(S[m, n].astype(np.float64), pad, constant_values=np.nan))
            which = np.concatenate([cells, np.full((V, K, 1), n)], axis=-1)
            places.append(np.pad(which, (*pad, (0, 0)), constant_values=-1))
    join = lambda parts: np.concatenate([np.concatenate(parts[m * N : (m + 1) * N], axis=1) for m in range(M)], axis=0)
    return join(rows), join(places)


def _diverging(limit: float) -> dict[str, Any]:
    bar = {"thickness": 8, "outlinewidth": 0, "xpad": 4, "ticklen": 3, "nticks": 5}
    return {"cmin": -limit, "cmax": limit, "colorscale": DIVERGING_STOPS, "colorbar": bar}


def _sequential(row: Span) -> dict[str, Any]:
    low, high = row
    size = 0.82 * (high - low)  # its title stands above it
    place = {"x": 1, "y": low + size / 2, "len": size, "title": {"text": "σ<sub>i</sub>/σ<sub>1</sub>"}}
    bar = {"thickness": 8, "outlinewidth": 0, "xpad": 6, "ticklen": 3, "tickvals": [0, 0.5, 1]}
    return {"cmin": 0, "cmax": 1, "colorscale": SEQUENTIAL, "colorbar": bar | place}
