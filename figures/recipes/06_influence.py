"""Influence of every past value on every output: exact, and without the erase term."""

import plotly.graph_objects as go

from qdelta_analysis import influence, load_trained
from qdelta_analysis.plots.memory import influence_figure

VENUE, HEIGHT = "icml-column", 3.2
CAPTION = """Influence M of the value written at token j on the output at token i, o = MV, in a trained head (layer 0,
head 2; 64 of 1024 tokens). Left: exact. Right: the common heuristic, which drops what later writes erase. Below: mean
|M| against the distance i − j over all 1024 tokens: the heuristic overstates what is remembered, four-fold at a
distance of 128 tokens."""
PARAMETERS = {"source": "trained", "layer": 0, "head": 2, "block": [480, 544]}


def draw() -> tuple[go.Figure, dict]:
    """Return the figure and its parameters."""
    inputs = load_trained()[PARAMETERS["layer"]].heads(PARAMETERS["head"])
    ways = {"exact": influence.exact, "heuristic": influence.heuristic}
    found = {name: way(inputs, of=["o"]).o[0, 0].values for name, way in ways.items()}
    return influence_figure(found, slice(*PARAMETERS["block"])), PARAMETERS
