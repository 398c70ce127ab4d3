"""Colours, fonts and sizes, in one place."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.colors import get_colorscale, sample_colorscale, unlabel_rgb

# Okabe and Ito's palette: told apart by colour-blind readers; paired with dashes where two lines share a panel.
COLORS = {
    "memory": "#0072B2",
    "error_before": "#E69F00",
    "error_after": "#D55E00",
    "alignment": "#009E73",
    "eigenvalue": "#D55E00",
    "norm": "#CC79A7",
    "reference": "#7F7F7F",
    "error_bound": "#00573D",
    "memory_bound": "#000000",
    "marked": "#F0E442",
    "guaranteed": "rgba(0, 158, 115, 0.12)",
}
FONT = "Liberation Sans, Arimo, Helvetica, Arial, sans-serif"
FONT_SIZE = 12

# ColorBrewer's RdBu, reversed: blue below zero, near-white at zero, red above. An odd count, so that exactly zero
# gets the neutral colour.
_COUNT = 255
DIVERGING = tuple(
    "#" + "".join(f"{round(float(channel)):02x}" for channel in unlabel_rgb(color))
    for color in sample_colorscale("RdBu_r", [i / (_COUNT - 1) for i in range(_COUNT)])
)
# The few stops between which it is linear: a file holds every stop of a colour bar, which for 255 takes 30 kB.
DIVERGING_STOPS = tuple((place, color) for place, color in get_colorscale("RdBu_r"))
# For numbers without a sign: made for colour-blind readers, and ever lighter, so that greyscale keeps the order.
SEQUENTIAL = tuple((place, color) for place, color in get_colorscale("Cividis"))
UNDRAWN = "#E8E8E8"  # where there is nothing to draw yet

_LINES = ("memory", "error_after", "alignment", "norm", "error_before", "reference", "memory_bound")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")


def styles(
    count: int, first: Sequence[tuple[str, str]] = (), *, colors: Sequence[str] = _LINES, marks: Sequence[str] = DASHES
) -> list[tuple[str, str]]:
    """Return `count` pairs of a colour's name and a dash (or another mark), no two alike.

    Those given come first; of the others, neighbours differ in both. Raises ValueError for more than there are.
    """
    # All pairs once, for the numbers of colours and of marks have no common divisor.
    others = [(colors[i % len(colors)], marks[i % len(marks)]) for i in range(len(colors) * len(marks))]
    known = [*first, *(pair for pair in others if pair not in first)]
    if count > len(known):
        raise ValueError(f"{count} series are to be drawn; expected at most {len(known)}, all that can be told apart.")
    return known[:count]


def spacing(usual: float, panels: int) -> float:
    """Return the space between panels, as a share of all: the usual one, less where it would leave them no half."""
    return min(usual, 0.5 / max(1, panels - 1))


def template() -> go.layout.Template:
    """Return the look of every figure: white, thin axes on all sides of a panel, no title."""
    axis = {
        "showline": True,
        "linecolor": "#444444",
        "linewidth": 1,
        "mirror": True,
        "ticks": "outside",
        "ticklen": 4,
        "gridcolor": "#E5E5E5",
        "zeroline": False,
        "title": {"standoff": 6},
        # Left to itself, plotly measures every label at every redraw, to hide those that stand out.
        "ticklabeloverflow": "allow",
        "exponentformat": "power",
    }
    return go.layout.Template(
        layout={
            "font": {"family": FONT, "size": FONT_SIZE, "color": "#222222"},
            "paper_bgcolor": "white",
            "plot_bgcolor": "white",
            "xaxis": axis,
            "yaxis": axis,
            "legend": {"bgcolor": "rgba(255,255,255,0)", "borderwidth": 0},
            "hoverlabel": {"font": {"family": FONT}},
            "colorway": [COLORS[name] for name in ("memory", "error_after", "alignment", "error_before", "norm")],
        }
    )
