"""Notebooks that are run and made into a page show their figures there, without a network."""

import re

import nbformat
import plotly.io as pio
import pytest
from nbclient import NotebookClient
from nbconvert import HTMLExporter

from qdelta_analysis.plots import pages

CELLS = [
    "import numpy as np\nimport plotly.graph_objects as go\nfrom qdelta_analysis import Transition, plots",
    "go.Figure(go.Scatter(y=[1, 2], name='</script><b>'))",
    "display(go.Figure(go.Scatter(y=[2, 3])), go.Figure(go.Scatter(y=[3, 4])))",
    "plots.norm_against_lam(Transition(np.eye(2)[[0, 0]], np.eye(2)[[1, 1]], 0.9, np.array([0.0, 1.0])))",
    "from qdelta_analysis.widgets import Slides\nSlides(lambda x: go.Figure(), x=(0, 1, 0.5, 0))",
]
LIBRARY = "plotly.js v"


@pytest.fixture(scope="module")
def notebook() -> nbformat.NotebookNode:
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    return NotebookClient(made, timeout=300, kernel_name="python3").execute()


def test_every_figure_is_on_the_page_and_the_library_once(notebook):
    page, _ = HTMLExporter().from_notebook_node(notebook)
    names = re.findall(r'Plotly\.newPlot\("(figure-[^"]+)"', page)
    assert len(names) == len(set(names)) == 4
    assert all(f'<div id="{name}">' in page for name in names)
    assert page.count(LIBRARY) == 1
    assert page.index(LIBRARY) < page.index(names[0])
    assert "</script><b>" not in page
    assert not re.search(r"<script[^>]* src=[^>]*plot", page)


def test_jupyterlab_gets_what_it_draws_as_before(notebook):
    bundles = [out.data for cell in notebook.cells for out in cell.outputs if out.output_type != "stream"]
    figures = [data for data in bundles if "application/vnd.plotly.v1+json" in data]
    assert len(figures) == 4
    assert all("text/html" in data for data in figures)
    assert figures[0]["application/vnd.plotly.v1+json"]["data"][0]["y"] is not None


@pytest.mark.parametrize("chosen", ["json", "notebook", "plotly_mimetype+png"])
def test_a_choice_of_another_renderer_stays(chosen, monkeypatch):
    monkeypatch.delenv("PLOTLY_RENDERER", raising=False)
    before = pio.renderers.default
    try:
        pio.renderers.default = chosen
        pages.keep_for_pages()
        assert pio.renderers.default == chosen
        pio.renderers.default = "plotly_mimetype"
        pages.keep_for_pages()
        assert pio.renderers.default == "plotly_mimetype+qdelta_page"
    finally:
        pio.renderers.default = before


def test_the_cell_that_holds_the_library_holds_it_again_when_it_is_run_again(monkeypatch):
    renderer, at = pages.PageRenderer(), [("a", 1)]
    monkeypatch.setattr(pages, "_running", lambda: at[0])
    figure = {"data": [], "layout": {}}

    def brings(cell: str, run: int) -> bool:
        at[0] = (cell, run)
        return LIBRARY in renderer.to_mimebundle(figure)["text/html"]

    runs = [("a", 1), ("a", 1), ("b", 2), ("b", 3), ("a", 4), ("a", 4), ("b", 5)]
    assert [brings(*run) for run in runs] == [True, False, False, False, True, False, False]
