"""What small models reach on key-value recall, as in notebook 08."""

import plotly.graph_objects as go

from qdelta_analysis.learning import experiments
from qdelta_analysis.plots import scores_figure

VENUE, HEIGHT = "icml-page", 2.4
CAPTION = """Key-value recall (MQAR) of models of 56 thousand parameters trained from nothing for 800 steps, equal in
parameters (within 1 %) and tokens: the share of right answers after 2, 4 and 8 pairs in 32 tokens, as trained, and in
64. Marks: mean over three seeds; bars: one standard deviation; rings: single seeds; dashed: guessing among 24 values.
One seed of three has not learned the harder tasks with Gated DeltaNet and with Q-Delta, whose difference is within the
spread between seeds; linear attention learns this small task most reliably."""
TASK, METRIC = "mqar", "accuracy"


def draw() -> tuple[go.Figure, dict]:
    """Return the figure and its parameters."""
    runs = experiments.shipped_runs(TASK)
    chance = experiments.guessing(experiments.made(TASK))
    figure = scores_figure(experiments.summary(runs), runs, METRIC, chance=chance)
    sizes = runs.groupby("variant").parameters.first().to_dict()
    return figure, {
        "task": TASK,
        "metric": METRIC,
        "seeds": sorted(runs.seed.unique().tolist()),
        "tokens": int(runs.tokens.iloc[0]),
        "parameters": sizes,
    }
