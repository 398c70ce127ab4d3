"""A figure under sliders."""

from __future__ import annotations

from collections.abc import Callable

import ipywidgets as W
import plotly.graph_objects as go

from .exporting import ExportRow
from .live_figure import LiveFigure


class Slides(W.VBox):
    """Draw `make(**values)`, again whenever a slider moves; a button exports what is drawn.

    Each keyword names an argument of `make` and gives its slider's (low, high, step, start), or a switch's start, True
    or False.
    """

    def __init__(self, make: Callable[..., go.Figure], **ranges: tuple[float, float, float, float] | bool):
        self.sliders = {
            name: _switch(name, given) if isinstance(given, bool) else _slider(name, *given)
            for name, given in ranges.items()
        }
        self.figure = LiveFigure(make(**self.values))
        for slider in self.sliders.values():
            slider.observe(lambda change: self.figure.show(make(**self.values)), "value")
        name = getattr(make, "__name__", "figure").strip("<>_")
        export_row = ExportRow(name, lambda: self.figure.figure, lambda: self.values)
        super().__init__([*self.sliders.values(), self.figure, export_row])

    @property
    def values(self) -> dict[str, float]:
        """What the sliders say."""
        return {name: slider.value for name, slider in self.sliders.items()}


def _slider(name: str, low: float, high: float, step: float, start: float) -> W.FloatSlider:
    style, layout = {"description_width": "60px"}, W.Layout(width="420px")
    return W.FloatSlider(
        start, min=low, max=high, step=step, description=name, style=style, layout=layout, readout_format=".2f"
    )


def _switch(name: str, start: bool) -> W.Checkbox:
    return W.Checkbox(start, description=name, indent=False, layout=W.Layout(margin="0 0 0 66px"))
