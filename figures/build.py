"""Draw every recipe's figure and write the gallery, and photograph the explorer: `make figures`."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from PIL import Image

from qdelta_analysis import gallery
from tests.browser import driver

ROOT = Path(__file__).resolve().parents[1]


def figures() -> None:
    """Draw the gallery, and give its explorer to notebook readers without widgets."""
    for recipe in gallery.recipes(ROOT / "figures"):
        gallery.build(ROOT / "figures", recipe)
        print(f"drew {recipe.name}", flush=True)
    gallery.write_page(ROOT / "figures")
    with Image.open(ROOT / "figures" / "00_explorer.png") as image:
        image.convert("RGB").reduce(2).save(ROOT / "notebooks" / "images" / "explorer.png", optimize=True)


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
    figures()
    screenshot()
