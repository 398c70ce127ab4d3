"""Memories side by side in JupyterLab: the scrubber's maps against the recurrence, and notebook 04's widgets."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import nbformat
import numpy as np
import pytest
import torch
from playwright.sync_api import Browser, Page

from qdelta_analysis import evolution, load_trained
from qdelta_analysis.view import view

from . import driver
from .test_scrubber import recording

pytestmark = pytest.mark.browser

TOKENS, SHORT, SIDE = 150, 90, 128
STATES = [recording(tokens, SIDE, seed)[-1] for seed, tokens in ((0, TOKENS), (1, SHORT), (2, TOKENS))]
NAMES = ["one", "two", "three"]

NOTEBOOK = f"""
import numpy as np
from qdelta_analysis.widgets import StateScrubber

{inspect.getsource(recording)}
memories = {{}}
for seed, (name, tokens) in enumerate({list(zip(NAMES, (TOKENS, SHORT, TOKENS), strict=True))}):
    k, u, alpha, anchors, states = recording(tokens, {SIDE}, seed)
    memories[name] = dict(k=k, u=u, alpha=alpha, anchors=anchors, stride=64)
scrubber = StateScrubber()
scrubber.load_side_by_side(memories)
scrubber
"""

STATE = "([n, size]) => [...document.querySelectorAll('.qdelta-picture')][n].qdelta.state.slice(0, size)"
TOKEN = "(n) => [...document.querySelectorAll('.qdelta-picture')].every((c) => c.qdelta.token === n)"


def shown(page: Page, n: int, shape: tuple[int, int]) -> np.ndarray:
    """Return the state that the n-th map of the page shows."""
    found = page.evaluate(f"(a) => [...({STATE})(a)]", [n, shape[0] * shape[1]])
    return np.array(found).reshape(shape)


@pytest.fixture(scope="module")
def page(browser: Browser, lab: driver.Lab) -> Iterator[Page]:
    cell = nbformat.v4.new_code_cell(NOTEBOOK)
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata={"kernelspec": kernel})
    nbformat.write(notebook, lab.root / "several.ipynb")
    with driver.open_page(browser, viewport={"width": 1400, "height": 1000}) as page:
        driver.open_and_run(page, lab, "several.ipynb")
        page.locator(".qdelta-picture").nth(2).wait_for()
        yield page
        driver.assert_clean(page)


def test_one_clock_moves_all_memories(page: Page):
    page.locator(".qdelta-scrubber").focus()
    for key, token in (("ArrowRight", 1), ("ArrowRight", 2), ("End", TOKENS - 1), ("ArrowLeft", TOKENS - 2)):
        page.keyboard.press(key)
        page.wait_for_function(TOKEN, arg=token)
        for n, states in enumerate(STATES):
            exact = states[min(token, len(states) - 1)]
            np.testing.assert_allclose(shown(page, n, exact.shape), exact, atol=1e-4)
    names = page.locator(".qdelta-name").all_inner_texts()
    assert names == ["one", f"two (ends at token {SHORT - 1})", "three"]


def test_playing_draws_every_memory_in_every_frame(page: Page):
    frames = "() => [...document.querySelectorAll('.qdelta-picture')].map((c) => c.qdelta.frames)"
    driver.run_python(page, "scrubber.token, scrubber.speed = 0, 100")
    page.wait_for_function(TOKEN, arg=0)
    before = page.evaluate(frames)
    page.get_by_role("button", name="Play", exact=True).click()
    page.wait_for_function("() => document.querySelector('.qdelta-picture').qdelta.token > 80")
    driver.run_python(page, "scrubber.playing = False")
    page.get_by_role("button", name="Play", exact=True).wait_for()
    drawn = np.subtract(page.evaluate(frames), before)
    assert drawn[0] == drawn[1] == drawn[2] > 3
    token = page.evaluate("() => document.querySelector('.qdelta-picture').qdelta.token")
    page.wait_for_function(TOKEN, arg=token)
    for n, states in enumerate(STATES):
        exact = states[min(token, len(states) - 1)]
        np.testing.assert_allclose(shown(page, n, exact.shape), exact, atol=1e-4)


def test_a_cell_is_read_in_every_memory(page: Page):
    driver.run_python(page, "scrubber.token = 40")
    page.wait_for_function(TOKEN, arg=40)
    second = page.locator(".qdelta-picture").nth(1)
    box = second.bounding_box()
    assert box is not None
    second.hover(position={"x": (100 + 0.5) * box["width"] / SIDE, "y": (7 + 0.5) * box["height"] / SIDE})
    said = page.locator(".qdelta-status").inner_text().replace("−", "-")
    place, values = said.split(": ")
    assert place == "value 7, key 100"
    for part, name, states in zip(values.split(", "), NAMES, STATES, strict=True):
        value, where = part.split(" ", 1)
        assert where == f"({name})"
        assert float(value) == pytest.approx(states[40][7, 100], rel=2e-3, abs=1e-6)


def test_colours_are_shared_and_span_the_recording_or_the_token(page: Page):
    limit = "() => Number(document.querySelector('.qdelta-marks span').textContent)"
    driver.run_python(page, "scrubber.token = 40")
    page.wait_for_function(TOKEN, arg=40)
    whole, now = (max(np.abs(s).max() for s in states) for states in (STATES, [s[40] for s in STATES]))
    assert page.evaluate(limit) == pytest.approx(whole, rel=1e-3)
    driver.run_python(page, "scrubber.colors_span = 'token'")
    page.wait_for_function(f"(before) => ({limit})() < before", arg=0.99 * float(whole))
    assert page.evaluate(limit) == pytest.approx(now, rel=1e-3)
    driver.run_python(page, "scrubber.colors_span = 'recording'")


SHAPES = (
    "() => document.querySelector('.js-plotly-plot').layout.shapes.filter((s) => s.name === 'token').map((s) => s.x0)"
)
RANK = "(n) => Array.from([...document.querySelectorAll('.js-plotly-plot')][0].data.find((t) => t.meta === n).y)"
NAMES_SHOWN = (
    "() => [...document.querySelectorAll('.qdelta-scrubber')][0].querySelectorAll('.qdelta-name')[0].textContent"
)


def test_memory_evolution(browser: Browser, lab: driver.Lab):
    x = load_trained()[0].to(torch.float64)
    with driver.open_page(browser, viewport={"width": 1400, "height": 9000}) as page:
        driver.open_and_run(page, lab, "04_memory_evolution.ipynb")
        page.wait_for_selector(".js-plotly-plot .js-line", state="attached")
        page.wait_for_function(f"() => ({SHAPES})().length === 3")
        before = page.evaluate(RANK, "effective_rank 0")
        page.locator(".widget-slider .noUi-handle").first.focus()
        for _ in range(5):
            page.keyboard.press("ArrowRight")
        page.wait_for_function(f"() => ({NAMES_SHOWN})() === 'λ = 0.05'")
        page.wait_for_function(f"(old) => String(({RANK})('effective_rank 0')) !== String(old)", arg=before)
        moved = x.heads(2).with_lam(0.05)
        exact = view(moved).state(512)
        np.testing.assert_allclose(shown(page, 0, exact.shape), exact, atol=1e-4)
        evolved = evolution.evolve({"it": moved})
        page.wait_for_function(
            f"(last) => Math.abs(({RANK})('effective_rank 0').at(-1) - last) < 1e-9",
            arg=float(evolved.effective_rank[0, -1]),
        )
        # Scrubbing moves the line in all panels, and the table.
        page.locator(".qdelta-scrubber").first.focus()
        page.keyboard.press("ArrowRight")
        page.wait_for_function(f"() => ({SHAPES})().every((x) => x === 513)")
        page.wait_for_function("() => document.querySelector('.qdelta-numbers').textContent.startsWith('at token 513')")
        page.locator(".widget-dropdown", has_text="head").locator("select").first.select_option("1")
        page.get_by_role("button", name="rules", exact=True).or_(page.locator("button", has_text="rules")).first.click()
        page.wait_for_function(f"() => ({NAMES_SHOWN})() === 'DeltaNet'")
        for n, rule in enumerate(evolution.rules(x.heads(1)).values()):
            exact = view(rule).state(513)
            np.testing.assert_allclose(shown(page, n, exact.shape), exact, atol=1e-4)
        driver.assert_clean(page)
