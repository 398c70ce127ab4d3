"""A figure under sliders."""

from __future__ import annotations

from collections.abc import Callable

import ipywidgets as W
import plotly.graph_objects as go

from .exporting import ExportRow
from .live_figure import LiveFigure
from .messages import saying
from .parts import Screen, Whole


class Slides(Whole, W.VBox):
    """Draw `make(**values)`, again whenever a slider moves; a button exports what is drawn.

    Each keyword names an argument of `make` and gives its slider's (low, high, step, start), or a switch's start, True
    or False. Where `make` raises, what it raised stands above the empty place of the figure, until a slider is moved to
    where it does not; nothing can be exported then. Raises what `make` raises of the values that it starts with.
    """

    def __init__(self, make: Callable[..., go.Figure], **ranges: tuple[float, float, float, float] | bool):
        self.sliders = {
            name: _switch(name, given) if isinstance(given, bool) else _slider(name, *given)
            for name, given in ranges.items()
        }
        self.figure = LiveFigure(make(**self.values))
        said = W.HTML()
        draw = lambda: self.figure.show(make(**self.values))
        self._screen = Screen(draw, saying(said))
        self._screen.hold(self.figure)
        for slider in self.sliders.values():
            slider.observe(lambda change: self._screen.answer(draw), "value")
        name = getattr(make, "__name__", "figure").strip("<>_")
        export_row = ExportRow(name, self._drawn, lambda: self.values)
        super().__init__([*self.sliders.values(), said, self.figure, export_row])

    @property
    def values(self) -> dict[str, float]:
        """What the sliders say."""
        return {name: slider.value for name, slider in self.sliders.items()}

    def _drawn(self) -> go.Figure:
        self._screen.check()
        return self.figure.figure


def _slider(name: str, low: float, high: float, step: float, start: float) -> W.FloatSlider:
    style, layout = {"description_width": "60px"}, W.Layout(width="420px")
    return W.FloatSlider(
        start, min=low, max=high, step=step, description=name, style=style, layout=layout, readout_format=".2f"
    )


def _switch(name: str, start: bool) -> W.Checkbox:
    return W.Checkbox(start, description=name, indent=False, layout=W.Layout(margin="0 0 0 66px"))
