"""The memory of a trained head over time under three rules, as in notebook 04."""

import plotly.graph_objects as go

from qdelta_analysis import evolution, load_trained
from qdelta_analysis.plots import strip_figure

VENUE, HEIGHT = "icml-column", 2.6
CAPTION = """The memory S [value, key] of a trained head (layer 0, head 2) while it reads held-out text, under three
rules on the same tokens: DeltaNet (λ = 0, no decay), Gated DeltaNet (λ = 0) and Q-Delta, with the λ and the decay that
the model learned; below each column, the last bytes read. Without decay the memory keeps filling up: after 1024 tokens
DeltaNet's differs from Gated DeltaNet's by 98 % of its norm, Q-Delta's by 11 %."""
PARAMETERS = {"source": "trained", "layer": 0, "head": 2, "tokens": [15, 127, 1023]}


def draw() -> tuple[go.Figure, dict]:
    """Return the figure and its parameters."""
    inputs = load_trained()[PARAMETERS["layer"]].heads(PARAMETERS["head"])
    evolved = evolution.evolve(evolution.rules(inputs), snapshots=PARAMETERS["tokens"])
    return strip_figure(evolved, PARAMETERS["tokens"]), PARAMETERS
