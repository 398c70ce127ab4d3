"""A notebook made into a page, in a real browser: its figures are drawn, wherever the library is on it."""

from pathlib import Path

import nbformat
import plotly.graph_objects as go
import pytest
from nbconvert import HTMLExporter
from playwright.sync_api import Browser

from qdelta_analysis.plots.pages import PageRenderer

from . import driver

pytestmark = pytest.mark.browser


def test_a_page_draws_its_figures_without_a_network(browser: Browser, tmp_path: Path):
    renderer = PageRenderer()
    figures = [go.Figure(go.Scatter(y=[1, n], name="</script>")).to_dict() for n in range(3)]
    shown = [nbformat.v4.new_output("display_data", data=renderer.to_mimebundle(figure)) for figure in figures]
    cells = [nbformat.v4.new_code_cell("", outputs=[output]) for output in shown[::-1]]  # the library comes last
    page_text, _ = HTMLExporter().from_notebook_node(nbformat.v4.new_notebook(cells=cells))
    (tmp_path / "page.html").write_text(page_text)
    with driver.open_page(browser) as page:
        page.goto((tmp_path / "page.html").as_uri(), wait_until="domcontentloaded")
        page.wait_for_function("() => document.querySelectorAll('.js-plotly-plot .js-line').length === 3")
        assert page.evaluate("() => [...document.querySelectorAll('.js-plotly-plot')].map((x) => x.data[0].y[1])") == [
            2,
            1,
            0,
        ]
