"""The explorer in a real Chromium: from a key on the lam slider to the pixels, and frames while time is scrubbed."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import quantiles
from typing import Any

import numpy as np
from playwright.sync_api import Page

from qdelta_analysis.statements import statements
from qdelta_analysis.view import Gate, Settings, view
from tests.browser import driver

from .report import Figure, timing

TITLE = "notebooks/00_explorer.ipynb in headless Chromium, T = 1024, K = V = 32, all panels live"
STEP = 0.01  # what one press of an arrow key moves lam by
TOLERANCE = 1e-5  # of the browser's state, single precision, relative to its largest entry
PAUSE_MS = 300
PATIENCE_MS = 10_000
SPEED = 200  # tokens per second, the fastest that the scrubber offers


def measure(quick: bool = False) -> list[Figure]:
    """Press the arrow keys on lam's slider, then play, then drag the token's slider."""
    presses, seconds = (4, 1.0) if quick else (48, 4.0)
    with _explorer() as page:
        times = _press(page, presses)
        played, played_gap = _frames(page, lambda: page.wait_for_timeout(1000 * seconds), play=True)
        dragged, dragged_gap = _frames(page, lambda: _drag(page, seconds))
        driver.assert_clean(page)
    names = {"state": "the state", "eigenvalue": "the eigenvalue", "words": "the words", "all": "all of them"}
    figures = [timing(f"key to {name} on screen", [t[key] / 1e3 for t in times]) for key, name in names.items()]
    middle, p95 = figures[-1], quantiles((t["all"] for t in times), n=20)[-1]
    return [
        *figures[:-1],
        Figure(middle.name, middle.value, middle.unit, middle.repeats, middle.low, middle.high, at_most=100),
        Figure(f"{middle.name}, 95th percentile", p95, "ms", middle.repeats, at_most=200),
        Figure(f"playing at {SPEED} tokens/s", played, "frames/s", at_least=20),
        Figure("playing: longest time between frames", played_gap, "ms"),
        Figure("dragging the token's slider", dragged, "frames/s", at_least=20),
        Figure("dragging: longest time between frames", dragged_gap, "ms"),
    ]


@contextmanager
def _explorer() -> Iterator[Page]:
    """Run the notebook in JupyterLab as `make lab` serves it."""
    executable = driver.find_chromium()
    if executable is None:
        raise RuntimeError("no Chromium was found: install one or set QDELTA_CHROMIUM to its path.")
    with (
        tempfile.TemporaryDirectory() as folder,
        driver.serve(Path(folder)) as lab,
        driver.chromium(executable) as browser,
        driver.open_page(browser) as page,
    ):
        driver.open_and_run(page, lab, "00_explorer.ipynb")
        page.locator("canvas.qdelta-picture").wait_for()
        page.evaluate(Path(__file__).with_suffix(".js").read_text())
        yield page


def _press(page: Page, presses: int) -> list[dict[str, float]]:
    """Return, for each press, the milliseconds until each panel shows what the API computes for the new lam."""
    token = driver.read_python(page, "explorer.token")
    walk = [1 if i < presses / 2 else -1 for i in range(presses)]
    steps = np.cumsum(walk).tolist()
    expected = {step: _expected(1 + STEP * step, token) for step in {0, *steps}}
    for before, after in pairwise([0, *steps]):
        change = np.abs(np.subtract(expected[before]["state"], expected[after]["state"])).max()
        assert change > 10 * expected[after]["tolerance"], "a step of lam does not show in the state"
    handle = page.locator(".widget-slider", has_text="λ").locator(".noUi-handle")
    handle.focus()
    times = []
    for way, step in zip(walk, steps, strict=True):
        page.wait_for_timeout(PAUSE_MS)
        page.evaluate(
            "([expected, patience]) => { window.qdeltaPress = qdeltaBench.watch(expected, patience); }",
            [expected[step], PATIENCE_MS],
        )
        page.keyboard.press("ArrowRight" if way > 0 else "ArrowLeft")
        times.append(page.evaluate("() => window.qdeltaPress"))
    return times


def _expected(lam: float, token: int) -> dict[str, Any]:
    shown = view(Settings(lam=Gate(lam, scales=True)).inputs())
    state = shown.state(token)
    return {
        "state": state.ravel().tolist(),
        "tolerance": TOLERANCE * float(np.abs(state).max()),
        "eigenvalue": shown.eigenvalues(token)[1],
        "sentences": [s.sentence for s in statements(shown, token)],
    }


def _frames(page: Page, act: Callable[[], None], play: bool = False) -> tuple[float, float]:
    """Return the frames per second that show another token meanwhile, and the longest time between two, in ms."""
    driver.run_python(page, f"explorer.scrubber.speed, explorer.scrubber.token = {SPEED}, 0")
    driver.run_python(page, f"explorer.scrubber.playing = {play}")
    page.wait_for_timeout(PAUSE_MS)
    page.evaluate("() => { window.qdeltaFrames = qdeltaBench.record(); }")
    begin = time.monotonic()
    act()
    seconds = time.monotonic() - begin
    times = page.evaluate("() => window.qdeltaFrames()")
    driver.run_python(page, "explorer.scrubber.playing = False")
    return len(times) / seconds, max(b - a for a, b in pairwise(times))


def _drag(page: Page, seconds: float) -> None:
    """Drag the scrubber's slider from end to end and back, once in two seconds."""
    slider = page.locator(".qdelta-slider")
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    assert box is not None
    left, width, middle = box["x"] + 8, box["width"] - 16, box["y"] + box["height"] / 2
    page.mouse.move(left, middle)
    page.mouse.down()
    begin = time.monotonic()
    while (elapsed := time.monotonic() - begin) < seconds:
        page.mouse.move(left + width * (1 - abs(elapsed % 2 - 1)), middle)
    page.mouse.up()
