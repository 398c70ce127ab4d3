"""What small models reach on key-value recall, as in notebook 08."""

import plotly.graph_objects as go

from qdelta_analysis.learning import experiments
from qdelta_analysis.plots import scores_figure

VENUE, HEIGHT = "icml-page", 2.4
TASK, METRIC = "mqar", "accuracy"


def _caption() -> str:
    """Say what the stored runs found, whatever it is."""
    runs, note = experiments.shipped_runs(TASK), experiments.made(TASK)
    assert note is not None
    task = note["tasks"][TASK]
    found = experiments.summary(runs)
    most = f"{task['pairs'][-1]} pairs in {task['length']} tokens"
    ours = found.set_index(["condition", "metric", "variant"]).loc[most, METRIC, "q-delta"]
    signed = lambda x: f"{x:+.2f}".replace("-", "−")
    fewer = ", ".join(map(str, task["pairs"][:-1]))
    rates = {float(rate) for by_variant in note["learning_rates"].values() for rate in next(iter(by_variant.values()))}
    return f"""Key-value recall (MQAR) of models of {round(ours.parameters, -3) // 1000} thousand parameters trained
    from nothing for {note["training"]["steps"]:,} steps, equal in parameters (within 1 %) and tokens: the share of
    right answers after {fewer} and {task["pairs"][-1]} pairs in {task["length"]} tokens, as trained, and in
    {task["tested"][-1]}. Each rule at the learning rate, of {", ".join(f"{rate:g}" for rate in sorted(rates))}, with
    the least training loss. Marks: mean over {runs.seed.nunique()} seeds; bars: one standard deviation; rings: single
    seeds, of which the low ones had not learnt the task by then; dashed: guessing among {task["values"]} values. After
    {most} Q-Delta differs from Gated DeltaNet by {signed(ours.difference)} ({signed(ours.low)} to {signed(ours.high)},
    95 % interval, paired by seed)."""


CAPTION = _caption()


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
        "learning_rates": runs.groupby("variant").learning_rate.first().to_dict(),
    }
