"""Data in, plotly figure out; nothing here computes or shows."""

from ..extras import from_extra

with from_extra("lab"):
    import plotly  # noqa: F401 (every module here needs it)

from .evolution import evolution_figure, evolution_ranges, evolution_traces, strip_figure
from .kernels import (
    chunk_figure,
    deviation_figure,
    envelope_figure,
    launch_figure,
    throughput_figure,
    token_deviation_figure,
)
from .learning import losses_figure, scores_figure
from .memory import influence_figure, mean_by_distance, recall_figure
from .pages import keep_for_pages
from .panels import explorer_figure, log_if_wide, panels_figure, plane_range, spectrum_traces, time_traces, value_ranges
from .readouts import over_lam_figure, readouts_figure, sources_figure
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
from .sweeps import sweep_figure, sweep_state
from .theme import COLORS, DIVERGING, template

keep_for_pages()

__all__ = [
    "COLORS",
    "DIVERGING",
    "chunk_figure",
    "contraction_and_memory",
    "deviation_figure",
    "envelope_figure",
    "error_against_bound",
    "evolution_figure",
    "evolution_ranges",
    "evolution_traces",
    "explorer_figure",
    "growth_colors",
    "influence_figure",
    "launch_figure",
    "log_if_wide",
    "losses_figure",
    "map_titles",
    "map_traces",
    "mean_by_distance",
    "norm_against_lam",
    "over_lam_figure",
    "panels_figure",
    "plane_range",
    "readouts_figure",
    "recall_figure",
    "scores_figure",
    "sources_figure",
    "spectrum_traces",
    "stability_figure",
    "strip_figure",
    "sweep_figure",
    "sweep_state",
    "template",
    "throughput_figure",
    "time_traces",
    "token_deviation_figure",
    "token_traces",
    "value_ranges",
]
