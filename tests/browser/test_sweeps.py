"""The sweep widget in a browser: it fills in while the kernel stays free, cancels, goes on, explains and exports."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from playwright.sync_api import Browser, Page

from qdelta_analysis import fingerprints, sweep

from . import driver

pytestmark = pytest.mark.browser

# The widget's map: the notebook shows still ones before it.
MAP = "[...document.querySelectorAll('.js-plotly-plot')].filter((n) => n.data?.[0]?.meta === 'cells').at(-1)"
CELLS = f"() => Array.from({MAP}.data[0].z, (row) => Array.from(row, (x) => Number.isFinite(x) ? x : null))"
SEEDS = 60


def cells(page: Page) -> np.ndarray:
    return np.array(page.evaluate(CELLS), dtype=float)


def said(page: Page) -> str:
    return page.locator(".qdelta-sweep").text_content() or ""


def button(page: Page, name: str):
    return page.get_by_role("button", name=name, exact=True)


def test_a_sweep_fills_in_is_cancelled_goes_on_and_is_exported(browser: Browser, lab: driver.Lab):
    with driver.open_page(browser, viewport={"width": 1300, "height": 6000}) as page:
        driver.open_and_run(page, lab, "09_sweeps.ipynb", seconds=240)
        page.wait_for_function(f"() => {MAP}?.querySelector('.xtick')")
        assert np.isnan(cells(page)).all()
        also = page.locator(".widget-text", has_text="also").locator("input")
        also.fill(f"c=-0.5; N=64; seed=0:{SEEDS - 1}:{SEEDS}")
        also.press("Enter")
        size = 21 * 9 * SEEDS
        page.wait_for_function(f"() => document.querySelector('.qdelta-sweep').innerText.includes('0 of {size:,} ')")
        fills_in(page)
        kept = stops(page)
        page.wait_for_timeout(300)
        before = cells(page)
        assert (button(page, "start").is_enabled(), button(page, "cancel").is_enabled()) == (True, False)
        button(page, "start").click()
        driver.wait_for_python(page, f"explorer._bar.value >= {kept}", True)
        page.wait_for_function(
            f"() => document.querySelector('.qdelta-sweep').innerText.includes('{size:,} of {size:,} points, ')",
            timeout=240_000,
        )
        assert said(page).endswith(f"{21 * SEEDS:,} failed")  # all of beta = 2.25
        driver.wait_for_python(page, "explorer.running", False)
        page.wait_for_timeout(500)
        after = cells(page)
        assert np.isfinite(after[:8]).all()
        assert np.isnan(after[8]).all()
        whole = np.isfinite(before)
        assert whole.any()
        agrees_with_the_api(after)
        explains_a_failed_point(page)
        exports(page, lab, after)
        driver.assert_clean(page)


def fills_in(page: Page) -> None:
    """Start, and see cells appear while the kernel answers."""
    button(page, "start").click()
    page.wait_for_function(
        f"() => {{ const z = ({CELLS})().flat(); const n = z.filter((x) => x !== null).length;"
        " return n > 0 && n < z.length; }",
        timeout=60_000,
    )
    assert driver.read_python(page, "(6 * 7, explorer.running)") == (42, True)  # the kernel is free meanwhile
    page.wait_for_function("() => /about \\d+ s left/.test(document.querySelector('.qdelta-sweep').innerText)")


def stops(page: Page) -> int:
    """Cancel; returns how many points are done."""
    button(page, "cancel").click()
    page.wait_for_function("() => document.querySelector('.qdelta-sweep').innerText.includes('cancelled')")
    driver.wait_for_python(page, "explorer.running", False)
    done = int(re.match(r"([\d,]+) of", said(page))[1].replace(",", ""))
    assert 0 < done < 21 * 9 * SEEDS
    assert driver.read_python(page, "int((explorer.data.status != 0).sum())") == done
    return done


def agrees_with_the_api(shown: np.ndarray) -> None:
    gates = {"lam": [0.0, 0.5, 1.0], "beta": [0.25, 1.0, 2.0]}
    data = sweep.run("recall", {**gates, "c": [-0.5], "N": [64], "seed": range(SEEDS)}, progress=False)
    mean = sweep.cells(data, "recall_error", "lam", "beta")["mean"]
    np.testing.assert_allclose(shown[np.ix_([0, 3, 7], [0, 10, 20])], mean, rtol=1e-4)


def explains_a_failed_point(page: Page) -> None:
    crosses = page.evaluate(f"() => [...{MAP}.querySelectorAll('.scatterlayer .point')].length")
    assert crosses == 21
    page.evaluate(f"() => {MAP}.scrollIntoView({{ block: 'center' }})")
    at = page.evaluate(
        f"() => {{ const r = {MAP}.querySelectorAll('.scatterlayer .point')[5].getBoundingClientRect();"
        " return [r.x + r.width / 2, r.y + r.height / 2]; }"
    )
    for _ in range(50):  # a drawing that was under way hides what is hovered
        page.mouse.move(at[0] - 3, at[1] - 3)
        page.mouse.move(*at)
        page.wait_for_timeout(200)
        if page.evaluate(f"() => Boolean({MAP}.querySelector('.hoverlayer .hovertext'))"):
            break
    hover = page.evaluate(f"() => {MAP}.querySelector('.hoverlayer').textContent")
    assert f"failed, {SEEDS} of {SEEDS} points" in hover
    assert "beta has values in [2.25, 2.25]; expected values" in hover


def exports(page: Page, lab: driver.Lab, shown: np.ndarray) -> None:
    button(page, "export this view").click()
    page.wait_for_function("() => document.body.innerText.includes('wrote sweep-1.pdf')", timeout=60_000)
    for kind, start in (("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<svg")):
        assert (lab.root / f"sweep-1.{kind}").read_bytes().startswith(start)
    sidecar = json.loads((lab.root / "sweep-1.json").read_text())
    assert sidecar["size_in"][0] == 3.25
    assert sidecar["parameters"]["measure"] == "recall"
    assert sidecar["parameters"]["grid"]["seed"] == list(range(SEEDS))
    z = {"data[0].z": sidecar["drawing"]["data[0].z"]}
    assert z["data[0].z"]["gaps"][0] == 21
    assert fingerprints.differences(z, fingerprints.described({"data[0].z": shown})) == []
    assert fingerprints.differences(z, fingerprints.described({"data[0].z": shown * 1.001})) == ["data[0].z"]
