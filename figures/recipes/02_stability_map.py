"""The stability map with the claims' boundaries and the trained model's tokens, as in notebook 03."""

import numpy as np
import plotly.graph_objects as go

from qdelta_analysis import load_trained
from qdelta_analysis.plots import stability_figure
from qdelta_analysis.stability import stability_map

VENUE, HEIGHT = "icml-page", 3.4
CAPTION = """Where one step lets the memory grow (red) or shrink (blue): the norm ‖A‖ over query feedback λ and, left,
write strength β at cos(q, k) = 0.1, right, the angle at β = 0.8; α = 0.99. Green: the mixed error contracts between the
dashed lines, βa = 0 and 2 (G4), and at every angle within the solid box β, λ ≤ 1 (G6). Black: left of the solid line,
γ = α√(1 + λ²) < 1 bounds the memory whatever the tokens (G9), and to its right some tokens make it grow (G8); beyond
the dotted line typical tokens without decay grow in mean square (G10). Points: every 41st token and head of the
trained model."""
PARAMETERS = {"cos": 0.1, "beta": 0.8, "alpha": 0.99, "points": 61, "tokens": "trained, every 41st"}


def draw() -> tuple[go.Figure, dict]:
    """Return the figure and its parameters."""
    p = PARAMETERS
    over_beta = stability_map("beta", p["cos"], alpha=p["alpha"], points=p["points"])
    over_cos = stability_map("cos", p["beta"], alpha=p["alpha"], points=p["points"])
    gates = {name: [getattr(x, name).flatten()[::41] for x in load_trained()] for name in ("lam", "beta")}
    gates["cos"] = [(x.q * x.k).sum(-1).flatten()[::41] for x in load_trained()]
    tokens = {name: np.concatenate(parts) for name, parts in gates.items()}
    return stability_figure([over_beta, over_cos], tokens), p
