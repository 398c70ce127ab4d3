"""A figure under sliders."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ipywidgets as W
import plotly.graph_objects as go

from .live_figure import LiveFigure


class Slides(W.VBox):
    """Draw `make(**values)` and, as sliders move, put the arrays and the notes of the figure it then makes into it.

    Each keyword names an argument of `make` and gives its slider's (low, high, step, start), or a switch's start, True
    or False. `make` must give the same traces in the same order every time.
    """

    def __init__(self, make: Callable[..., go.Figure], **ranges: tuple[float, float, float, float] | bool):
        self.sliders = {
            name: _switch(name, given) if isinstance(given, bool) else _slider(name, *given)
            for name, given in ranges.items()
        }
        self._make = make
        self.figure = LiveFigure(make(**self.values))
        for slider in self.sliders.values():
            slider.observe(lambda change: self._redraw(), "value")
        super().__init__([*self.sliders.values(), self.figure])

    @property
    def values(self) -> dict[str, float]:
        """What the sliders say."""
        return {name: slider.value for name, slider in self.sliders.items()}

    def _redraw(self) -> None:
        drawn: Any = self.figure
        fresh: Any = self._make(**self.values)
        with self.figure.batch_update():
            for old, new in zip(drawn.layout.annotations, fresh.layout.annotations, strict=True):
                old.text = new.text
            for old, new in zip(drawn.data, fresh.data, strict=True):
                for name in ("x", "y", "z"):
                    if name in new and new[name] is not None:
                        old[name] = new[name]


def _slider(name: str, low: float, high: float, step: float, start: float) -> W.FloatSlider:
    style, layout = {"description_width": "60px"}, W.Layout(width="420px")
    return W.FloatSlider(
        start, min=low, max=high, step=step, description=name, style=style, layout=layout, readout_format=".2f"
    )


def _switch(name: str, start: bool) -> W.Checkbox:
    return W.Checkbox(start, description=name, indent=False, layout=W.Layout(margin="0 0 0 66px"))
