"""JupyterLab as `qdelta lab` starts it."""

import sys

import nbformat
import pytest
from playwright.sync_api import Page

from . import driver

pytestmark = pytest.mark.browser


def test_the_first_start_asks_nothing_and_runs_this_python(page: Page, lab: driver.Lab):
    cell = nbformat.v4.new_code_cell("import sys")
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata={"kernelspec": kernel})
    nbformat.write(notebook, lab.root / "start.ipynb")
    driver.open_and_run(page, lab, "start.ipynb")
    assert driver.read_python(page, "sys.executable") == sys.executable
    assert page.evaluate("() => jupyterapp.shell.currentWidget.content.notebookConfig.windowingMode") == "defer"
    assert page.locator(".Toastify__toast, .jp-Dialog").count() == 0


def test_a_failing_cell_and_a_request_to_the_outside_are_found(page: Page, lab: driver.Lab):
    cell = nbformat.v4.new_code_cell("raise ValueError('seen')")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), lab.root / "fails.ipynb")
    with pytest.raises(AssertionError, match="ValueError: seen"):
        driver.open_and_run(page, lab, "fails.ipynb")
    page.evaluate("() => fetch('https://example.org/x').catch(() => null)")
    page.evaluate("() => console.error('wrong')")
    with pytest.raises(AssertionError, match=r"https://example\.org/x"):
        driver.assert_clean(page)
    driver.forget(page)
    page.evaluate("() => console.error('wrong')")
    with pytest.raises(AssertionError, match="wrong"):
        driver.assert_clean(page)
    driver.forget(page)
