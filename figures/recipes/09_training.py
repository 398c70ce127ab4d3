"""What the shipped training runs reached."""

import plotly.graph_objects as go

from qdelta_analysis.data import load_results
from qdelta_analysis.plots.memory import seeds_figure

VENUE, HEIGHT = "icml-column", 1.8
CAPTION = """Held-out bits per byte of byte-level language models of 0.69 M parameters after 500 steps (1.02 million
bytes of CPython's language reference), three seeds each (points; bar: mean). At this size and on this text query
feedback neither helps nor hurts beyond the spread between seeds; decay helps."""
NAMES = {"q-delta": "Q-Delta", "gated-deltanet": "Gated DeltaNet", "deltanet": "DeltaNet"}


def draw() -> tuple[go.Figure, dict]:
    """Return the figure and its parameters."""
    results = load_results()
    runs = {name: [run for run in results["runs"] if run["rule"] == rule] for rule, name in NAMES.items()}
    reached = {name: [run["bits_per_byte"] for run in found] for name, found in runs.items()}
    seeds = sorted({run["seed"] for run in results["runs"]})
    return seeds_figure(reached, "held-out bits per byte"), {"seeds": seeds, "training": results["training"]}
