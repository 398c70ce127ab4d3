"""Data in, plotly figure out; nothing here computes or shows."""

from .panels import explorer_figure, spectrum_figure, spectrum_traces, time_figure, time_traces
from .theme import COLORS, DIVERGING, template

__all__ = [
    "COLORS",
    "DIVERGING",
    "explorer_figure",
    "spectrum_figure",
    "spectrum_traces",
    "template",
    "time_figure",
    "time_traces",
]
