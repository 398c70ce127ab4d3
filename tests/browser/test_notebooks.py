"""The story notebooks in a real browser: they run, their sliders move their figures, and nothing asks for a network."""

from __future__ import annotations

import numpy as np
import pytest
from playwright.sync_api import Browser

from qdelta_analysis import Transition, chunks, generators, hardware, load_trained, trace
from qdelta_kernels.gpu import HAS_TRITON

from . import driver

pytestmark = pytest.mark.browser

DATA = """(n) => [...document.querySelectorAll('.js-plotly-plot')][n].data.map(
  (t) => Array.from(t.y._inputArray ?? t.y))"""


def moved(page, label: str, key: str, figure: int) -> list:
    """Press a key on the slider with this label; returns the figure's y arrays once they changed."""
    before = page.evaluate(DATA, figure)
    slider = page.locator(".widget-slider", has=page.locator(f".widget-label:text-is('{label}')")).first
    slider.locator(".noUi-handle").focus()
    page.keyboard.press(key)
    return changed(page, before, figure)


def changed(page, before: list, figure: int) -> list:
    """Wait until the figure's y arrays are no longer what they were; returns them."""
    page.wait_for_function(
        f"([n, before]) => JSON.stringify(({DATA})(n)) !== before",
        arg=[figure, page.evaluate("JSON.stringify", before)],
        timeout=20000,
    )
    page.wait_for_timeout(300)
    return page.evaluate(DATA, figure)


def test_transition_matrix(browser: Browser, lab: driver.Lab):
    with driver.open_page(browser, viewport={"width": 1200, "height": 2000}) as page:
        driver.open_and_run(page, lab, "01_transition_matrix.ipynb")
        page.wait_for_selector(".js-plotly-plot .js-line", state="attached")
        norm, radius, *_ = moved(page, "beta", "ArrowLeft", 0)
        k, q = np.tile([1.0, 0.0], (201, 1)), np.tile([0.0, 1.0], (201, 1))
        t = Transition(k, q, 0.99, np.linspace(0, 2, 201))
        np.testing.assert_allclose(norm, t.operator_norm(), atol=1e-9)
        np.testing.assert_allclose(radius, t.spectral_radius(), atol=1e-9)
        driver.assert_clean(page)


def test_contraction_and_tracking(browser: Browser, lab: driver.Lab):
    with driver.open_page(browser, viewport={"width": 1200, "height": 2000}) as page:
        driver.open_and_run(page, lab, "02_contraction_and_tracking.ipynb")
        assert "proved" in page.inner_text("body")
        assert "refuted" in page.inner_text("body")
        page.wait_for_selector(".js-plotly-plot .js-line", state="attached")
        bound, error = moved(page, "scale", "ArrowLeft", 0)
        x = load_trained()[0].heads(2)
        np.testing.assert_allclose(error, trace(x.with_lam(0.95 * x.lam), 0).error_after[0, :, 0], rtol=1e-5)
        assert (np.array(error) <= bound).all()
        assert "SymPy checked every step" in page.inner_text("body")
        driver.assert_clean(page)


def test_memory_can_grow(browser: Browser, lab: driver.Lab):
    with driver.open_page(browser, viewport={"width": 1200, "height": 5000}) as page:
        driver.open_and_run(page, lab, "03_memory_can_grow.ipynb")
        page.wait_for_selector(".js-plotly-plot .js-line", state="attached")
        _, norm, *_ = moved(page, "lam", "ArrowLeft", 0)
        cycle = generators.two_token_cycle(T=64, lam=0.95)
        np.testing.assert_allclose(norm, trace(cycle, 0).state_norm[0, :, 0], rtol=1e-9)
        before = page.evaluate(DATA, 0)
        page.locator(".widget-checkbox", has_text="compensate").locator("input").check()
        _, norm, *_ = changed(page, before, 0)
        mended = trace(cycle.with_norm_compensation(), 0).state_norm[0, :, 0]
        np.testing.assert_allclose(norm, mended, rtol=1e-9)
        assert max(norm) < 1e-6 * before[1][-1]
        driver.assert_clean(page)


def test_chunkwise_kernels(browser: Browser, lab: driver.Lab):
    with driver.open_page(browser, viewport={"width": 1200, "height": 6000}) as page:
        driver.open_and_run(page, lab, "06_chunkwise_kernels.ipynb", seconds=240)
        count = 5 if HAS_TRITON else 4  # and one more once a GPU run is recorded
        count += hardware.recorded_throughput() is not None
        last = f"[...document.querySelectorAll('.js-plotly-plot')][{count - 1}]"
        page.wait_for_function(f"() => {last}?.querySelectorAll('.js-line').length === 8")
        released, *_ = moved(page, "lam", "ArrowLeft", 2)
        x = load_trained()[0]
        exact = chunks.chunk_deviation(x, 0.28, 64).by_token.squeeze().sel(form="released")
        np.testing.assert_allclose(released, exact.clip(min=1e-17), rtol=1e-6)
        whole = page.evaluate(DATA, count - 1)
        closer = moved(page, "zoom", "ArrowRight", count - 1)
        assert max(closer[1]) == max(whole[1])  # the largest ||A|| of all tokens stays on the screen
        driver.assert_clean(page)
