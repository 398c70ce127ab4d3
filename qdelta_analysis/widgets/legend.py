"""A figure's legend as HTML, which costs a live figure nothing."""

from __future__ import annotations

import html
from typing import Any

import plotly.graph_objects as go

from ..plots.theme import FONT

# Dash patterns as plotly draws them, for lines 2 pixels wide.
_DASHES = {None: "", "solid": "", "dash": "6 4", "dot": "2 3"}


def legend_html(figure: go.Figure) -> str:
    """Return the names of the traces that have one, in order, each after a sample of its line or marker."""
    drawn: Any = figure.data
    entries = [
        f'<span style="white-space: nowrap">{_sample(trace)} {html.escape(trace.name)}</span>'
        for trace in drawn
        if trace.name and trace.showlegend is not False
    ]
    return (
        f'<div class="qdelta-legend" style="display: flex; flex-wrap: wrap; gap: 0 14px; justify-content: flex-end; '
        f'font: 12px {FONT}; line-height: 1.5">{"".join(entries)}</div>'
    )


def _sample(trace: Any) -> str:
    if trace.mode == "markers":
        width, mark = 16, f'<circle cx="8" cy="5" r="4.5" fill="{trace.marker.color}"/>'
    else:
        stroke = f'stroke="{trace.line.color}" stroke-width="2" stroke-dasharray="{_DASHES[trace.line.dash]}"'
        width, mark = 26, f'<line x1="0" x2="26" y1="5" y2="5" {stroke}/>'
    return f'<svg width="{width}" height="10" style="vertical-align: baseline">{mark}</svg>'
