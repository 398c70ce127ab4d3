"""A plotly figure in JupyterLab that is built once and then only given what changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import anywidget
import numpy as np
import plotly.graph_objects as go
from plotly.basedatatypes import BaseFigure, Undefined  # Undefined leaves a property as it is
from plotly.offline import get_plotlyjs

from .parts import Whole, static

_TYPES = {"f4": np.float32, "f8": np.float64, "i4": np.int32}


class LiveFigure(Whole, anywidget.AnyWidget):
    """Draw a figure, and take new values for its traces and its layout in place.

    plotly's own FigureWidget compares the whole figure with its defaults after every change and reports the
    difference to Python, which takes the browser a fifth of the time to draw, and which nothing here reads.

    clicked: called with the `meta` of a trace and the number of the point that the reader clicks on. Raises TypeError
    for what is no figure, here and in `show`.
    """

    _esm = static("live_figure.js")

    def __init__(self, figure: go.Figure, clicked: Callable[[str, int], None] | None = None):
        super().__init__()
        self.figure, self._clicked = _checked(figure), clicked
        self.on_msg(lambda widget, content, buffers: self._hear(content))

    def redraw(self, traces: dict[str, dict[str, Any]], layout: dict[str, Any] | None = None) -> None:
        """Set properties of the traces whose `meta` is one of the keys, and of the layout by their paths.

        All in one message, so that the browser draws once. Values are not checked: that takes as long as the rest.
        """
        drawn: Any = self.figure.data
        place = {trace.meta: i for i, trace in enumerate(drawn)}
        names = sorted({name for values in traces.values() for name in values})
        restyle = {name: [values.get(name, Undefined) for values in traces.values()] for name in names}
        places, layout = [place[key] for key in traces], layout or {}
        self.figure.plotly_update(restyle, layout, places)
        buffers: list[memoryview] = []
        packed = {name: [_packed(value, buffers) for value in values] for name, values in restyle.items()}
        self.send({"traces": packed, "places": places, "layout": layout}, buffers)

    def show(self, figure: go.Figure) -> None:
        """Draw another figure in the place of this one."""
        drawn = _checked(figure).to_json()
        self.figure = figure
        self.send({"figure": drawn})

    def _hear(self, content: dict[str, Any]) -> None:
        if "asked" in content:
            library = [get_plotlyjs().encode()] if content["library"] else []
            self.send({"figure": self.figure.to_json(), "asked": content["asked"]}, library)
        elif self._clicked is not None:
            self._clicked(content["clicked"], content["point"])


def _checked(figure: Any) -> go.Figure:
    if not isinstance(figure, BaseFigure):
        raise TypeError(f"figure is {type(figure).__name__}; expected a figure of plotly.")
    return cast(go.Figure, figure)


def _packed(value: Any, buffers: list[memoryview]) -> Any:
    """Return a value for JSON; an array's numbers go to the buffers."""
    if value is Undefined:
        return None
    if not isinstance(value, np.ndarray):
        return value
    dtype = value.dtype.str[1:] if value.dtype.str[1:] in _TYPES else "f8"
    buffers.append(np.ascontiguousarray(value, dtype=f"<{dtype}").data)
    return {"dtype": dtype, "buffer": len(buffers) - 1, "shape": value.shape}
