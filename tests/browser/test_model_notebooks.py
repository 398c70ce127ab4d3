"""The notebooks about models in a real browser: they run, their sliders move their figures, no network is asked for."""

from __future__ import annotations

import numpy as np
import pytest
from playwright.sync_api import Browser

from qdelta_analysis import influence, load_trained, readouts
from qdelta_analysis.learning import experiments

from . import driver
from .test_notebooks import DATA, moved

pytestmark = pytest.mark.browser


def drawn(page, count: int) -> None:
    """Wait until there are this many figures, each with something drawn in it."""
    page.wait_for_function(
        "(n) => { const all = [...document.querySelectorAll('.js-plotly-plot')]; return all.length === n && "
        "all.every((p) => p.querySelector('.js-line, .point, .trace path')); }",
        arg=count,
        timeout=30000,
    )


def test_query_as_value(browser: Browser, lab: driver.Lab):
    with driver.open_page(browser, viewport={"width": 1200, "height": 6000}) as page:
        driver.open_and_run(page, lab, "05_query_as_value.ipynb", seconds=240)
        drawn(page, 4)
        density, *_, angles = moved(page, "scale", "ArrowLeft", 0)
        x = load_trained()[2].heads(0)
        found = readouts.compare(readouts.predict(x.with_lam(0.9 * x.lam))).isel(head=0)
        np.testing.assert_allclose(density, found.density, atol=1e-6)
        np.testing.assert_allclose(angles, found.angle, atol=1e-4)
        by_key, by_query = moved(page, "token", "ArrowRight", 1)[:2]
        M = influence.row(load_trained()[1].heads(2), 701, of=("v_hat", "o_hat")).isel(batch=0, head=0)
        np.testing.assert_allclose(by_key, M.v_hat[701 - 32 : 701], atol=1e-6)
        np.testing.assert_allclose(by_query, M.o_hat[701 - 32 : 701], atol=1e-6)
        driver.assert_clean(page)


def test_real_models(browser: Browser, lab: driver.Lab):
    with driver.open_page(browser, viewport={"width": 1200, "height": 6000}) as page:
        driver.open_and_run(page, lab, "07_real_models.ipynb", seconds=240)
        drawn(page, 2)
        assert "replay error" in page.inner_text("body")
        _, before, plain = page.evaluate(DATA, 0)
        _, after, same = moved(page, "lam", "ArrowRight", 0)
        assert plain == same  # the model's own memory stays
        assert len(after) == 512
        assert max(after) > max(before)  # more feedback, a larger memory
        driver.assert_clean(page)


def test_retrieval(browser: Browser, lab: driver.Lab):
    with driver.open_page(browser, viewport={"width": 1200, "height": 9000}) as page:
        driver.open_and_run(page, lab, "08_retrieval.ipynb", seconds=60)
        stored = [name for name in experiments.EXPERIMENTS if experiments.stored(name) is not None]
        drawn(page, len(stored) + 1)  # and the losses of mqar
        text = page.inner_text("body")
        assert "90.02" in text  # the paper's
        table = experiments.stored("mqar")
        assert table is not None
        found = experiments.summary(table)
        first = found[(found.metric == "accuracy") & (found.variant == "q-delta")].iloc[0]
        assert f"{first['mean']:.4f} ± {first.sd:.4f}" in text
        shown = page.evaluate(DATA, 0)
        assert any(len(y) and abs(y[0] - first["mean"]) < 1e-9 for y in shown)
        driver.assert_clean(page)
