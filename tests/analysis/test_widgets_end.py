"""Widgets end when they are closed: no model of theirs is left, and nothing keeps what they hold in memory."""

import gc
import weakref

import ipywidgets as W
import nbformat
import plotly.graph_objects as go
import pytest
from ipywidgets.widgets.widget import _instances as models  # all that are open
from nbclient import NotebookClient

from qdelta_analysis import generators
from qdelta_analysis.widgets import Explorer, MemoryEvolution, Slides, StateScrubber, SweepExplorer
from qdelta_analysis.widgets.live_figure import LiveFigure
from qdelta_analysis.widgets.report_table import ReportTable

SMALL = {"across": ("lam", "0:1:2"), "up": ("beta", "0.5,1"), "also": "d=4; N=8; seed=0"}


def opened_at_the_other_tab() -> Explorer:
    made = Explorer()
    made._tabs.selected_index = 1
    made.scrubber.token = 3
    return made


def swept() -> SweepExplorer:
    made = SweepExplorer(**SMALL)
    made.start()
    made.wait(60)
    return made


MADE = {
    "Explorer": opened_at_the_other_tab,
    "MemoryEvolution": lambda: MemoryEvolution(generators.random_gates(T=8, K=4, V=3)),
    "SweepExplorer": swept,
    "Slides": lambda: Slides(lambda x: go.Figure(go.Scatter(y=[x])), x=(0, 1, 0.5, 0)),
    "StateScrubber": StateScrubber,
    "LiveFigure": lambda: LiveFigure(go.Figure()),
    "ReportTable": lambda: ReportTable(print),
}
ENDED = {"closed": lambda made: made.close(), "all closed": lambda made: W.Widget.close_all()}


def released(kind: str, end) -> None:
    """Make a widget, end it, and see that its models and its memory are given back."""
    before = set(models)
    made = MADE[kind]()
    mine = [weakref.ref(models[name]) for name in set(models) - before]
    assert weakref.ref(made) in mine
    folder = getattr(made, "_folder", None)  # of a sweep that was given none
    end(made)
    assert set(models) <= before
    del made
    gc.collect()
    assert [ref() for ref in mine if ref() is not None] == []
    assert folder is None or not folder.exists()


@pytest.mark.parametrize("end", ENDED)
@pytest.mark.parametrize("kind", MADE)
def test_a_widget_that_has_ended_is_released(kind, end):
    released(kind, ENDED[end])


@pytest.mark.parametrize("kind", MADE)
def test_after_all_are_closed_new_ones_can_be_made(kind):
    W.Widget.close_all()
    made = MADE[kind]()
    made.close()
    made.close()  # which changes nothing
    assert not models


def test_a_sweep_ends_with_its_widget():
    seen = []

    def slowly(x):
        seen.append(x)
        return 1.0

    made = SweepExplorer(slowly, across=("lam", "0:1:5"), up=("seed", "0:999:1000"), also="d=2; N=2", number="value")
    made.start()
    while not seen:
        made._worker.join(0.01)
    made.close()
    made.wait(60)
    assert len(seen) < 5000


CELL = """
import gc, weakref
from IPython.display import display
from ipywidgets.widgets.widget import _instances as models
from qdelta_analysis.widgets import {kind}
if "shown" in globals():
    shown.close()
else:
    seen = []
shown = {kind}()
seen.append(weakref.ref(shown))
display(shown)
gc.collect()
print(sum(ref() is not None for ref in seen), len(models))
"""


@pytest.mark.parametrize("kind", ["MemoryEvolution", "Explorer"])
def test_a_cell_run_again_leaves_one_widget_in_the_kernel(kind):
    cell = nbformat.v4.new_code_cell(CELL.format(kind=kind))
    client = NotebookClient(nbformat.v4.new_notebook(cells=[cell]), timeout=300, kernel_name="python3")
    said = []
    with client.setup_kernel():
        for _ in range(3):
            done = client.execute_cell(cell, 0)
            said.append(next(out.text for out in done.outputs if out.output_type == "stream"))
    alive, count = said[0].split()
    assert alive == "1"
    assert int(count) > 10
    assert said == [said[0]] * 3
