"""Eigenvalues and norm of one step against lam, as in notebook 01."""

import numpy as np
import plotly.graph_objects as go

from qdelta_analysis import Transition
from qdelta_analysis.plots import norm_against_lam

VENUE, HEIGHT = "icml-column", 2.1
CAPTION = """One step of the memory against query feedback λ, for unit q and k at cos(q, k) = 0.3, β = 0.8 and α = 1.
The spectral radius ρ(A) of the transition A = α(I − βxkᵀ) stays 1, and its other eigenvalue α(1 − βa) stays inside the
unit disc, while the norm ‖A‖ exceeds 1 for every λ > 0, below the envelope α√(1 + λ²) that no unit q, k and β ≤ 1
exceed: A is not normal, and its eigenvalues do not say how much it expands."""
PARAMETERS = {"lam": [0, 2, 201], "beta": 0.8, "cos": 0.3, "alpha": 1.0}


def draw() -> tuple[go.Figure, dict]:
    """Return the figure and its parameters."""
    low, high, points = PARAMETERS["lam"]
    lam, cos = np.linspace(low, high, points), PARAMETERS["cos"]
    k, q = np.tile([1.0, 0.0], (points, 1)), np.tile([cos, np.sqrt(1 - cos**2)], (points, 1))
    return norm_against_lam(Transition(k, q, PARAMETERS["beta"], lam, PARAMETERS["alpha"])), PARAMETERS
