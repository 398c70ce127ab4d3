"""The explorer in a real browser, opened as `make lab` opens it, against what the API computes."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator

import numpy as np
import pytest
from playwright.sync_api import Browser, Page

from qdelta_analysis.guarantees import at_token
from qdelta_analysis.view import Gate, Settings, View, view

from . import driver

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def opened(browser: Browser, lab: driver.Lab) -> Iterator[Page]:
    with driver.open_page(browser, viewport={"width": 1500, "height": 1400}) as page:
        driver.open_and_run(page, lab, "00_explorer.ipynb")
        page.wait_for_selector(".qdelta-words")
        page.wait_for_function("() => document.querySelector('canvas.qdelta-picture')?.qdelta")
        yield page
        driver.assert_clean(page)


@pytest.fixture
def page(opened: Page) -> Page:
    """The open explorer, brought back to the trained model as it was."""
    driver.run_python(
        opened,
        "from qdelta_analysis.view import Settings\n"
        "explorer._set_controls(Settings()); explorer._refresh(); explorer.scrubber.token = 512",
    )
    wait_until_shown(opened, Settings(), 512)
    return opened


def shown(page: Page) -> dict:
    """What the page shows: the canvas's numbers, the plots' arrays, the words, the lam slider's label."""
    return page.evaluate(
        """() => {
          const canvas = document.querySelector('canvas.qdelta-picture').qdelta;
          const plot = document.querySelector('.js-plotly-plot');
          const trace = (key) => plot.data.find((t) => t.meta === key);
          const lam = [...document.querySelectorAll('.widget-slider')].find(
            (s) => s.querySelector('.widget-label').textContent === 'λ');
          const list = (x) => Array.from(x?._inputArray ?? x);
          return {
            token: canvas.token,
            state: Array.from(canvas.state),
            singular: list(trace('singular values').y),
            eigenvalues: list(trace('eigenvalues').x),
            alignment: list(trace('beta_alignment').y),
            alignment_at: list(trace('beta_alignment').x),
            marker: plot.layout.shapes.filter((s) => s.type === 'line').map((s) => [s.x0, s.x1, s.y0]),
            words: document.querySelector('.qdelta-words').textContent,
            check: document.querySelector('.qdelta-check').textContent,
            lam: lam.querySelector('.widget-readout').textContent,
          };
        }"""
    )


def words(v: View, token: int) -> str:
    marks = {"holds": "✓", "violated": "✗", "hypotheses not met": "–"}
    said = (
        f"{marks[s.verdict]} {s.id} {s.title}: {s.verdict}, margin {s.margin:.3g} {s.unit}. {s.sentence}."
        for s in at_token(v.facts, token)
    )
    return f"At token {token}" + "".join(said)


def wait_until_shown(page: Page, settings: Settings, token: int) -> dict:
    """Wait until every panel shows what the API computes for these settings; returns what is shown."""
    v = view(settings.inputs())
    expected = words(v, token)
    # One comparison in the page's own time; the last panel to follow is waited for.
    page.wait_for_function(
        "([words, token]) => document.querySelector('.qdelta-words').textContent === words"
        " && document.querySelector('canvas.qdelta-picture').qdelta.token === token",
        arg=[expected, token],
        timeout=15000,
    )
    state, scale = v.state(token), np.abs(v.state(token)).max()
    page.wait_for_timeout(300)
    found = shown(page)
    np.testing.assert_allclose(np.reshape(found["state"], state.shape), state, atol=1e-5 * scale)
    np.testing.assert_allclose(found["eigenvalues"], v.eigenvalues(token), atol=1e-6)
    np.testing.assert_allclose(found["singular"], v.singular_values(token), atol=1e-6 * scale)
    np.testing.assert_allclose(found["alignment"], v.beta_alignment[found["alignment_at"]], atol=1e-6)
    assert found["marker"] == [[token, token, 0]]  # through all three panels, from the lowest
    return found


def handle(page: Page, label: str):
    """The handle of the slider with this label."""
    slider = page.locator(".widget-slider", has=page.locator(".widget-label", has_text=re.compile(f"^{label}$")))
    return slider.locator(".noUi-handle")


def test_the_first_view_is_the_trained_model(page: Page):
    found = wait_until_shown(page, Settings(), 512)
    assert found["lam"] == "1.00"
    assert page.locator(".qdelta-strip strong").text_content() == "␣"


def test_lam_moves_by_keyboard(page: Page):
    before = shown(page)
    knob = handle(page, "λ")
    knob.focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    found = wait_until_shown(page, dataclasses.replace(Settings(), lam=Gate(1.03, scales=True)), 512)
    assert found["lam"] == "1.03"
    for panel in ("state", "singular", "eigenvalues", "words"):
        assert found[panel] != before[panel], panel


def test_lam_moves_by_mouse(page: Page):
    box = handle(page, "λ").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 30, y, steps=5)
    page.mouse.up()
    page.wait_for_timeout(500)
    lam = float(shown(page)["lam"])
    assert lam > 1.1
    wait_until_shown(page, dataclasses.replace(Settings(), lam=Gate(lam, scales=True)), 512)


def test_at_lam_zero_it_says_that_it_is_gated_deltanet(page: Page):
    assert "move λ to 0" in shown(page)["check"]
    handle(page, "λ").focus()
    page.keyboard.press("Home")
    found = wait_until_shown(page, dataclasses.replace(Settings(), lam=Gate(0.0, scales=True)), 512)
    assert "at λ = 0 Q-Delta is Gated DeltaNet ✓" in found["check"]
    assert float(re.search(r"output: (\S+) ", found["check"])[1]) < 1e-12


def test_replacing_the_trained_values(page: Page):
    page.locator("select", has=page.locator("option", has_text="× trained")).first.select_option("=")
    found = wait_until_shown(page, dataclasses.replace(Settings(), lam=Gate(0.5)), 512)
    assert found["lam"] == "0.50"


def test_another_layer_and_head(page: Page):
    page.locator(".widget-dropdown", has_text="layer").locator("select").select_option("1")
    page.locator(".widget-dropdown", has_text="head").locator("select").select_option("3")
    wait_until_shown(page, Settings(layer=1, head=3), 512)


def test_the_cycle_in_which_the_error_contracts_and_the_memory_grows(page: Page):
    page.locator(".widget-dropdown", has_text="tokens").locator("select").select_option("two-token cycle")
    settings = Settings(source="two-token cycle", lam=Gate(0.5), beta=Gate(0.5), alpha=Gate(1.0))
    found = wait_until_shown(page, settings, 63)
    assert "inside at 64 of the head's 64 tokens" in found["words"]
    assert "✓ G4 One-step contraction of the mixed error (Lemma 3.1): holds, margin 1 of the error." in found["words"]
    assert "‖A‖ = 1.118, 1.118 times α = 1.000: some memories grow in this step" in found["words"]
    assert "– G9 Memory bounded whatever the tokens: hypotheses not met" in found["words"]


def test_a_cone_has_an_angle_to_move(page: Page):
    assert not handle(page, r"cos\(q,k\)").is_visible()
    page.locator(".widget-dropdown", has_text="tokens").locator("select").select_option("cone")
    settings = Settings(source="cone", lam=Gate(0.5), beta=Gate(0.5), alpha=Gate(1.0))
    wait_until_shown(page, settings, 255)
    handle(page, r"cos\(q,k\)").focus()
    page.keyboard.press("ArrowLeft")
    wait_until_shown(page, dataclasses.replace(settings, cos=0.49), 255)


def test_playing_moves_every_panel(page: Page):
    page.locator(".qdelta-play").first.click()
    page.wait_for_function("() => document.querySelector('canvas.qdelta-picture').qdelta.token > 520")
    page.locator(".qdelta-play").first.click()
    token = shown(page)["token"]
    driver.wait_for_python(page, "explorer.token", token)
    wait_until_shown(page, Settings(), token)


def test_exporting_the_view(page: Page, lab: driver.Lab):
    page.locator("select", has=page.locator("option", has_text="neurips")).select_option("neurips")
    page.get_by_role("button", name="export this view").click()
    page.wait_for_function("() => document.body.innerText.includes('wrote explorer-1.pdf')", timeout=60000)
    for kind, start in (("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<svg")):
        assert (lab.root / f"explorer-1.{kind}").read_bytes().startswith(start)
    sidecar = json.loads((lab.root / "explorer-1.json").read_text())
    assert sidecar["size_in"][0] == 5.5
    assert sidecar["parameters"]["token"] == 512
    assert sidecar["parameters"]["lam"] == {"value": 1.0, "scales": True}


def test_copying_the_view_as_code(page: Page):
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    handle(page, "λ").focus()
    page.keyboard.press("ArrowLeft")
    settings = dataclasses.replace(Settings(), lam=Gate(0.99, scales=True))
    wait_until_shown(page, settings, 512)
    page.get_by_role("button", name="copy as code").click()
    page.wait_for_selector("text=copied")
    assert page.evaluate("() => navigator.clipboard.readText()") == settings.code()
