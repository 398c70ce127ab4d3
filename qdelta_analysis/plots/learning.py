"""Pictures of experiments: what each variant reaches with its spread, and how its loss falls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from .theme import COLORS, DASHES, spacing, styles, template

# Each rule has a colour, a mark and a dash of its own; further variants go on through them.
_RULES = {
    "linear-attention": ("reference", "square", "dot"),
    "deltanet": ("error_before", "triangle-up", "dashdot"),
    "gated-deltanet": ("memory", "circle", "dash"),
    "q-delta": ("error_after", "diamond", "solid"),
}
_MORE = ("norm", "alignment", "memory_bound", "error_bound", "memory", "error_after", "error_before")
_MARKS: dict[str, str] = dict(zip(DASHES, ("x", "cross", "star", "triangle-down", "pentagon", "hexagram"), strict=True))
_LAYERS = (("memory", "solid"), ("error_after", "dash"), ("alignment", "dot"), ("norm", "dashdot"))


def scores_figure(
    found: pd.DataFrame, runs: pd.DataFrame, metric: str, *, chance: Mapping[str, float] | None = None
) -> go.Figure:
    """Draw mean ± standard deviation over seeds of one metric, and each seed as a small ring; a panel for each task.

    found, runs: what `experiments.summary` and `experiments.results` return, conditions in the order to be drawn in.
    chance: by task, what guessing reaches, as a dashed line. The rings tell seeds that mostly agree from seeds of which
    some have learnt the task and some have not, where a bar may reach beyond what is possible.
    """
    rows = found.loc[found["metric"] == metric]
    tasks = list(dict.fromkeys(rows["task"]))
    figure = make_subplots(
        rows=1, cols=len(tasks), shared_yaxes=True, horizontal_spacing=spacing(0.04, len(tasks)), subplot_titles=tasks
    )
    looks, named = _styles(rows["variant"]), set[str]()
    for column, task in enumerate(tasks, start=1):
        part = rows.loc[rows["task"] == task]
        conditions, variants = (list(dict.fromkeys(part[name])) for name in ("condition", "variant"))
        for number, variant in enumerate(variants):
            mine = part.loc[part["variant"] == variant].set_index("condition").loc[conditions]
            shift = 0.5 * ((number + 0.5) / len(variants) - 0.5)  # beside each other, so that no bar hides another
            seeds = runs.loc[(runs["task"] == task) & (runs["variant"] == variant) & (runs["metric"] == metric)]
            places = {condition: i + shift for i, condition in enumerate(conditions)}
            points = _points(mine, variant, looks[variant], places).update(showlegend=variant not in named)
            figure.add_trace(points, row=1, col=column)
            named.add(variant)
            aside = {condition: x + 0.22 / len(variants) for condition, x in places.items()}
            figure.add_trace(_rings(seeds, variant, looks[variant], aside), row=1, col=column)
        if chance is not None and task in chance:
            line = {"color": COLORS["reference"], "width": 1, "dash": "dash"}
            ends = {"x": [-0.5, len(conditions) - 0.5], "y": [chance[task]] * 2}
            guess = go.Scatter(**ends, line=line, mode="lines", name="guessing", showlegend="guessing" not in named)
            figure.add_trace(guess, row=1, col=column)
            named.add("guessing")
        figure.update_xaxes(
            tickvals=list(range(len(conditions))),
            ticktext=[_broken(c.removeprefix(f"{task}, ")) for c in conditions],
            range=[-0.5, len(conditions) - 0.5],
            showgrid=False,
            row=1,
            col=column,
        )
    figure.update_yaxes(title_text=metric, row=1, col=1)
    return _finished(figure)


def losses_figure(losses: pd.DataFrame, *, window: int = 5) -> go.Figure:
    """Draw the training loss of one task over tokens: by variant, the mean over seeds, and each seed as a thin line.

    losses: the columns variant, seed, tokens and loss; each seed's smoothed over `window` rows.
    """
    figure = go.Figure()
    looks = _styles(losses["variant"])
    for variant in dict.fromkeys(losses["variant"]):
        color, _, dash = looks[variant]
        runs = losses.loc[losses["variant"] == variant].pivot(index="tokens", columns="seed", values="loss")
        smooth = runs.rolling(window, min_periods=1).mean()
        style = {"mode": "lines", "showlegend": False, "hoverinfo": "skip", "legendgroup": variant, "opacity": 0.35}
        for seed in smooth:
            line = {"color": COLORS[color], "width": 1}
            figure.add_trace(go.Scatter(x=smooth.index, y=smooth[seed], line=line, **style))
        line = {"color": COLORS[color], "width": 2, "dash": dash}
        mean = smooth.mean(axis=1)
        figure.add_trace(go.Scatter(x=mean.index, y=mean, name=variant, line=line, legendgroup=variant))
    figure.update_xaxes(title_text="tokens read in training")
    figure.update_yaxes(title_text="training loss, nats per target", rangemode="tozero")
    return _finished(figure)


def _points(mine: pd.DataFrame, variant: str, look: tuple[str, str, str], places: Mapping[str, float]) -> go.Scatter:
    color, mark, _ = look
    return go.Scatter(
        x=[places[condition] for condition in mine.index],
        y=mine["mean"],
        error_y={"type": "data", "array": mine["sd"], "thickness": 1.5, "width": 4},
        mode="markers",
        marker={"color": COLORS[color], "symbol": mark, "size": 9},
        name=variant,
        legendgroup=variant,
        customdata=[[int(n)] for n in mine["seeds"]],
        hovertemplate="%{y:.4f}, %{customdata[0]} seeds",
    )


def _rings(seeds: pd.DataFrame, variant: str, look: tuple[str, str, str], places: Mapping[str, float]) -> go.Scatter:
    return go.Scatter(
        x=[places[condition] for condition in seeds["condition"]],
        y=seeds["value"],
        mode="markers",
        marker={"color": COLORS[look[0]], "symbol": "circle-open", "size": 5},
        legendgroup=variant,
        showlegend=False,
        customdata=[[int(seed)] for seed in seeds["seed"]],
        hovertemplate="%{y:.4f}, seed %{customdata[0]}<extra></extra>",
    )


def _styles(variants: Iterable[str]) -> dict[str, tuple[str, str, str]]:
    """Return colour, mark and dash of each variant; no two have the same colour and mark, or colour and dash."""
    known = [(color, dash) for color, _, dash in _RULES.values()]
    others = [name for name in dict.fromkeys(variants) if name not in _RULES]
    looks = styles(len(known) + len(others), known, colors=_MORE)[len(known) :]
    return _RULES | {name: (color, _MARKS[dash], dash) for name, (color, dash) in zip(others, looks, strict=True)}


def _broken(condition: str) -> str:
    broken = condition.replace(" in ", "<br>in ").replace(", ", ",<br>")
    return broken if "<br>" in broken else "<br>".join(broken.rsplit(" ", 1))


def _finished(figure: go.Figure) -> go.Figure:
    figure.update_annotations(font_size=12)
    legend = {"orientation": "h", "x": 0, "y": 1.1, "yanchor": "bottom"}
    margin = {"l": 65, "r": 12, "t": 70, "b": 60}
    return figure.update_layout(template=template(), legend=legend, width=640, height=380, margin=margin)


def watched_figure(watched: pd.DataFrame, marked: Mapping[str, float]) -> go.Figure:
    """Draw what each layer's memories did while a model trained, a panel for each quantity in `marked`.

    watched: the columns step, layer, name and value, as training logs them. marked: by name, a value to hold it
    against, as a dashed line, such as the paper's.
    """
    figure = make_subplots(
        rows=1, cols=len(marked), horizontal_spacing=spacing(0.1, len(marked)), subplot_titles=list(marked)
    )
    layers = sorted(watched["layer"].unique())
    looks, named = dict(zip(layers, styles(len(layers), _LAYERS), strict=True)), set[Any]()
    for column, (name, value) in enumerate(marked.items(), start=1):
        rows = watched.loc[watched["name"] == name]
        for layer, mine in rows.groupby("layer"):
            color, dash = looks[layer]
            line = {"color": COLORS[color], "width": 2, "dash": dash}
            drawn = go.Scatter(x=mine["step"], y=mine["value"], mode="lines", line=line, name=f"layer {layer}")
            figure.add_trace(drawn.update(showlegend=layer not in named, legendgroup=str(layer)), row=1, col=column)
            named.add(layer)
        line = {"color": COLORS["reference"], "width": 1, "dash": "dash"}
        ends = {"x": [watched["step"].min(), watched["step"].max()], "y": [value, value]}
        reference = go.Scatter(**ends, mode="lines", line=line, name="the paper's", showlegend=column == 1)
        figure.add_trace(reference, row=1, col=column)
        figure.update_xaxes(title_text="step", row=1, col=column)
    return _finished(figure)


def differences_figure(found: pd.DataFrame, metric: str) -> go.Figure:
    """Draw each variant's difference to Gated DeltaNet with its 95 % interval, a row each, a panel for each condition.

    found: what `experiments.summary` returns, of three conditions at most. An interval that keeps clear of the line at
    0 is a difference that the seeds agree on.
    """
    rows = found.loc[(found["metric"] == metric) & found["difference"].notna()]
    conditions = list(dict.fromkeys(rows["condition"]))
    variants = list(dict.fromkeys(rows["variant"]))
    figure = make_subplots(
        rows=1,
        cols=len(conditions),
        shared_yaxes=True,
        horizontal_spacing=spacing(0.04, len(conditions)),
        subplot_titles=conditions,
    )
    for column, condition in enumerate(conditions, start=1):
        part = rows.loc[rows["condition"] == condition]
        bars = {"type": "data", "array": part["high"] - part["difference"], "thickness": 1.5, "width": 4}
        bars |= {"arrayminus": part["difference"] - part["low"]}
        marks = {"mode": "markers", "marker": {"color": COLORS["memory"], "size": 8}, "showlegend": False}
        drawn = go.Scatter(x=part["difference"], y=part["variant"], error_x=bars, name=condition, **marks)
        figure.add_trace(drawn, row=1, col=column)
    zero = {"zeroline": True, "zerolinecolor": COLORS["reference"], "zerolinewidth": 2, "rangemode": "tozero"}
    figure.update_xaxes(title_text=f"{metric}, less Gated DeltaNet's", **zero)
    figure.update_yaxes(categoryorder="array", categoryarray=variants[::-1])
    figure = _finished(figure)
    return figure.update_layout(height=140 + 26 * len(variants), margin={"l": 190, "t": 40})
