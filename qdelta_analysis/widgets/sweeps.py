"""A sweep under control: choose what is measured over which axes, start, watch it fill in, cancel, go on."""

from __future__ import annotations

import hashlib
import html
import inspect
import json
import os
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ipywidgets as W
import numpy as np
import plotly.graph_objects as go
import xarray as xr

from .. import sweep
from ..plots import sweep_figure, sweep_state
from ..sweep.measures import Measure
from ..sweep.points import GATES, name_of
from ..sweep.running import require_sweep
from ..sweep.sources import Source
from ..sweep.store import FAILED, MISSING
from ..sweep.terminal import grid_of, values_of
from .clipboard import CopyButton
from .exporting import ExportRow
from .live_figure import LiveFigure
from .messages import PROBLEM
from .parts import Screen, Whole

_EVERY = 0.25  # seconds between two drawings of a sweep that runs
# What an axis starts with when it is chosen.
_USUAL = {
    "lam": "0:1:21",
    "beta": "0.1:1:10",
    "alpha": "0.9:1:11",
    "c": "-1:1:11",
    "d": "16,32,64,128",
    "N": "16,32,64,128",
    "seed": "0:7:8",
    "distinct": "4,8,16,32",
    "layer": "0,1,2",
    "head": "0,1,2,3",
}


class SweepExplorer(Whole, W.VBox):
    """Measure a memory over two axes, live: start, cancel, and start again for what is missing.

    Args:
        measure, tokens: what `sweep.run` takes as `measure` and `make`: names, or functions of your own.
        across, up: the two axes that are drawn and their values, such as ("lam", "0:1:21") or ("d", "16,32,64").
        also: the other axes, such as "beta=1; seed=0:7:8". Over these the mean is drawn.
        number: which measured number is drawn at first; the first of them where there is none of this name.
        folder: where sweeps are kept (zarr), each under a name of its own; by default as long as this widget lives.

    `data` is what is known so far, as `sweep.run` returns it. Where the controls ask for no sweep, or what is drawn
    cannot be, it is said why, the picture is hidden, and nothing is exported. Closed, it stops. Raises ValueError for
    what `sweep.run` refuses; values out of range are points that fail.
    """

    def __init__(
        self,
        measure: str | Measure = "recall",
        tokens: str | Source = "cone",
        across: tuple[str, str] = ("lam", "0:1:21"),
        up: tuple[str, str] = ("c", "-1:1:11"),
        also: str = "beta=1; N=64; d=64; seed=0:7:8",
        number: str = "recall_error",
        folder: str | os.PathLike | None = None,
    ):
        # First: a widget that cannot be made is closed too.
        self._stop, self._worker, self._closed = threading.Event(), None, False
        self._measures = _choices("measure", measure, sweep.MEASURES)
        self._sources = _choices("tokens", tokens, sweep.SOURCES)
        self._temporary = tempfile.TemporaryDirectory(prefix="qdelta-sweeps-") if folder is None else None
        self._folder = Path(self._temporary.name if self._temporary else folder)  # pyright: ignore[reportArgumentType]
        self._lock = threading.RLock()  # the sweep's thread draws, and so does whoever moves a control
        self._build(_name(measure), _name(tokens), across, up, also)
        self._wanted = number
        self._on_screen: tuple[Any, ...] | None = None  # the view and the axes that are drawn
        self._screen = Screen(self._redraw, lambda words: self._say(words, wrong=True) if words else None)
        self.data = self._known()
        self._shown = self._view()
        self.map = LiveFigure(self.figure())
        super().__init__(self._arranged())
        self._screen.hold(self.map, self._copy)
        self._choose()

    @property
    def grid(self) -> dict[str, list[Any]]:
        """The values of every axis, as the controls say. Raises ValueError where they say none."""
        others = grid_of({}, [part.strip() for part in self._also.value.split(";") if part.strip()])
        drawn = {name.value: values_of(name.value, text.value) for name, text in (self._up, self._across)}
        if len(drawn) < 2 or drawn.keys() & others.keys():
            raise ValueError(
                f"the axes are {', '.join([*drawn, *others])}; expected each once, and two that are drawn."
            )
        return {**others, **drawn}

    @property
    def path(self) -> Path:
        """Where this sweep is kept: another grid, measure or source has another name."""
        measure, tokens = self._measures[self._measure.value], self._sources[self._source.value]
        said = json.dumps([name_of(measure), name_of(tokens), self.grid])
        name = f"{self._measure.value}-{self._source.value}-{hashlib.sha256(said.encode()).hexdigest()[:8]}.zarr"
        return self._folder / name.replace(" ", "-")

    @property
    def running(self) -> bool:
        """Whether a sweep is being computed."""
        return self._worker is not None and self._worker.is_alive()

    def start(self) -> None:
        """Compute what is missing, in the background; the kernel stays free.

        Does nothing while a sweep runs, or once the widget is closed.
        """
        if self.running or self._closed:
            return
        try:
            call = {"grid": self.grid, "path": self.path, "retry_failed": self._retry.value}
        except ValueError as error:
            self._screen.fail(error)
            return
        call |= {"measure": self._measures[self._measure.value], "make": self._sources[self._source.value]}
        self._stop.clear()
        self._began, self._drawn = (time.monotonic(), self._done()), 0.0
        self._enable(False)
        self._worker = threading.Thread(target=self._work, args=(call,), daemon=True, name="qdelta sweep")
        self._worker.start()

    def cancel(self) -> None:
        """End the sweep that runs after the points that are being computed; what is done is kept."""
        self._stop.set()

    def close(self) -> None:
        """Close the widget, and cancel the sweep that runs; no other starts."""
        self._closed = True
        self.cancel()
        super().close()

    def wait(self, seconds: float | None = None) -> None:
        """Wait until no sweep runs. Raises TimeoutError after so many seconds."""
        if self._worker is not None:
            self._worker.join(seconds)
        if self.running:
            raise TimeoutError(f"the sweep still runs after {seconds} s.")

    def figure(self) -> go.Figure:
        """Return what is shown as a still figure. Raises RuntimeError while nothing is."""
        self._screen.check()
        return sweep_figure(sweep.cells(self.data, *self._shown))

    def code(self) -> str:
        """Return the Python that runs the same sweep, for measures and tokens that have a name."""
        names = [self._measure.value, self._source.value]
        grid = ",\n".join(f"    {name!r}: {values!r}" for name, values in self.grid.items())
        return (
            f"from qdelta_analysis import sweep\n\ngrid = {{\n{grid},\n}}\n"
            f"data = sweep.run({names[0]!r}, grid, {names[1]!r}, path={str(self.path.name)!r})\n"
        )

    def _build(self, measure: str, tokens: str, across: tuple[str, str], up: tuple[str, str], also: str) -> None:
        for name, axis in {"across": across, "up": up}.items():
            if not isinstance(axis, tuple | list) or [type(part) for part in axis] != [str, str]:
                raise ValueError(f"{name} is {axis!r}; expected a name and values, such as ('lam', '0:1:21').")
        if not isinstance(also, str):
            raise ValueError(f"also is {also!r}; expected other axes, such as 'beta=1; seed=0:7:8'.")
        layout, style = W.Layout(width="240px"), {"description_width": "64px"}
        drop = lambda **given: W.Dropdown(**{"layout": layout, "style": style, **given})
        text = lambda **given: W.Text(**{"layout": layout, "style": style, "continuous_update": False, **given})
        # Typed as Any: a dropdown's stub says that its value may be None, which no option here is.
        self._source: Any = drop(options=list(self._sources), value=tokens, description="tokens")
        self._measure: Any = drop(options=list(self._measures), value=measure, description="measure")
        self._number: Any = drop(options=[], description="show")
        hint = "values: 0,0.5,1 or FIRST:LAST:HOW-MANY"
        one = lambda label, name, values: (
            drop(options=self._names(name), value=name, description=label),
            text(value=values, tooltip=hint, layout=W.Layout(width="160px")),
        )
        self._across: tuple[Any, Any] = one("across", *across)
        self._up: tuple[Any, Any] = one("up", *up)
        hint = "the other axes, NAME=VALUES; ... and of several values the mean is drawn"
        self._also: Any = text(value=also, description="also", tooltip=hint, layout=W.Layout(width="470px"))
        self._retry = W.Checkbox(description="failed ones again", indent=False, layout=W.Layout(width="140px"))
        self._start = W.Button(description="start", button_style="primary", layout=W.Layout(width="90px"))
        self._cancel = W.Button(description="cancel", disabled=True, layout=W.Layout(width="90px"))
        self._bar = W.IntProgress(min=0, max=1, layout=W.Layout(width="220px"))
        self._message = W.HTML()

    def _arranged(self) -> tuple[W.Widget, ...]:
        self._start.on_click(lambda button: self.start())
        self._cancel.on_click(lambda button: self.cancel())
        self._source.observe(lambda change: self._tokens_changed(), "value")
        for name, values in (self._across, self._up):
            name.observe(lambda change, values=values: self._axis_changed(change.new, values), "value")
        for control in (self._measure, self._across[1], self._up[1], self._also):
            control.observe(lambda change: self._screen.answer(self._choose), "value")
        self._number.observe(lambda change: self._screen.answer(self._show), "value")
        self._copy = CopyButton(label="copy as code")
        said = lambda: {
            **{"measure": self._measure.value, "tokens": self._source.value, "number": self._shown[0]},
            **{"grid": {str(name): self.data[name].values for name in self.data.status.dims}},
        }
        row = lambda: W.Layout(flex_flow="row wrap", grid_gap="4px 10px")
        return (
            W.Box([self._source, self._measure, self._number], layout=row()),
            W.Box([W.HBox(self._across), W.HBox(self._up)], layout=row()),
            W.Box([self._also, self._retry], layout=row()),
            W.Box([self._start, self._cancel, self._bar, self._message], layout=row()),
            self.map,
            ExportRow("sweep", self.figure, said, more=[self._copy]),
        )

    def _names(self, *more: str) -> list[str]:
        taken = inspect.signature(self._sources[self._source.value]).parameters
        return list(dict.fromkeys([*GATES, *taken, *more]))

    def _tokens_changed(self) -> None:
        """Keep of the axes what the new tokens have."""
        names = self._names()
        for name, _ in (self._across, self._up):
            kept = name.value
            name.options = names
            name.value = kept if kept in names else next(n for n in names if n not in self._drawn_names())
        self._keep_also()
        self._screen.answer(self._choose)

    def _axis_changed(self, name: str, values: Any) -> None:
        self._keep_also()
        values.value = _USUAL.get(name, values.value)
        self._screen.answer(self._choose)

    def _keep_also(self) -> None:
        """Leave out of the other axes what the tokens have not, and what is drawn."""
        left = set(self._names()) - self._drawn_names()
        parts = [part.strip() for part in self._also.value.split(";")]
        self._also.value = "; ".join(part for part in parts if part.partition("=")[0].strip() in left)

    def _drawn_names(self) -> set[str]:
        return {self._across[0].value, self._up[0].value}

    def _choose(self) -> None:
        """Show what is known of the sweep that the controls say."""
        if self.running:
            return
        self._take(self._known())
        self._copy.text = self.code()
        self._progress("start computes what is missing" if self._done() < self.data.status.size else "")

    def _redraw(self) -> None:
        if self.running:
            self._take(self.data)
        else:
            self._choose()

    def _known(self) -> xr.Dataset:
        """Read what is kept of this sweep, or lay out an empty one."""
        grid = self.grid
        require_sweep(self._measures[self._measure.value], grid, self._sources[self._source.value])
        path = self.path
        if path.exists():
            return sweep.load(path)
        shape = [len(values) for values in grid.values()]
        nothing = {"status": (list(grid), np.zeros(shape, np.int8)), "error": (list(grid), np.full(shape, "", object))}
        return xr.Dataset(nothing, {name: (name, values) for name, values in grid.items()})

    def _work(self, call: Mapping[str, Any]) -> None:
        """Run a sweep, in a thread of its own; nobody sees what it would raise or print."""
        try:
            self._take(data := sweep.run(**call, progress=False, stop=self._stop.is_set, watch=self._watch))
        except Exception as error:
            self._screen.fail(error)
        else:
            self._screen.clear()
            ended = self._stop.is_set() and self._done() < data.status.size
            self._progress("cancelled; start goes on with the rest" if ended else "")
        finally:
            self._enable(True)

    def _watch(self, data: xr.Dataset) -> None:
        if time.monotonic() < self._drawn:
            return
        began = time.monotonic()
        self._take(data)
        began_at, before = self._began
        done, took = self._done() - before, began - began_at
        left = (data.status.size - self._done()) * took / max(done, 1)
        self._progress(f"about {left:.0f} s left" if took > 1 else "the first points are done")
        # However long drawing takes, most of the time is for computing.
        self._drawn = time.monotonic() + max(_EVERY, 3 * (time.monotonic() - began))

    def _take(self, data: xr.Dataset) -> None:
        """Draw results, and offer the numbers that they have."""
        with self._lock:
            self.data = data
            names = [str(name) for name in data.data_vars if name not in ("status", "error")]
            if names and list(self._number.options) != names:
                kept = next((name for name in (self._number.value, self._wanted) if name in names), names[0])
                self._number.options = names
                self._number.value = kept
            self._show()

    def _view(self) -> tuple[str, str, str]:
        return self._number.value or self._wanted, self._across[0].value, self._up[0].value

    def _show(self) -> None:
        with self._lock:
            view, axes = self._view(), {name: self.data[name].values for name in self.data.status.dims}
            if not {view[1], view[2]} <= axes.keys():
                return  # its axes are being changed
            self._shown = view
            cells = sweep.cells(self.data, *view)
            drawn = (view, {str(name): values.tolist() for name, values in axes.items()})
            before, self._on_screen = self._on_screen, None  # if drawing fails, it is half of either
            if drawn == before:
                self.map.redraw(*sweep_state(cells))
            else:
                self.map.show(sweep_figure(cells))
            self._on_screen = drawn

    def _done(self) -> int:
        return int((self.data.status != MISSING).sum())

    def _progress(self, words: str) -> None:
        size, done, failed = self.data.status.size, self._done(), int((self.data.status == FAILED).sum())
        self._bar.max, self._bar.value = size, done
        said = f"{done:,} of {size:,} points" + (f", {failed:,} failed" if failed else "")
        self._say(f"{said}; {words}" if words else said)

    def _say(self, words: str, wrong: bool = False) -> None:
        color = PROBLEM if wrong else "inherit"
        self._message.value = f'<span class="qdelta-sweep" style="color: {color}">{html.escape(words)}</span>'

    def _enable(self, free: bool) -> None:
        """Let the controls of what is computed move while nothing is."""
        controls = [self._source, self._measure, *self._across, *self._up, self._also, self._retry, self._start]
        for control in controls:
            control.disabled = not free
        self._cancel.disabled = free


def _choices(what: str, given: Any, table: Mapping[str, Any]) -> dict[str, Any]:
    """Return what can be chosen: everything with a name, and a function that was given."""
    if isinstance(given, str) and given in table:
        return dict(table)
    if isinstance(given, str) or not callable(given):
        raise ValueError(f"{what} is {given!r}; expected a function, or one of {', '.join(table)}.")
    return {_name(given): given, **table}


def _name(given: Any) -> str:
    return given if isinstance(given, str) else name_of(given).rpartition(".")[2]
