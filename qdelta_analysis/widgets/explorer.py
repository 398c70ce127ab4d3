"""The explorer: one head's memory, its transition and its guarantees, live under sliders."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import lru_cache
from typing import Any

import ipywidgets as W
import plotly.graph_objects as go
from torch import Tensor

from ..checks import require_count
from ..data import load_trained
from ..guarantees import TokenStatement, at_token
from ..plots import explorer_figure, log_if_wide, panels_figure, plane_range, spectrum_traces, time_traces, value_ranges
from ..view import SOURCES, TRAINED, Gate, Settings, View, gated_deltanet_outputs, outputs, view
from .clipboard import CopyButton
from .exporting import WIDE, ExportRow
from .legend import legend_html
from .live_figure import LiveFigure
from .messages import PROBLEM, saying
from .parts import Screen, Whole
from .scrubber import StateScrubber
from .stability import StabilityPanel

_MARKS = {"holds": ("✓", "#00734f"), "violated": ("✗", PROBLEM), "hypotheses not met": ("–", "#666666")}
_SCALE, _REPLACE = "× trained", "="
# What a gate's slider spans: as a factor of the trained values, and as a value of its own.
_RANGES = {
    "lam": {_SCALE: (0.0, 2.0, 0.01, 1.0), _REPLACE: (0.0, 2.0, 0.01, 0.5)},
    "beta": {_SCALE: (0.0, 2.0, 0.01, 1.0), _REPLACE: (0.0, 2.0, 0.01, 0.5)},
    "alpha": {_SCALE: (0.0, 4.0, 0.01, 1.0), _REPLACE: (0.5, 1.0, 0.001, 1.0)},
}
_SYMBOLS = {"lam": "λ", "beta": "β", "alpha": "α"}
_HINTS = {
    "lam": "query feedback: scale what the model learned, or replace it",
    "beta": "write strength: scale what the model learned, or replace it",
    "alpha": "decay: scale log α of what the model learned, or replace α",
}


class Explorer(Whole, W.VBox):
    """Explore how one memory evolves: choose tokens, move lam, beta, alpha and cos(q, k), scrub through time.

    `settings` and `token` say what is shown first; both can be read at any time, as can `view`, the arrays behind
    every panel. Where the controls ask for what cannot be computed, it is said why in the place of the pictures, and
    nothing is exported. Raises ValueError for settings or a token that are not there.
    """

    def __init__(self, settings: Settings | None = None, token: int | None = None):
        self._quiet = False
        self._problem = W.HTML()
        self._screen = Screen(self._refresh, saying(self._problem))
        self._build_controls()
        self._set_controls(settings or Settings())
        self.inputs = self.settings.inputs()
        self.view: View = view(self.inputs)
        if token is None:
            token = self.view.T // 2
        require_count("token", token, 0, self.view.asked - 1)
        # The browser draws the memory by itself; while it does, the panels follow three times a second.
        self.scrubber = StateScrubber(title="Memory S after the token", report_interval=330)
        self._load_scrubber()
        self.scrubber.token = token
        figure: Any = panels_figure(self.view, self.token)
        self._cursor = next(i for i, shape in enumerate(figure.layout.shapes) if shape.type == "line")
        # The legend is HTML above the figure: inside, it takes a fifth of every redraw.
        legend = W.HTML(legend_html(figure))
        self._panels = LiveFigure(figure.update_layout(showlegend=False, margin={"t": 6}, height=648))
        # Only the tab that is open is drawn: the other one when it is opened.
        self._stability: StabilityPanel | None = None
        self._behind = W.VBox()
        self._tabs = W.Tab(
            [(front := W.VBox([legend, self._panels])), self._behind],
            titles=("Memory through time", "Stability"),
            selected_index=0,
        )
        self._tabs.observe(lambda change: self._screen.answer(self._draw_view), "selected_index")
        self._words, self._check = W.HTML(), W.HTML()
        self._show_words()
        self._show_check()
        self.scrubber.observe(lambda change: self._answer(self._show_token), "token")
        super().__init__(self._arranged())
        self._screen.hold(self.scrubber, self._words, self._check, front, self._behind, self._copy)

    @property
    def token(self) -> int:
        """The token whose memory and transition are shown."""
        return min(self.scrubber.token, self.view.T - 1)

    @property
    def settings(self) -> Settings:
        """What the controls say."""
        gates = {
            name: Gate(slider.value, scales=self._modes[name].value == _SCALE) for name, slider in self._sliders.items()
        }
        return Settings(
            source=self._source.value, layer=self._layer.value, head=self._head.value, cos=self._cos.value, **gates
        )

    def figure(self) -> go.Figure:
        """Return what the open tab shows, with the memory beside the time lines, as one still figure.

        Raises RuntimeError while what the controls ask for cannot be shown.
        """
        self._screen.check()
        if self._stability and self._tabs.selected_index == 1:
            return self._stability.figure()
        return explorer_figure(self.view, self.token)

    def _build_controls(self) -> None:
        layers = load_trained()
        narrow = W.Layout(width="190px")
        style, wide = {"description_width": "52px"}, W.Layout(width="230px")
        # Typed as Any: a dropdown's stub says that its value may be None, which no option here is.
        self._source: Any = W.Dropdown(options=SOURCES, description="tokens", layout=wide, style=style)
        self._layer: Any = W.Dropdown(options=range(len(layers)), description="layer", layout=narrow, style=style)
        self._head: Any = W.Dropdown(options=range(layers[0].H), description="head", layout=narrow, style=style)
        self._cos = W.FloatSlider(0.5, min=-1, max=1, step=0.01, description="cos(q,k)", layout=W.Layout(width="300px"))
        self._modes: dict[str, Any] = {
            name: W.Dropdown(options=[_SCALE, _REPLACE], layout=W.Layout(width="95px"), tooltip=_HINTS[name])
            for name in _RANGES
        }
        self._sliders = {
            name: W.FloatSlider(
                description=_SYMBOLS[name], layout=W.Layout(width="225px"), style={"description_width": "24px"}
            )
            for name in _RANGES
        }
        self._source.observe(self._source_changed, "value")
        for name, mode in self._modes.items():
            mode.observe(lambda change, name=name: self._mode_changed(name), "value")
        for control in (self._layer, self._head, self._cos, *self._sliders.values()):
            control.observe(lambda change: self._answer(self._refresh), "value")

    def _arranged(self) -> tuple[W.Widget, ...]:
        gates = [W.HBox([self._sliders[name], self._modes[name]]) for name in _RANGES]
        row = W.Layout(flex_flow="row wrap", grid_gap="4px 10px")
        self._copy = CopyButton(label="copy as code", text=self.settings.code())
        made_with = lambda: {**asdict(self.settings), "token": self.token}
        export_row = ExportRow("explorer", self.figure, made_with, WIDE, [self._copy])
        memory = W.VBox([self.scrubber, self._words, self._check], layout=W.Layout(width="384px", flex="0 0 auto"))
        return (
            W.Box([self._source, self._layer, self._head, self._cos], layout=row),
            W.Box(gates, layout=row),
            self._problem,
            W.Box([memory, self._tabs], layout=W.Layout(flex_flow="row wrap", align_items="flex-start")),
            export_row,
        )

    @contextmanager
    def _together(self) -> Iterator[None]:
        """Let several controls change and refresh once, at the end."""
        was, self._quiet = self._quiet, True
        try:
            yield
        finally:
            self._quiet = was

    def _set_controls(self, settings: Settings) -> None:
        settings.inputs()  # refuses what is not there before any control moves
        with self._together():
            self._source.value, self._layer.value, self._head.value = settings.source, settings.layer, settings.head
            self._cos.value = settings.cos
            for name in _RANGES:
                gate = getattr(settings, name)
                self._modes[name].value = _SCALE if gate.scales else _REPLACE
                self._set_range(name, gate.value)
        self._fit_controls()

    def _source_changed(self, change) -> None:
        with self._together():
            for name, mode in self._modes.items():
                mode.value = _SCALE if self._source.value == TRAINED else _REPLACE
                self._set_range(name)
        self._fit_controls()
        self._answer(self._refresh)

    def _mode_changed(self, name: str) -> None:
        if not self._quiet:
            with self._together():
                self._set_range(name)
            self._answer(self._refresh)

    def _set_range(self, name: str, value: float | None = None) -> None:
        low, high, step, usual = _RANGES[name][self._modes[name].value]
        slider = self._sliders[name]
        with slider.hold_trait_notifications():
            slider.min, slider.max, slider.step, slider.value = low, high, step, usual if value is None else value
        slider.readout_format = ".3f" if step < 0.01 else ".2f"

    def _fit_controls(self) -> None:
        trained = self._source.value == TRAINED
        for control in (self._layer, self._head, *self._modes.values()):
            control.layout.display = None if trained else "none"
        self._cos.layout.display = None if self._source.value == "cone" else "none"
        # In the two-token cycle beta is 1 by definition.
        self._sliders["beta"].layout.display = "none" if self._source.value == "two-token cycle" else None

    def _answer(self, change: Callable[[], None]) -> None:
        if not self._quiet:
            self._screen.answer(change)

    def _refresh(self) -> None:
        inputs = self.settings.inputs()
        self.inputs, self.view = inputs, view(inputs)
        with self._together():
            self._load_scrubber()
        self._show_words()
        self._draw_view()
        self._show_check()
        self._copy.text = self.settings.code()

    def _load_scrubber(self) -> None:
        v = self.view
        self.scrubber.load(v.k, v.update, v.alpha, v.anchors, v.stride, v.labels)

    def _show_token(self) -> None:
        self._show_words()
        self._draw_token()

    def _draw_view(self) -> None:
        if self._tabs.selected_index == 1:
            self._draw_stability()
        else:
            self._draw_panels()

    def _draw_token(self) -> None:
        if self._stability and self._tabs.selected_index == 1:
            self._stability.show_token(self.token)
        else:
            self._draw_panels_token()

    def _draw_stability(self) -> None:
        if self._stability is None:
            self._stability = StabilityPanel(self.view, self.token, self._go_to, self._screen.answer)
            self._behind.children = (self._stability,)
        else:
            self._stability.show(self.view, self.token)

    def _go_to(self, token: int) -> None:
        self.scrubber.token = min(token, self.view.T - 1)

    def _draw_panels(self) -> None:
        v, ranges = self.view, value_ranges(self.view, self.token)
        plane = plane_range(v)
        traces, layout = self._at_token()
        layout |= {
            "xaxis2.range": plane,
            "yaxis2.range": plane,
            "xaxis3.range": [0, max(1, v.T - 1)],
            "yaxis3.range": ranges["errors"],
            "yaxis4.type": log_if_wide(v.state_norm),
            "yaxis4.range": ranges["state_norm"],
            "yaxis5.range": ranges["beta_alignment"],
        }
        self._panels.redraw(time_traces(v) | traces, layout)

    def _draw_panels_token(self) -> None:
        self._panels.redraw(*self._at_token())

    def _at_token(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return what of the panels depends on the token: traces and layout."""
        largest = value_ranges(self.view, self.token)["singular values"]
        line = f"shapes[{self._cursor}]"
        layout = {"yaxis.range": largest, f"{line}.x0": self.token, f"{line}.x1": self.token}
        return spectrum_traces(self.view, self.token), layout

    def _show_words(self) -> None:
        rows = [_in_words(statement) for statement in at_token(self.view.facts, self.token)]
        if self.view.asked > self.view.T:
            rows.append(f"<li>Shown up to token {self.view.T - 1} of {self.view.asked}: there ‖S‖ passes 1e30.</li>")
        self._words.value = (
            f'<div class="qdelta-words" style="font-size: 12px; line-height: 1.35"><b>At token {self.token}</b>'
            f'<ul style="list-style: none; padding: 0; margin: 0">{"".join(rows)}</ul></div>'
        )

    def _show_check(self) -> None:
        # The cycle's tokens depend on lam; everywhere else Gated DeltaNet's outputs stay what they are as lam moves.
        settings = self.settings
        fixed = settings if settings.source == "two-token cycle" else replace(settings, lam=Gate(0.0))
        gated = _gated_deltanet(fixed)
        difference, size = float((outputs(self.inputs) - gated).abs().max()), float(gated.abs().max())
        same = difference <= 1e-9 * size
        self._check.value = (
            f'<div class="qdelta-check" style="font-size: 12px; line-height: 1.35; margin-top: 6px">'
            f"Largest difference from Gated DeltaNet in any output: <b>{difference:.2e}</b> (outputs reach {size:.2e})"
            f"{': at λ = 0 Q-Delta is Gated DeltaNet ✓' if same else '; move λ to 0 and it vanishes'}.</div>"
        )


def _in_words(s: TokenStatement) -> str:
    mark, color = _MARKS[s.verdict]
    return (
        f'<li style="margin: 2px 0"><b style="color: {color}">{mark} {s.id} {html.escape(s.title)}: {s.verdict}</b>, '
        f"margin {s.margin:.3g} {s.unit}. {html.escape(s.sentence)}.</li>"
    )


@lru_cache(maxsize=16)
def _gated_deltanet(settings: Settings) -> Tensor:
    return gated_deltanet_outputs(settings.inputs())
