"""A figure under sliders."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from numbers import Real
from typing import Any

import ipywidgets as W
import numpy as np
import plotly.graph_objects as go

from .exporting import ExportRow
from .live_figure import LiveFigure
from .messages import saying
from .parts import Screen, Whole


class Slides(Whole, W.VBox):
    """Draw `make(**values)`, again whenever a slider moves; a button exports what is drawn.

    Each keyword names an argument of `make` and gives its slider's (low, high, step, start), or a switch's start, True
    or False. Where `make` raises, what it raised stands above the empty place of the figure, until a slider is moved to
    where it does not; nothing can be exported then. Raises ValueError for a keyword that is neither, and
    what `make` raises of the values that it starts with.
    """

    def __init__(self, make: Callable[..., go.Figure], **ranges: tuple[float, float, float, float] | bool):
        self.sliders = {
            name: _switch(name, bool(given)) if isinstance(given, bool | np.bool_) else _slider(name, given)
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


def _slider(name: str, given: Any) -> W.FloatSlider:
    numbers = list(given) if isinstance(given, tuple | list | np.ndarray) else []
    if len(numbers) != 4 or not all(isinstance(x, Real) and isfinite(x) for x in numbers):
        raise ValueError(f"{name} is {given!r}; expected (low, high, step, start) in finite numbers, or True or False.")
    low, high, step, start = map(float, numbers)
    if not low <= start <= high or low == high or step <= 0:
        raise ValueError(f"{name} is {given!r}; expected low < high, a step above 0, and a start from low to high.")
    style, layout = {"description_width": "60px"}, W.Layout(width="420px")
    return W.FloatSlider(
        start, min=low, max=high, step=step, description=name, style=style, layout=layout, readout_format=".2f"
    )


def _switch(name: str, start: bool) -> W.Checkbox:
    return W.Checkbox(start, description=name, indent=False, layout=W.Layout(margin="0 0 0 66px"))
