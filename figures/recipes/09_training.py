"""What small language models reach in training, as in notebook 08."""

import plotly.graph_objects as go

from qdelta_analysis.learning import experiments
from qdelta_analysis.plots import scores_figure

VENUE, HEIGHT = "icml-column", 2.2
NAMES = {"q-delta": "Q-Delta", "deltanet": "DeltaNet", "linear-attention": "linear attention"}
TASK, METRIC = "lm", "bits per byte"


def _caption() -> str:
    """Say what the stored runs found, whatever it is."""
    runs = experiments.shipped_runs(TASK)
    found = experiments.summary(runs)
    first = found[(found.metric == METRIC) & (found.condition == found.condition.iloc[0])].set_index("variant")
    signed = lambda x: f"{x:+.3f}".replace("-", "−")
    against = ", ".join(
        f"{name} {signed(row.difference)} ({signed(row.low)} to {signed(row.high)})"
        for name, row in zip(NAMES.values(), first.loc[list(NAMES)].itertuples(), strict=True)
    )
    return f"""Held-out bits per byte (less is better) of byte-level language models of
    {round(first.parameters.iloc[0], -3) // 1000} thousand parameters, equal within 1 %, after {runs.tokens.iloc[0]:,}
    bytes of CPython's language reference, in windows as long as in training (256) and twice as long. Marks: mean over
    {runs.seed.nunique()} seeds; bars: one standard deviation; rings: single seeds. Difference to Gated DeltaNet in
    windows of 256, paired by seed, with its 95 % interval: {against}."""


CAPTION = _caption()


def draw() -> tuple[go.Figure, dict]:
    """Return the figure and its parameters."""
    runs = experiments.shipped_runs(TASK)
    figure = scores_figure(experiments.summary(runs), runs, METRIC)
    sizes = runs.groupby("variant").parameters.first().to_dict()
    seeds = sorted(runs.seed.unique().tolist())
    return figure, {"task": TASK, "metric": METRIC, "seeds": seeds, "tokens": int(runs.tokens.iloc[0]), "sizes": sizes}
