"""The explorer's stability panel: what the claims say of a head, and its tokens on maps of a step's growth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ipywidgets as W
import plotly.graph_objects as go

from .. import guarantees
from ..plots import growth_colors, map_titles, map_traces, stability_figure, token_traces
from ..stability import StabilityMap, stability_map
from ..threads import one_thread
from ..view import View
from .live_figure import LiveFigure
from .parts import Whole
from .report_table import ReportTable

_QUANTITIES = {"‖A‖: the worst memory": "norm", "mean square: a typical memory": "mean square"}


class StabilityPanel(Whole, W.VBox):
    """Two maps through the shown token, over lam and beta and over lam and cos(q, k), and the report of all claims.

    go_to: called with a token that the reader chooses, in the maps or in the report. answer: does what a control asks
    for, as `Screen.answer`.
    """

    def __init__(
        self, view: View, token: int, go_to: Callable[[int], None], answer: Callable[[Callable[[], None]], None]
    ):
        self._quantity: Any = W.ToggleButtons(options=_QUANTITIES, style={"button_width": "230px"})
        self.report_table = ReportTable(go_to)
        self._view, self._token = view, token
        self.maps = LiveFigure(self.figure(), lambda trace, point: go_to(point) if trace.endswith("tokens") else None)
        self._quantity.observe(lambda change: answer(lambda: self._draw(recolour=True)), "value")
        self._report()
        super().__init__([self._quantity, self.maps, self.report_table])

    def show(self, view: View, token: int) -> None:
        """Show another head, or the same under other gates."""
        self._view, self._token = view, token
        tokens = _tokens(view)
        moved = {f"{over} tokens": {"x": tokens["lam"], "y": tokens[over]} for over in ("beta", "cos")}
        self._draw(moved, recolour=True)
        self._report()

    def show_token(self, token: int) -> None:
        """Show another token: the maps are cut through it."""
        self._token = token
        self._draw()

    def figure(self) -> go.Figure:
        """Return the maps as a still figure."""
        return stability_figure(self._maps(), _tokens(self._view), self._token)

    def _maps(self) -> list[StabilityMap]:
        v, t = self._view, self._token
        shared = {"alpha": float(v.alpha[t]), "alpha_max": float(v.alpha.max()), "d": v.k.shape[1]}
        # Rounding may leave the cosine of parallel vectors a little beyond 1.
        cos = min(max(float(v.cos[t]), -1.0), 1.0)
        quantity = self._quantity.value
        return [
            stability_map("beta", cos, quantity=quantity, **shared),
            stability_map("cos", float(v.beta[t]), quantity=quantity, **shared),
        ]

    def _draw(self, more: dict[str, Any] | None = None, recolour: bool = False) -> None:
        maps = self._maps()
        traces = {key: values for m in maps for key, values in map_traces(m).items()}
        traces |= token_traces(maps, _tokens(self._view), self._token) | (more or {})
        layout: dict[str, Any] = {f"annotations[{i}].text": title for i, title in enumerate(map_titles(maps))}
        if recolour:
            layout["coloraxis"] = growth_colors(maps[0])
        self.maps.redraw(traces, layout)

    @one_thread()
    def _report(self) -> None:
        self.report_table.show(guarantees.check(self._view.facts))


def _tokens(view: View) -> dict[str, Any]:
    return {"lam": view.lam, "beta": view.beta, "cos": view.cos}
