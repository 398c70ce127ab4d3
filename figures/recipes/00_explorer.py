"""What the explorer shows of a trained head, as notebook 00 opens it."""

from dataclasses import asdict

import plotly.graph_objects as go

from qdelta_analysis.plots import explorer_figure
from qdelta_analysis.view import Settings, view

VENUE, HEIGHT = "icml-page", 5.4
CAPTION = """A trained head at work (layer 0, head 2, 1024 held-out bytes). Top: its memory S after token 512, the
memory's singular values, and that token's transition A in the complex plane: its eigenvalues α (circle) and α(1 − βa)
(diamond), the unit circle and the circle of radius ‖A‖. Below, over time: the mixed error ‖v − Sx‖ before and after
each write, the memory's norm, and βa, shaded where a write contracts the error; the upright line is token 512."""
TOKEN = 512


def draw() -> tuple[go.Figure, dict]:
    """Return the figure and its parameters."""
    settings = Settings()
    figure = explorer_figure(view(settings.inputs()), TOKEN)
    figure.update_layout(yaxis4_range=[0, 9])  # in print the legend takes more room
    return figure, {**asdict(settings), "token": TOKEN}
