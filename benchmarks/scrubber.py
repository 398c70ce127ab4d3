"""The scrubber of memories in a real Chromium: frames while time runs and while it is dragged, at 128 x 128."""

from __future__ import annotations

from pathlib import Path

import nbformat
import numpy as np
from playwright.sync_api import Page

from qdelta_analysis import generators
from qdelta_analysis.view import view
from tests.browser import driver

from .explorer import SPEED, drag, notebook, play, rate
from .report import Figure, among_others
from .timing import calmest

SIDE, TOKENS = 128, 1024
SEVERAL = 3
TITLE = f"StateScrubber in JupyterLab in headless Chromium, T = {TOKENS}, K = V = {SIDE}"
TOLERANCE = 1e-4  # of the browser's state, single precision, relative to its largest entry
GOAL = 25  # frames a second
_NAME = "scrubber.ipynb"

_CELL = f"""
from qdelta_analysis import generators
from qdelta_analysis.view import view
from qdelta_analysis.widgets import StateScrubber

views = {{}}
for seed in range({SEVERAL}):
    views[f"memory {{seed}}"] = view(generators.random_gates({TOKENS}, {SIDE}, {SIDE}, seed=seed))
shown = {{
    name: dict(k=v.k, u=v.update, alpha=v.alpha, anchors=v.anchors, stride=v.stride) for name, v in views.items()
}}
scrubber = StateScrubber()
scrubber.load(**shown["memory 0"])
scrubber
"""


def measure(quick: bool = False) -> list[Figure]:
    """Play and drag one memory, and then several side by side."""
    seconds, spare = (1.0, 0) if quick else (4.0, 4)
    figures = []
    with notebook(_NAME, _write) as page:
        for count in (1, SEVERAL):
            if count > 1:
                driver.run_python(page, "scrubber.load_side_by_side(shown)")
                page.locator("canvas.qdelta-picture").nth(count - 1).wait_for()
            _check(page, count)
            what = "one memory" if count == 1 else f"{count} memories side by side"
            played, playing = calmest(lambda: play(page, "scrubber", seconds), 1, spare)
            dragged, dragging = calmest(lambda: drag(page, "scrubber", seconds), 1, spare)
            figures += among_others(rate(f"{what}, playing at {SPEED} tokens/s", *played[0], GOAL), playing, what)
            figures += among_others(rate(f"{what}, dragging", *dragged[0], GOAL), dragging, f"dragging {what}")
        driver.assert_clean(page)
    return figures


def _write(folder: Path) -> None:
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    cell = nbformat.v4.new_code_cell(_CELL)
    nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata={"kernelspec": kernel}), folder / _NAME)


def _check(page: Page, count: int) -> None:
    """Raise AssertionError where a map at the last token is not the recurrence's."""
    driver.run_python(page, f"scrubber.token = {TOKENS - 1}")
    page.wait_for_function(
        "(n) => [...document.querySelectorAll('.qdelta-picture')].every((c) => c.qdelta.token === n)", arg=TOKENS - 1
    )
    made = (generators.random_gates(TOKENS, SIDE, SIDE, seed=seed) for seed in range(count))
    expected = np.stack([view(inputs).state(TOKENS - 1).ravel() for inputs in made])
    found = page.evaluate("() => [...document.querySelectorAll('.qdelta-picture')].map((c) => [...c.qdelta.state])")
    assert len(found) == count, f"{len(found)} maps are drawn; expected {count}"
    assert np.abs(np.array(found) - expected).max() <= TOLERANCE * np.abs(expected).max(), "a map is no such state"
