"""Recall against lam: how well a memory reads its pairs back."""

import numpy as np
import plotly.graph_objects as go

from qdelta_analysis import recall
from qdelta_analysis.plots.memory import recall_figure

VENUE, HEIGHT = "icml-column", 2.3
CAPTION = """Recall against query feedback λ. N pairs of unit keys and values are written once (d = 64, β = 1, no decay,
q orthogonal to k) and every key is asked again; error is the mean of ‖Sk − v‖²/‖v‖² over keys, 1 being as good as
answering zero. Lines: mean over 8 seeds; bands: one standard deviation. Untrained: what the recurrence itself can
hold."""
PARAMETERS = {"lam": [0, 1, 21], "pairs": [8, 16, 32, 64], "d": 64, "beta": 1.0, "alpha": 1.0, "cos": 0.0, "seeds": 8}


def draw() -> tuple[go.Figure, dict]:
    """Return the figure and its parameters."""
    measured = recall.measure(**{**PARAMETERS, "lam": np.linspace(*PARAMETERS["lam"])})
    return recall_figure(recall.curve(measured)), PARAMETERS
