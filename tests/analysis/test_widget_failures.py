"""A view that could not be made says so, shows no other one in its place, and exports nothing."""

import ipywidgets as W
import plotly.graph_objects as go
import pytest

from qdelta_analysis import generators
from qdelta_analysis.widgets import (
    Explorer,
    MemoryEvolution,
    Slides,
    SweepExplorer,
    evolution,
    explorer,
    exporting,
    stability,
    sweeps,
)


def tree(widget: W.Widget):
    """Yield a widget and everything in it, each with whether it can be seen."""

    def below(part, seen):
        seen = seen and part.layout.visibility != "hidden" and part.layout.display != "none"
        yield part, seen
        for child in getattr(part, "children", ()):
            yield from below(child, seen)

    yield from below(widget, True)


def said(widget: W.Widget) -> str:
    """All words that can be seen, but what the export button says."""
    rows = {id(part.children[-1]) for part, _ in tree(widget) if isinstance(part, exporting.ExportRow)}
    return " ".join(x.value for x, seen in tree(widget) if seen and isinstance(x, W.HTML) and id(x) not in rows)


def seen(widget: W.Widget, part: W.Widget) -> bool:
    return next(seen for found, seen in tree(widget) if found is part)


def export_of(widget: W.Widget) -> str:
    """Press the button; returns what its row says then."""
    (row,) = (part for part, _ in tree(widget) if isinstance(part, exporting.ExportRow))
    row.children[0].click()
    return row.children[-1].value


@pytest.fixture
def exported(monkeypatch) -> list:
    """What the buttons export, which needs no browser here."""
    written = []
    monkeypatch.setattr(exporting, "export", lambda figure, *a, **more: written.append((figure, more)) or ())
    return written


def raiser(error: BaseException, otherwise=None):
    """A function that raises while `broken` is in its list, and else is the one given."""
    state = {"broken": True}

    def function(*arguments, **options):
        if state["broken"]:
            raise error
        return otherwise(*arguments, **options)

    return function, state


ERRORS = [ValueError("x has 3; expected 4."), ZeroDivisionError("by zero"), KeyError("a"), MemoryError()]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_slides_whose_function_raises(error, exported):
    def make(level, switch):
        if level > 1 or switch:
            raise error
        return go.Figure(go.Scatter(y=[level]))

    slides = Slides(make, level=(0, 2, 0.5, 0.5), switch=False)
    for name, bad, good in (("level", 1.5, 1.0), ("switch", True, False)):
        slides.sliders[name].value = bad
        assert (str(error).strip("'") or type(error).__name__) in said(slides).replace("&#x27;", "")
        assert not seen(slides, slides.figure)
        assert "nothing was exported, since nothing is shown" in export_of(slides)
        assert exported == []
        slides.sliders[name].value = good
        assert seen(slides, slides.figure)
        assert type(error).__name__ not in said(slides)
    assert slides.figure.figure.data[0].y == (1.0,)
    export_of(slides)
    ((figure, more),) = exported
    assert figure.data[0].y == (1.0,)
    assert more["parameters"] == {"level": 1.0, "switch": False}


def test_slides_of_what_is_no_figure(as_users_call):
    with pytest.raises(TypeError, match="figure is NoneType; expected a figure of plotly"):
        Slides(lambda level: None, level=(0, 1, 0.5, 0))
    slides = Slides(lambda level: go.Figure() if level == 0 else 3, level=(0, 1, 0.5, 0))
    slides.sliders["level"].value = 1
    assert "figure is int; expected a figure of plotly" in said(slides)
    assert isinstance(slides.figure.figure, go.Figure)


def test_an_interrupted_view_is_not_shown():
    def make(level):
        if level > 0:
            raise KeyboardInterrupt
        return go.Figure()

    slides = Slides(make, level=(0, 1, 0.5, 0))
    with pytest.raises(KeyboardInterrupt):
        slides.sliders["level"].value = 1
    assert "KeyboardInterrupt" in said(slides)
    assert not seen(slides, slides.figure)


def test_parameters_that_cannot_be_written_down_are_said():
    row = exporting.ExportRow("x", go.Figure, lambda: {"a": object()})
    assert "object" in export_of(row)


# Where each widget's computation may fail: the module and the name of what then raises, and the control that is moved.
EXPLORER = {
    "inputs": (explorer, "view", lambda w: w._sliders["lam"], 0.5),
    "words": (explorer, "at_token", lambda w: w.scrubber, 7),
    "panels": (explorer, "time_traces", lambda w: w._head, 1),
    "check": (explorer, "outputs", lambda w: w._layer, 1),
    "spectrum": (explorer, "spectrum_traces", lambda w: w.scrubber, 9),
    "mode": (explorer, "view", lambda w: w._modes["beta"], "="),
    "source": (explorer, "view", lambda w: w._source, "cone"),
    "stability": (stability, "stability_map", lambda w: w._tabs, 1),
    "report": (stability.guarantees, "check", lambda w: w._tabs, 1),
}


def move(control, value) -> None:
    name = {"StateScrubber": "token", "Tab": "selected_index"}.get(type(control).__name__, "value")
    setattr(control, name, value)


@pytest.fixture(scope="module")
def one_explorer() -> Explorer:
    return Explorer()


@pytest.mark.parametrize("case", EXPLORER)
def test_an_explorer_that_cannot_compute(case, one_explorer, monkeypatch, exported):
    module, name, control, value = EXPLORER[case]
    widget = one_explorer
    function, state = raiser(ArithmeticError("no such luck"), getattr(module, name))
    monkeypatch.setattr(module, name, function)
    move(control(widget), value)
    assert "ArithmeticError: no such luck" in said(widget)
    pictures = (widget.scrubber, widget._words, widget._panels, widget._check)
    assert not any(seen(widget, picture) for picture in pictures)
    assert "no such luck" in export_of(widget)
    widget.scrubber.token = 3  # whose panels could be drawn, perhaps, over those of other settings
    assert not seen(widget, widget.scrubber) or name in ("spectrum_traces", "at_token")
    with pytest.raises(RuntimeError, match="no such luck"):
        widget.figure()
    assert exported == []
    state["broken"] = False
    widget.scrubber.token = 5
    assert all(seen(widget, picture) for picture in pictures)
    assert "no such luck" not in said(widget)
    assert widget.view is not None
    if widget._tabs.selected_index == 0:
        traces = {trace.meta: trace for trace in widget._panels.figure.data}
        assert list(traces["eigenvalues"].x) == list(widget.view.eigenvalues(5))
    export_of(widget)
    ((_, more),) = exported
    assert more["parameters"]["token"] == 5
    widget._tabs.selected_index = 0


def test_the_stability_maps_quantity_fails_and_comes_back(one_explorer, monkeypatch):
    widget = one_explorer
    widget._tabs.selected_index = 1
    function, state = raiser(ArithmeticError("no map"), stability.stability_map)
    monkeypatch.setattr(stability, "stability_map", function)
    widget._stability._quantity.value = "mean square"
    assert "no map" in said(widget)
    assert not seen(widget, widget._stability.maps)
    state["broken"] = False
    widget._sliders["lam"].value = 0.6
    assert seen(widget, widget._stability.maps)
    shown, still = widget._stability.maps.figure, widget.figure()
    assert shown.layout.coloraxis == still.layout.coloraxis  # of the mean square, as the buttons say


EVOLUTION = {
    "view": (evolution, "view", lambda w: w._sliders[0], 0.2),
    "measured": (evolution, "evolve", lambda w: w._sliders[0], 0.3),
    "drawn": (evolution, "evolution_traces", lambda w: w._sliders[1], 0.3),
    "whole": (evolution, "evolution_figure", lambda w: w._columns, "rules"),
    "legend": (evolution, "legend_html", lambda w: w._columns, "lam"),
    "numbers": (evolution, "effective_rank", lambda w: w.scrubber, 3),
}


@pytest.fixture(scope="module")
def memories() -> MemoryEvolution:
    return MemoryEvolution(generators.random_gates(T=20, K=4, V=3), lam=[0.0, 1.0])


@pytest.mark.parametrize("case", EVOLUTION)
def test_memories_that_cannot_be_computed(case, memories, monkeypatch, exported):
    module, name, control, value = EVOLUTION[case]
    widget = memories
    function, state = raiser(ArithmeticError("no such luck"), getattr(module, name))
    monkeypatch.setattr(module, name, function)
    move(control(widget), value)
    assert "ArithmeticError: no such luck" in said(widget)
    pictures = (widget.scrubber, widget._panels, widget._numbers, widget._legend)
    assert not any(seen(widget, picture) for picture in pictures)
    assert "no such luck" in export_of(widget)
    assert exported == []
    state["broken"] = False
    widget.scrubber.token = (widget.scrubber.token + 1) % 20
    assert all(seen(widget, picture) for picture in pictures)
    assert "no such luck" not in said(widget)
    names = [memory["name"] for memory in widget.scrubber.recording["memories"]]
    assert names == list(widget.memories()) == list(widget.views) == list(widget.dataset.memory.values)
    assert [note.text for note in widget._panels.figure.layout.annotations] == names
    export_of(widget)
    ((_, more),) = exported
    assert more["parameters"]["memories"] == names


def test_memories_out_of_range_are_not_exported(exported):
    widget = MemoryEvolution(generators.random_gates(T=20, K=4, V=3).with_lam(1.5), lam=[1.0])
    widget._mode.value = "× learned"
    widget._sliders[0].value = 1.5
    assert "lam has values in [2.25, 2.25]" in said(widget)
    assert not seen(widget, widget.scrubber)
    assert "lam has values in [2.25, 2.25]" in export_of(widget)
    widget._sliders[0].value = 1.0
    assert seen(widget, widget.scrubber)
    assert exported == []
    export_of(widget)
    assert len(exported) == 1


def test_a_sweep_that_the_controls_do_not_say_is_not_shown(monkeypatch, exported):
    widget = SweepExplorer(across=("lam", "0:1:3"), up=("beta", "0.5,1"), also="d=4; N=8; seed=0")
    widget.start()
    widget.wait(60)
    for control, wrong, right in ((widget._up[1], "0:1", "0.5,1"), (widget._also, "lam=1", "d=4; N=8; seed=0")):
        control.value = wrong
        assert "expected" in said(widget)
        assert not seen(widget, widget.map)
        assert "expected" in export_of(widget)
        assert exported == []
        control.value = right
        assert seen(widget, widget.map)
        assert "6 of 6 points" in said(widget)
    function, state = raiser(ArithmeticError("no cells"), sweeps.sweep.cells)
    monkeypatch.setattr(sweeps.sweep, "cells", function)
    widget._number.value = "oldest_error"
    assert "no cells" in said(widget)
    assert not seen(widget, widget.map)
    state["broken"] = False
    widget._number.value = "recall_error"
    assert seen(widget, widget.map)
    assert "no cells" not in said(widget)
    export_of(widget)
    assert exported[0][1]["parameters"]["number"] == "recall_error"


def test_a_sweep_that_fails_is_said_and_the_next_is_shown():
    axes = {"across": ("lam", "0:1:3"), "up": ("beta", "0.5,1")}
    with pytest.raises(ValueError, match="expected lam, beta, alpha and parameters of"):
        SweepExplorer(**axes, also="d=4; N=8; width=3")
    widget = SweepExplorer(**axes, also="d=4; N=8")
    widget._also.value = "d=4; N=8; width=3"
    widget.start()
    widget.wait(60)
    assert "expected lam, beta, alpha and parameters of" in said(widget)
    assert not seen(widget, widget.map)
    widget._also.value = "d=4; N=8"
    assert seen(widget, widget.map)
    widget.start()
    widget.wait(60)
    assert seen(widget, widget.map)
    assert "6 of 6 points" in said(widget)
