"""Data in, plotly figure out; nothing here computes or shows."""

from .panels import explorer_figure, log_if_wide, panels_figure, plane_range, spectrum_traces, time_traces
from .theme import COLORS, DIVERGING, template

__all__ = [
    "COLORS",
    "DIVERGING",
    "explorer_figure",
    "log_if_wide",
    "panels_figure",
    "plane_range",
    "spectrum_traces",
    "template",
    "time_traces",
]
