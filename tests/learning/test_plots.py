"""Pictures of experiments: they show the numbers they are given, and every seed."""

from __future__ import annotations

import numpy as np
import pandas as pd

from qdelta_analysis.learning.experiments import summary
from qdelta_analysis.plots.learning import differences_figure, losses_figure, scores_figure, watched_figure

VALUES = {"gated-deltanet": [0.2, 0.4], "q-delta": [0.5, 0.9], "q-delta, lam = 1": [0.3, 0.3]}
RUNS = pd.DataFrame(
    {"task": task, "condition": c, "metric": "accuracy", "variant": v, "seed": s, "value": x}
    | {"tokens": 1, "parameters": 1, "learning_rate": 0.01}
    for task in ("a", "b")
    for c in ("short", "long")
    for v, xs in VALUES.items()
    for s, x in enumerate(xs)
)  # fmt: skip


def test_scores_show_mean_spread_seeds_and_guessing():
    figure = scores_figure(summary(RUNS), RUNS, "accuracy", chance={"a": 0.25})
    means = [t for t in figure.data if t.error_y.array is not None]
    assert [t.name for t in means] == [*VALUES, *VALUES]
    for trace, values in zip(means, [*VALUES.values(), *VALUES.values()], strict=True):
        np.testing.assert_allclose(trace.y, [np.mean(values)] * 2)
        np.testing.assert_allclose(trace.error_y.array, [np.std(values, ddof=1)] * 2)
    rings = [t for t in figure.data if t.marker.symbol == "circle-open"]
    assert sorted(y for t in rings for y in t.y) == sorted(4 * [x for xs in VALUES.values() for x in xs])
    assert [t.y[0] for t in figure.data if t.name == "guessing"] == [0.25]
    assert len({x for t in means[:3] for x in t.x}) == 6  # no point hides another


def test_losses_show_the_mean_and_every_seed():
    tokens = np.arange(1, 11) * 100
    losses = pd.DataFrame(
        {"variant": "q-delta", "seed": s, "tokens": n, "loss": s + n / 100} for s in (0, 1) for n in tokens
    )
    figure = losses_figure(losses, window=1)
    (mean,) = (t for t in figure.data if t.name == "q-delta")
    np.testing.assert_allclose(mean.y, tokens / 100 + 0.5)
    np.testing.assert_array_equal(mean.x, tokens)
    assert len(figure.data) == 3


def test_differences_show_the_interval_of_every_variant_but_the_baseline():
    found = summary(RUNS).query("task == 'a'")
    figure = differences_figure(found, "accuracy")
    short, long = figure.data
    assert (short.name, long.name) == ("short", "long")
    assert list(short.y) == ["q-delta", "q-delta, lam = 1"]
    expected = found.query("condition == 'short'").set_index("variant").loc[list(short.y)]
    np.testing.assert_allclose(short.x, expected.difference)
    np.testing.assert_allclose(short.x + short.error_x.array, expected.high)
    np.testing.assert_allclose(short.x - short.error_x.arrayminus, expected.low)


def test_watched_numbers_stand_beside_the_paper_s():
    watched = pd.DataFrame(
        {"step": step, "layer": layer, "name": name, "value": layer + step}
        for step in (0, 4) for layer in (0, 1) for name in ("beta_a", "cosine", "lam")
    )  # fmt: skip
    figure = watched_figure(watched, {"beta_a": 0.043, "cosine": 0.07})
    assert [t.name for t in figure.data] == ["layer 0", "layer 1", "the paper's"] * 2
    assert [tuple(t.y) for t in figure.data[:3]] == [(0, 4), (1, 5), (0.043, 0.043)]
