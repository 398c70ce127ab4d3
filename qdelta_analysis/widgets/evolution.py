"""Several memories on the same tokens, side by side on one clock: several query feedbacks, or several rules."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import ipywidgets as W
import numpy as np
import plotly.graph_objects as go
import torch
import traitlets
import xarray as xr

from ..checks import require_all, require_count
from ..data import load_trained
from ..evolution import evolve, feedbacks, rules
from ..inputs import QDeltaInputs
from ..plots import evolution_figure, evolution_ranges, evolution_traces
from ..plots.evolution import MARGIN
from ..tracing import effective_rank
from ..view import View, view
from .clipboard import CopyButton
from .exporting import WIDE, ExportRow
from .legend import legend_html
from .live_figure import LiveFigure
from .messages import saying
from .parts import Screen, Whole
from .scrubber import StateScrubber

_REPLACE, _SCALE = "=", "× learned"
_MOST = 4  # memories that fit side by side
# A panel is no wider on the screen: of each stretch of tokens the smallest and the largest value are drawn.
_STRETCHES = 256
_STYLE = {"description_width": "52px"}


class MemoryEvolution(Whole, W.VBox):
    """Watch memories evolve on the same tokens: one for each of several lam, or one for each rule.

    Every map, on one clock and one colour scale, is S after the token; below them, over time, are the singular values
    of S, its effective rank and norm, and norm, energy and angle of what key and query read before the write.

    Args:
        inputs: the tokens, float32 or float64, one sequence of one or more heads; several for several layers; None
            for the trained model's trace.
        lam: one to four query feedbacks in [0, 2], each with a slider of its own.
        compare: "lam", or "rules": DeltaNet, Gated DeltaNet and Q-Delta.
        layer, head: which are shown first.
        token: which is shown first; None is the middle.

    `views` and `dataset` (`evolution.evolve`) hold what is shown, under each memory's name. Where the controls ask for
    what cannot be computed, it is said why in the place of the pictures, and nothing is exported. Raises ValueError for
    no inputs, more than one sequence, another number of lam, or a layer, head or token that is not there.
    """

    def __init__(
        self,
        inputs: QDeltaInputs | Sequence[QDeltaInputs] | None = None,
        lam: Sequence[float] = (0.0, 0.5, 1.0),
        *,
        compare: Literal["lam", "rules"] = "lam",
        layer: int = 0,
        head: int = 0,
        token: int | None = None,
    ):
        self._trained = inputs is None
        given: Any = load_trained() if inputs is None else [inputs] if isinstance(inputs, QDeltaInputs) else inputs
        self._layers: list[QDeltaInputs] = list(given) if isinstance(given, Iterable) else []
        if not self._layers or not all(isinstance(x, QDeltaInputs) for x in self._layers):
            raise ValueError(f"inputs is {given!r:.200}; expected QDeltaInputs, or a list of them, a layer each.")
        lam = self._checked(lam, compare, layer, head)
        self._quiet = False
        self._problem, self._legend = W.HTML(), W.HTML()
        self._screen = Screen(self._refresh, saying(self._problem))
        self._build_controls(lam, compare, layer, head)
        self.views: dict[str, View] = {name: view(x) for name, x in self.memories().items()}
        self.dataset = xr.Dataset()
        # The browser draws the memories by itself; while it does, the numbers follow three times a second.
        # Its maps begin 34 pixels in, and stand above the panels' columns.
        self.scrubber = StateScrubber(report_interval=330, layout=W.Layout(margin=f"0 0 0 {MARGIN - 34}px"))
        self._numbers = W.HTML(layout=W.Layout(margin="0 0 0 42px"))
        self._copy = CopyButton(label="copy as code")
        traitlets.link((self._span, "value"), (self.scrubber, "colors_span"))
        self._measure()
        last = self.dataset.sizes["time"] - 1
        if token is not None:
            require_count("token", token, 0, last)
        self._load()
        self.scrubber.token = (last + 1) // 2 if token is None else token
        self._panels = LiveFigure(self._drawn())
        self._show_numbers()
        self.scrubber.observe(lambda change: self._answer(self._show_token), "token")
        super().__init__(self._arranged())
        self._screen.hold(self.scrubber, self._numbers, self._legend, self._panels, self._copy)

    @property
    def token(self) -> int:
        """The token after which the memories are shown."""
        return min(self.scrubber.token, self.dataset.sizes["time"] - 1)

    @property
    def inputs(self) -> QDeltaInputs:
        """The tokens of the layer and head that are shown, float64."""
        return self._layers[self._layer.value].heads(self._head.value).to(torch.float64)

    @property
    def lam(self) -> list[float]:
        """What the sliders say."""
        return [slider.value for slider in self._sliders]

    def memories(self) -> dict[str, QDeltaInputs]:
        """Return what each memory reads, under its name."""
        if self._columns.value == "rules":
            return rules(self.inputs)
        return feedbacks(self.inputs, self.lam, scaled=self._mode.value == _SCALE)

    def figure(self) -> go.Figure:
        """Return the memories after the token and everything below them as one still figure.

        Raises RuntimeError while what the controls ask for cannot be shown.
        """
        self._screen.check()
        states = {name: v.state(min(self.token, v.T - 1)) for name, v in self.views.items()}
        return evolution_figure(self.dataset, self.token, states=np.stack(list(states.values())))

    def code(self) -> str:
        """Return the Python that makes the same memories and measures them."""
        rule = self._columns.value == "rules"
        names = "evolution, load_trained" if self._trained else "evolution"
        source = f"load_trained()[{self._layer.value}]" if self._trained else "inputs"
        scaled = ", scaled=True" if self._mode.value == _SCALE else ""
        made = "evolution.rules(inputs)" if rule else f"evolution.feedbacks(inputs, {self.lam}{scaled})"
        lines = [f"from qdelta_analysis import {names}", "", f"inputs = {source}.heads({self._head.value})"]
        return "\n".join([*lines, f"evolved = evolution.evolve({made})", ""])

    def _checked(self, lam: Sequence[float], compare: str, layer: int, head: int) -> list[float]:
        if compare not in ("lam", "rules"):
            raise ValueError(f"compare is {compare!r}; expected 'lam' or 'rules'.")
        if np.ndim(lam) != 1:
            raise ValueError(f"lam is {lam!r}; expected a list of one to {_MOST} numbers.")
        if not 1 <= len(lam) <= _MOST:
            raise ValueError(f"lam has {len(lam)} values; expected one to {_MOST}, which stand side by side.")
        numbers = require_all("lam", lam, 0, 2).tolist()
        require_count("layer", layer, 0, len(self._layers) - 1)
        for x in self._layers:
            if x.B != 1:
                raise ValueError(f"inputs have B = {x.B} sequences; expected one.")
        require_count("head", head, 0, self._layers[layer].H - 1)
        return numbers

    def _build_controls(self, lam: Sequence[float], compare: str, layer: int, head: int) -> None:
        buttons = {"button_width": "96px"}
        options = {"several λ": "lam", "rules": "rules"}
        self._columns: Any = W.ToggleButtons(options=options, value=compare, style=buttons)
        # Each has a layout of its own: what hides one must not hide the other.
        narrow = lambda: W.Layout(width="150px")
        self._layer: Any = W.Dropdown(
            options=range(len(self._layers)), value=layer, description="layer", layout=narrow(), style=_STYLE
        )
        self._head: Any = W.Dropdown(
            options=range(self._layers[layer].H), value=head, description="head", layout=narrow(), style=_STYLE
        )
        span = {"of the whole recording": "recording", "of this token": "token"}
        self._span: Any = W.Dropdown(
            options=span,
            description="largest colour",
            layout=W.Layout(width="270px"),
            style={"description_width": "90px"},
        )
        self._sliders = [
            W.FloatSlider(
                x,
                min=0,
                max=2,
                step=0.01,
                description="λ",
                layout=W.Layout(width="262px"),
                style={"description_width": "20px"},
            )
            for x in lam
        ]
        self._mode: Any = W.Dropdown(options=[_REPLACE, _SCALE], layout=W.Layout(width="95px"))
        self._columns.observe(lambda change: self._answer(self._refresh), "value")
        self._layer.observe(lambda change: self._layer_changed(), "value")
        for control in (self._head, self._mode):
            control.observe(lambda change: self._answer(self._refresh), "value")
        for column, slider in enumerate(self._sliders):
            slider.observe(lambda change, column=column: self._answer(lambda: self._refresh([column])), "value")

    def _arranged(self) -> tuple[W.Widget, ...]:
        row = lambda: W.Layout(flex_flow="row wrap", grid_gap="4px 10px")
        self._feedbacks = W.Box([*self._sliders, self._mode], layout=row())
        self._fit_controls()
        return (
            W.Box([self._columns, self._layer, self._head, self._span], layout=row()),
            self._feedbacks,
            self._problem,
            self.scrubber,
            self._numbers,
            self._legend,
            self._panels,
            ExportRow("memories", self.figure, self._made_with, WIDE, [self._copy]),
        )

    def _made_with(self) -> dict[str, Any]:
        """Return what an export says: which tokens, memories and feedbacks are shown, the numbers in full."""
        shown: dict[str, Any] = {**self.dataset.attrs, "layer": self._layer.value, "head": self._head.value}
        shown |= {"token": self.token, "compare": self._columns.value, "memories": list(self.views)}
        if self._columns.value == "rules":
            return shown
        return shown | {"lam": self.lam, "scaled": self._mode.value == _SCALE}

    def _fit_controls(self) -> None:
        self._feedbacks.layout.display = "none" if self._columns.value == "rules" else None
        self._layer.layout.display = None if len(self._layers) > 1 else "none"
        self._head.layout.display = None if self._layers[self._layer.value].H > 1 else "none"

    def _layer_changed(self) -> None:
        heads = range(self._layers[self._layer.value].H)
        with self._quietly():
            self._head.options, self._head.value = heads, min(self._head.value, heads[-1])
        self._answer(self._refresh)

    @contextmanager
    def _quietly(self) -> Iterator[None]:
        """Let controls move without an answer."""
        self._quiet = True
        try:
            yield
        finally:
            self._quiet = False

    def _answer(self, change: Callable[[], None]) -> None:
        if not self._quiet:
            self._screen.answer(change)

    def _refresh(self, columns: Sequence[int] | None = None) -> None:
        """Compute and draw anew; `columns` are the memories that changed, None for all of them."""
        before = len(self.views)
        self.views = {name: view(x) for name, x in self.memories().items()}
        self._fit_controls()
        with self._quietly():
            self._load()  # first, so that the browser draws the maps while the rest is computed
        self._measure()
        self._show_numbers()
        if columns is None or len(self.views) != before:
            self._panels.show(self._drawn())
            return
        traces = [evolution_traces(self.dataset, column, stretches=_STRETCHES) for column in columns]
        titles = {f"annotations[{i}].text": html.escape(name) for i, name in enumerate(self.views)}
        self._panels.redraw(
            {k: v for found in traces for k, v in found.items()}, evolution_ranges(self.dataset) | titles
        )

    def _measure(self) -> None:
        # A memory that outgrows what is drawn ends there.
        self.dataset = evolve({name: x.tokens(0, self.views[name].T) for name, x in self.memories().items()})
        self._copy.text = self.code()

    def _load(self) -> None:
        longest = max(self.views.values(), key=lambda v: v.T)
        shown = {
            name: {"k": v.k, "u": v.update, "alpha": v.alpha, "anchors": v.anchors, "stride": v.stride}
            for name, v in self.views.items()
        }
        self.scrubber.load_side_by_side(shown, longest.labels)

    def _drawn(self) -> go.Figure:
        figure = evolution_figure(self.dataset, self.token, stretches=_STRETCHES)
        # The legend is HTML above the figure: inside, it takes its share of every redraw.
        self._legend.value = legend_html(figure)
        layout: Any = figure.layout
        self._legend.layout.width = f"{layout.width - MARGIN}px"
        return figure.update_layout(showlegend=False, margin={"t": 24})

    def _show_token(self) -> None:
        self._show_numbers()
        layout: Any = self._panels.figure.layout
        lines, token = [i for i, shape in enumerate(layout.shapes) if shape.name == "token"], self.token
        self._panels.redraw({}, {f"shapes[{i}].{end}": token for i in lines for end in ("x0", "x1")})

    def _show_numbers(self) -> None:
        """Write down what is measured of each memory at the token."""
        rows: dict[str, list[str]] = {name: [] for name in ("‖S‖", "σ₁", "effective rank", "‖v̂‖", "‖ô‖", "∠(v̂, ô)")}
        for name, v in self.views.items():
            token = min(self.token, v.T - 1)
            sigma = v.singular_values(token)
            at = self.dataset.sel(memory=name, time=token)
            rank = float(effective_rank(torch.as_tensor(sigma)))
            values = (float(at.state_norm), sigma[0], rank, float(at.key_retrieval), float(at.query_prediction))
            for row, value in zip(
                rows.values(), [*(f"{x:.4g}" for x in values), f"{float(at.angle):.0f}°"], strict=True
            ):
                row.append(value)
        cell = lambda kind, text: f'<{kind} style="padding: 0 14px 0 0; text-align: left">{html.escape(text)}</{kind}>'
        head = "".join(cell("th", text) for text in (f"at token {self.token}", *self.views))
        body = "".join(
            f"<tr>{cell('td', name)}{''.join(cell('td', value) for value in values)}</tr>"
            for name, values in rows.items()
        )
        self._numbers.value = (
            f'<table class="qdelta-numbers" style="font-size: 12px; line-height: 1.4"><tr>{head}</tr>{body}</table>'
        )
