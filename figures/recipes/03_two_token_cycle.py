"""The error contracts perfectly while the memory grows: the two-token cycle of notebook 03."""

import plotly.graph_objects as go

from qdelta_analysis import generators, trace
from qdelta_analysis.plots import contraction_and_memory

VENUE, HEIGHT = "icml-column", 2.5
CAPTION = """The error contracts while the memory grows. Along a cycle of two tokens with β = 1, every write leaves none
of the mixed error (top: |1 − βa| = 0), the best contraction that Lemma 3.1 allows, and without decay the memory grows
by √(1 + λ²) a token (bottom, logarithmic): at λ = 1 it doubles every two tokens. Gated DeltaNet (λ = 0) on the same
tokens, and decay α = 0.7 < 1/√2, keep it bounded."""
PARAMETERS = {"lam": [1.0, 0.5, 0.0], "alpha": [1.0, 0.7], "tokens": 64, "seed": 0}


def draw() -> tuple[go.Figure, dict]:
    """Return the figure and its parameters."""
    T = PARAMETERS["tokens"]
    cycle = generators.two_token_cycle(T, lam=1.0)
    runs = {
        "λ = 1": cycle,
        "λ = 0.5": generators.two_token_cycle(T, lam=0.5),
        "λ = 0": cycle.with_lam(0.0),
        "λ = 1, α = 0.7": generators.two_token_cycle(T, lam=1.0, alpha=0.7),
    }
    norms = {name: trace(run, snapshots=0).state_norm[0, :, 0].values for name, run in runs.items()}
    factor = abs(1 - trace(cycle, snapshots=0).beta_alignment[0, :, 0].values)
    return contraction_and_memory(factor.round(12), norms), PARAMETERS
