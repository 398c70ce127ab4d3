"""A button that exports what a widget shows, through the same path as `export` in code."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ipywidgets as W
import plotly.graph_objects as go

from ..export import VENUES, export
from .messages import problem
from .parts import Whole

# A column is too narrow for what stands side by side in the explorer and in memories that evolve.
WIDE = tuple(venue for venue, width in VENUES.items() if width > 5)


class ExportRow(Whole, W.HBox):
    """Write `figure()` as NAME-1.pdf, .svg, .png and .json, then NAME-2..., into the current folder.

    parameters: called for what the figure was made with. venues: whose widths are offered. more: what stands beside.
    """

    def __init__(
        self,
        name: str,
        figure: Callable[[], go.Figure],
        parameters: Callable[[], Mapping[str, Any]],
        venues: Sequence[str] = tuple(VENUES),
        more: Sequence[W.Widget] = (),
    ):
        self._name, self._figure, self._parameters = name, figure, parameters
        self._venue: Any = W.Dropdown(
            options=venues, layout=W.Layout(width="110px", flex="0 0 auto"), tooltip="whose width the figure gets"
        )
        button = W.Button(description="export this view", layout=W.Layout(width="140px", flex="0 0 auto"))
        button.on_click(lambda button: self._export())
        self._message = W.HTML()
        super().__init__([button, self._venue, *more, self._message])

    def _export(self) -> None:
        number = 1
        while any(Path().glob(f"{self._name}-{number}.*")):
            number += 1
        try:
            paths = export(self._figure(), f"{self._name}-{number}", self._venue.value, parameters=self._parameters())
            names = ", ".join(path.name for path in paths)
            self._message.value = html.escape(f"wrote {names} to {Path.cwd()}")
        except Exception as error:  # nobody else would see it
            self._message.value = problem(error)
