"""Parity, which asks for a transition with a negative eigenvalue: small models of each rule, as in notebook 08."""

import plotly.graph_objects as go

from qdelta_analysis.learning import experiments
from qdelta_analysis.plots import scores_figure

VENUE, HEIGHT = "icml-column", 2.6
EXPERIMENT, TASK, METRIC = "states", "parity", "accuracy"


def caption() -> str:
    """Return the caption, with the numbers of the stored runs."""
    found = experiments.summary(experiments.shipped_runs(EXPERIMENT, TASK))
    found = found.set_index(["condition", "metric", "variant"])
    value = lambda tokens, variant: found.loc[(f"{TASK}, {tokens} tokens", METRIC, variant), "mean"]
    parts = [
        f"{name} {value(32, variant):.2f} and {value(64, variant):.2f}"
        for name, variant in (("Q-Delta", "q-delta"), ("Gated DeltaNet", "gated-deltanet"), ("DeltaNet", "deltanet"))
    ]
    return f"""Query feedback lets the transition's eigenvalue 1 − βa fall to −1 with β and λ below 1, which parity asks
for: share of right answers on 32 tokens, as trained, and on 64, of models of 49 thousand parameters trained from
nothing for 400 steps, equal in parameters (within 1 %) and tokens: {", ".join(parts)}. With β up to 2, which gives it
negative eigenvalues as well, Gated DeltaNet answers {value(32, "gated-deltanet, beta < 2"):.2f} and
{value(64, "gated-deltanet, beta < 2"):.2f}. Marks: mean over five seeds; bars: one standard deviation; rings: single
seeds; dashed: guessing. Of products of permutations (S₃), the same models learn nothing beyond short rows."""


def draw() -> tuple[go.Figure, dict]:
    """Return the figure and its parameters."""
    runs = experiments.shipped_runs(EXPERIMENT, TASK)
    chance = experiments.guessing(experiments.made(EXPERIMENT))
    figure = scores_figure(experiments.summary(runs), runs, METRIC, chance=chance)
    return figure, {
        "task": TASK,
        "metric": METRIC,
        "seeds": sorted(runs.seed.unique().tolist()),
        "tokens": int(runs.tokens.iloc[0]),
        "parameters": runs.groupby("variant").parameters.first().to_dict(),
    }


CAPTION = caption()
