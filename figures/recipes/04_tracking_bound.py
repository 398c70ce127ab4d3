"""Theorem 3.2's bound against a trained head, as in notebook 02."""

import numpy as np
import plotly.graph_objects as go

from qdelta_analysis import guarantees, load_trained, trace
from qdelta_analysis.plots import error_against_bound

VENUE, HEIGHT = "icml-column", 2.0
CAPTION = """The tracking bound of Theorem 3.2, with decay, on a trained head (layer 0, head 2) over 1024 held-out
bytes: the mixed error ‖v − Sx‖ after each write stays below ρᵗ‖e₀‖ + ρr(1 − ρᵗ)/(1 − ρ), and far below it, since ρ is
the worst token's factor |1 − βa| and r the largest drift."""
PARAMETERS = {"source": "trained", "layer": 0, "head": 2}


def draw() -> tuple[go.Figure, dict]:
    """Return the figure and its parameters."""
    x = load_trained()[PARAMETERS["layer"]].heads(PARAMETERS["head"])
    found, run = guarantees.GUARANTEES["G5"].check(x), trace(x, snapshots=0).isel(batch=0, head=0)
    (rho,), (drift,) = (np.atleast_1d(found.numbers[name]) for name in ("rho", "drift"))
    t = np.arange(1, x.T + 1)
    bound = rho**t * float(run.error_before[0]) + rho * drift * (1 - rho**t) / (1 - rho)
    return error_against_bound(run.error_after.values, bound), PARAMETERS
