"""Data in, plotly figure out; nothing here computes or shows."""

from .panels import explorer_figure, log_if_wide, panels_figure, plane_range, spectrum_traces, time_traces, value_ranges
from .stability import (
    contraction_and_memory,
    error_against_bound,
    growth_colors,
    map_titles,
    map_traces,
    norm_against_lam,
    stability_figure,
    token_traces,
)
from .theme import COLORS, DIVERGING, template

__all__ = [
    "COLORS",
    "DIVERGING",
    "contraction_and_memory",
    "error_against_bound",
    "explorer_figure",
    "growth_colors",
    "log_if_wide",
    "map_titles",
    "map_traces",
    "norm_against_lam",
    "panels_figure",
    "plane_range",
    "spectrum_traces",
    "stability_figure",
    "template",
    "time_traces",
    "token_traces",
    "value_ranges",
]
