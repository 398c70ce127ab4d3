"""A plotly FigureWidget that is built once and then only given new arrays."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go
from traitlets import observe


class LiveFigure(go.FigureWidget):
    """Draw a figure, and take new arrays for its traces in place: a FigureWidget that is built anew is never freed."""

    def redraw(self, traces: dict[str, dict[str, Any]]) -> None:
        """Set arrays of the traces whose `meta` is one of the keys, in one message."""
        drawn: Any = self.data
        found = {trace.meta: trace for trace in drawn}
        with self.batch_update():
            for key, values in traces.items():
                found[key].update(values)

    @observe("_js2py_traceDeltas")
    def _handler_js2py_traceDeltas(self, change) -> None:
        """Drop what the browser reports back of the traces' defaults.

        Nothing here reads them, and plotly 7.1 raises on them where a trace holds NumPy arrays (plotly.py#4160).
        """
        if change["new"]:
            self._trace_edit_in_process = False
        self._js2py_traceDeltas = None
