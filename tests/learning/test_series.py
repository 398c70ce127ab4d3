"""Figures draw all that they are given, however much it is: told apart, or refused in a sentence."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
import xarray as xr

from qdelta_analysis import plots
from qdelta_analysis.learning.experiments import summary
from qdelta_analysis.plots.learning import losses_figure, scores_figure, watched_figure
from qdelta_analysis.plots.theme import styles

VARIANTS = ["gated-deltanet", "q-delta", *(f"variant {i}" for i in range(10))]


def runs(of: dict[str, list[str]]) -> pd.DataFrame:
    """Runs of some variants for each task, two seeds each."""
    rows = [
        {"task": task, "condition": "short", "metric": "accuracy", "variant": v, "seed": s, "value": 0.5 + s / 10}
        for task, variants in of.items() for v in variants for s in (0, 1)
    ]  # fmt: skip
    return pd.DataFrame(rows).assign(tokens=1, parameters=1, learning_rate=0.01)


def scores(of: dict[str, list[str]]) -> go.Figure:
    found = runs(of)
    return scores_figure(summary(found), found, "accuracy", chance={"b": 0.25})


def many(n: int) -> dict[str, np.ndarray]:
    return {f"line {i}": np.linspace(1, 2 + i, 8) for i in range(n)}


def influences(n: int) -> go.Figure:
    M = np.tril(np.random.default_rng(0).normal(size=(8, 8)))
    return plots.influence_figure({f"line {i}": M for i in range(n)}, slice(0, 8))


def losses(n: int) -> go.Figure:
    rows = [{"variant": f"line {i}", "seed": 0, "tokens": t, "loss": t + i} for i in range(n) for t in (1, 2)]
    return losses_figure(pd.DataFrame(rows))


def watched(n: int) -> go.Figure:
    rows = [
        {"step": step, "layer": layer, "name": name, "value": 1.0}
        for layer in range(n) for name in ("a", "b") if layer or name == "b" for step in (0, 1)
    ]  # fmt: skip
    return watched_figure(pd.DataFrame(rows), {"a": 0.1, "b": 0.2})


def throughput(n: int) -> go.Figure:
    shapes = {name: ("shape", [1, 2]) for name in "BTHKV"}
    values = np.arange(1.0, 4 * n + 1).reshape(n, 2, 2)
    return plots.throughput_figure(
        xr.Dataset(
            {"throughput": (("kernel", "pass", "shape"), values), "floor": ("shape", [1.0, 2.0]), **shapes},
            {"kernel": [f"line {i}" for i in range(n)], "pass": ["forward", "both"]},
            {"device": "a chip"},
        )
    )


FIGURES = {
    "contraction_and_memory": lambda n: plots.contraction_and_memory(np.ones(8), many(n)),
    "sources_figure": lambda n: plots.sources_figure(many(n), list("abcdefgh")),
    "over_lam_figure": lambda n: plots.over_lam_figure(np.arange(8), many(n), "y"),
    "influence_figure": influences,
    "losses_figure": losses,
    "scores_figure": lambda n: scores({"a": ["gated-deltanet", *(f"line {i}" for i in range(n))]}),
    "watched_figure": watched,
    "throughput_figure": throughput,
}


def look(trace) -> tuple:
    """What tells a trace from another: colour, and dash, symbol or pattern."""
    if trace.type == "bar":
        return trace.marker.color, trace.marker.pattern.shape
    lines = "lines" in (trace.mode or "lines")
    return (trace.line.color, trace.line.dash) if lines else (trace.marker.color, trace.marker.symbol)


@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES)
@pytest.mark.parametrize("n", [1, 4, 6, 12, 20])
def test_every_series_is_drawn_named_once_and_told_apart(draw, n):
    found = [t for t in draw(n).data if t.type in ("scatter", "bar") and (t.name or "").startswith(("line", "layer"))]
    names = {t.name for t in found}
    assert len(names) == n
    assert sorted(t.name for t in found if t.showlegend is not False) == sorted(names)
    looks = {name: {look(t) for t in found if t.name == name} for name in names}
    assert all(len(one) == 1 for one in looks.values())
    for a, b in itertools.combinations(names, 2):
        assert looks[a] != looks[b], (a, b)


@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES)
def test_more_than_can_be_told_apart_are_refused(draw, as_users_call):
    with pytest.raises(
        ValueError, match=r"\d+ series are to be drawn; expected at most \d+, all that can be told apart"
    ):
        draw(60)


def test_a_series_of_a_later_panel_only_is_named_and_keeps_its_look():
    figure = scores({"a": VARIANTS[:3], "b": [VARIANTS[5], VARIANTS[2], VARIANTS[0]]})
    means = [t for t in figure.data if t.error_y.array is not None]
    assert {t.name for t in means if t.showlegend} == {*VARIANTS[:3], VARIANTS[5]}
    assert len({look(t) for t in means if t.name == VARIANTS[2]}) == 1
    assert [t.showlegend for t in figure.data if t.name == "guessing"] == [True]


def test_styles_are_all_different_and_neighbours_differ_in_both():
    found = styles(42)
    assert len(set(found)) == 42
    assert all(a != c and b != d for (a, b), (c, d) in itertools.pairwise(found))
    with pytest.raises(ValueError, match="43 series are to be drawn; expected at most 42"):
        styles(43)
