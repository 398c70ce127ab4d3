"""Draw the pictures that the README and the notebooks show: `make figures`."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from qdelta_analysis.export import save_figure
from qdelta_analysis.plots import explorer_figure
from qdelta_analysis.view import Gate, Settings, view
from tests.browser import driver

ROOT = Path(__file__).resolve().parents[1]


def explorer() -> None:
    """Draw the explorer on the trained model: PDF and SVG for papers, PNG for notebook readers without widgets."""
    v = view(Settings().inputs())
    figure = explorer_figure(v, v.T // 2)
    for kind in ("pdf", "svg"):
        save_figure(figure, ROOT / "figures" / f"explorer.{kind}")
    save_figure(figure, ROOT / "notebooks" / "images" / "explorer.png", scale=1)


def growing_memory() -> None:
    """Draw the two-token cycle: every write contracts the error perfectly, and the memory doubles every two tokens."""
    v = view(Settings(source="two-token cycle", lam=Gate(1.0), beta=Gate(1.0), alpha=Gate(1.0)).inputs())
    figure = explorer_figure(v, v.T // 2)
    for kind in ("pdf", "svg"):
        save_figure(figure, ROOT / "figures" / f"growing_memory.{kind}")


def screenshot() -> None:
    """Photograph the explorer in JupyterLab, opened as `make lab` opens it."""
    executable = driver.find_chromium()
    if executable is None:
        raise RuntimeError("no Chrome was found to photograph; install one with Debian's package chromium.")
    with tempfile.TemporaryDirectory() as folder:
        notebooks = shutil.copytree(ROOT / "notebooks", Path(folder) / "notebooks")
        with (
            driver.serve(notebooks) as lab,
            driver.chromium(executable) as browser,
            driver.open_page(browser, viewport={"width": 1440, "height": 1180}) as page,
        ):
            driver.open_and_run(page, lab, "00_explorer.ipynb")
            page.wait_for_function("() => document.querySelector('.js-plotly-plot .point')")
            page.wait_for_timeout(2000)
            page.locator(".jp-NotebookPanel:visible").screenshot(path=ROOT / "notebooks" / "images" / "lab.png")


if __name__ == "__main__":
    for draw in (explorer, growing_memory, screenshot):
        draw()
        print(f"drew {draw.__name__}")
