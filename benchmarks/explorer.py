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

from qdelta_analysis.guarantees import at_token
from qdelta_analysis.view import Gate, Settings, view
from tests.browser import driver

from .report import Figure, among_others, spread
from .timing import calmest

TITLE = "notebooks/00_explorer.ipynb in headless Chromium, T = 1024, K = V = 32, all panels live"
PANELS = {"state": "the state", "eigenvalue": "the eigenvalue", "words": "the words"}
WALK = 3  # presses to the right, and then as many back
STEP = 0.01  # what one press of an arrow key moves lam by
TOLERANCE = 1e-5  # of the browser's state, single precision, relative to its largest entry
PAUSE_MS = 300
PATIENCE_MS = 10_000
SPEED = 200  # tokens per second, the fastest that the scrubber offers


def measure(quick: bool = False) -> list[Figure]:
    """Press the arrow keys on lam's slider, then play, then drag the token's slider."""
    walks, seconds, spare = (1, 1.0, 0) if quick else (8, 4.0, 4)
    with notebook("00_explorer.ipynb") as page:
        found, pressing = calmest(_walk(page), walks, 2 * spare)
        played, playing = calmest(lambda: play(page, "explorer.scrubber", seconds), 1, spare)
        dragged, dragging = calmest(lambda: drag(page, "explorer.scrubber", seconds), 1, spare)
        driver.assert_clean(page)
    presses = [press for walk in found for press in walk]
    every = [press["all"] for press in presses]
    pressed = [
        *(
            spread(f"key to {what} on screen", [press[name] for press in presses], "ms")
            for name, what in PANELS.items()
        ),
        spread("key to all of these on screen", every, "ms", at_most=100),
        Figure("key to all of these, 95th percentile", quantiles(every, n=20)[-1], "ms", len(every), at_most=200),
    ]
    return [
        *among_others(pressed, pressing, "the presses"),
        *among_others(rate(f"playing at {SPEED} tokens/s", *played[0]), playing, "playing"),
        *among_others(rate("dragging the token's slider", *dragged[0]), dragging, "dragging"),
    ]


def rate(what: str, frames: float, gap: float, at_least: float = 20) -> list[Figure]:
    """Return frames per second, with their goal, and the longest time between two."""
    gaps = Figure(f"{what}: longest time between frames", gap, "ms")
    return [Figure(what, frames, "frames/s", at_least=at_least), gaps]


@contextmanager
def notebook(name: str, write: Callable[[Path], None] | None = None) -> Iterator[Page]:
    """Run a notebook in JupyterLab as `make lab` serves it; `write` may first put one into the folder."""
    executable = driver.find_chromium()
    if executable is None:
        raise RuntimeError("no Chromium was found: install one or set QDELTA_CHROMIUM to its path.")
    with (
        tempfile.TemporaryDirectory() as folder,
        driver.serve(Path(folder)) as lab,
        driver.chromium(executable) as browser,
        driver.open_page(browser) as page,
    ):
        if write is not None:
            write(lab.root)
        driver.open_and_run(page, lab, name)
        page.locator("canvas.qdelta-picture").first.wait_for()
        page.evaluate(Path(__file__).with_suffix(".js").read_text())
        yield page


def _walk(page: Page) -> Callable[[], list[dict[str, float]]]:
    """Return what walks with lam up and down again, and for each press gives the milliseconds until each panel."""
    token = driver.read_python(page, "explorer.token")
    expected = [_expected(1 + STEP * step, token) for step in range(WALK + 1)]
    for before, after in pairwise(expected):
        change = np.abs(np.subtract(before["state"], after["state"])).max()
        assert change > 10 * after["tolerance"], "a step of lam does not show in the state"
    handle = page.locator(".widget-slider", has_text="λ").locator(".noUi-handle")
    presses = [("ArrowRight", shown) for shown in expected[1:]] + [("ArrowLeft", shown) for shown in expected[-2::-1]]

    def walk() -> list[dict[str, float]]:
        handle.focus()
        return [_press(page, key, shown) for key, shown in presses]

    return walk


def _press(page: Page, key: str, expected: dict[str, Any]) -> dict[str, float]:
    page.wait_for_timeout(PAUSE_MS)
    page.evaluate(
        "([expected, patience]) => { window.qdeltaPress = qdeltaBench.watch(expected, patience); }",
        [expected, PATIENCE_MS],
    )
    page.keyboard.press(key)
    return page.evaluate("() => window.qdeltaPress")


def _expected(lam: float, token: int) -> dict[str, Any]:
    shown = view(Settings(lam=Gate(lam, scales=True)).inputs())
    state = shown.state(token)
    return {
        "state": state.ravel().tolist(),
        "tolerance": TOLERANCE * float(np.abs(state).max()),
        "eigenvalue": shown.eigenvalues(token)[1],
        "sentences": [s.sentence for s in at_token(shown.facts, token)],
    }


def play(page: Page, scrubber: str, seconds: float) -> tuple[float, float]:
    """Let time run in the scrubber of that name in the kernel; returns what `rate` needs."""
    return _frames(page, scrubber, lambda: page.wait_for_timeout(1000 * seconds), True)


def drag(page: Page, scrubber: str, seconds: float) -> tuple[float, float]:
    """Drag the scrubber's slider from end to end and back, once in two seconds; returns what `rate` needs."""
    return _frames(page, scrubber, lambda: _drag(page, seconds))


def _frames(page: Page, scrubber: str, act: Callable[[], None], play: bool = False) -> tuple[float, float]:
    """Return the frames per second that show another token meanwhile, and the longest time between two, in ms."""
    driver.run_python(page, f"{scrubber}.speed, {scrubber}.token = {SPEED}, 0")
    driver.run_python(page, f"{scrubber}.playing = {play}")
    page.wait_for_timeout(PAUSE_MS)
    page.evaluate("() => { window.qdeltaFrames = qdeltaBench.record(); }")
    begin = time.monotonic()
    act()
    seconds = time.monotonic() - begin
    times = page.evaluate("() => window.qdeltaFrames()")
    driver.run_python(page, f"{scrubber}.playing = False")
    return len(times) / seconds, max(b - a for a, b in pairwise(times))


def _drag(page: Page, seconds: float) -> None:
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
