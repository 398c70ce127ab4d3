"""A plotly FigureWidget that is built once and then only given new arrays."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go
from traitlets import observe


class LiveFigure(go.FigureWidget):
    """Draw a figure, and take new arrays for its traces in place: a FigureWidget that is built anew is never freed."""

    def redraw(self, traces: dict[str, dict[str, Any]]) -> None:
        """Set the arrays of every trace, in the order of the traces, in one message."""
        drawn: Any = self.data
        with self.batch_update():
            for trace, values in zip(drawn, traces.values(), strict=True):
                trace.update(values)

    @observe("_js2py_traceDeltas")
    def _handler_js2py_traceDeltas(self, change) -> None:
        """Drop what the browser reports back of the traces' defaults.

        Nothing here reads them, and plotly 7.1 raises on them where a trace holds NumPy arrays (plotly.py#4160).
        """
        if change["new"]:
            self._trace_edit_in_process = False
        self._js2py_traceDeltas = None
