"""The explorer's stability panel in a real browser, against the report and the transitions that the API computes."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator

import numpy as np
import pytest
from playwright.sync_api import Browser, Page

from qdelta_analysis import guarantees, products
from qdelta_analysis.plots.theme import DIVERGING_STOPS
from qdelta_analysis.view import Gate, Settings, view

from . import driver

pytestmark = pytest.mark.browser

MAPS = "[...document.querySelectorAll('.js-plotly-plot')].find((p) => p.data.some((t) => t.meta === 'beta growth'))"
READ = f"""() => {{
  const plot = {MAPS};
  const list = (x) => Array.from(x?._inputArray ?? x ?? []);
  const traces = Object.fromEntries(plot.data.map((t) => [t.meta, {{ x: list(t.x), y: list(t.y) }}]));
  const z = (key) => plot.calcdata.find(([c]) => c.trace.meta === key)[0].z.map((row) => Array.from(row));
  const rows = [...document.querySelectorAll('.qdelta-report tr[data-claim]')].map((row) =>
    [...row.querySelectorAll('td')].map((cell) => cell.textContent));
  return {{
    traces,
    z: {{ beta: z('beta growth'), cos: z('cos growth') }},
    titles: plot.layout.annotations.map((a) => a.text),
    rows,
    details: document.querySelector('.qdelta-report .details').textContent,
    token: document.querySelector('canvas.qdelta-picture').qdelta.token,
  }};
}}"""


@pytest.fixture(scope="module")
def opened(browser: Browser, lab: driver.Lab) -> Iterator[Page]:
    with driver.open_page(browser, viewport={"width": 1440, "height": 1200}) as page:
        driver.open_and_run(page, lab, "00_explorer.ipynb")
        page.wait_for_function("() => document.querySelector('canvas.qdelta-picture')?.qdelta")
        open_tab(page, "Stability")
        page.wait_for_selector(".qdelta-report tr[data-claim]")
        yield page
        driver.assert_clean(page)


@pytest.fixture
def page(opened: Page) -> Page:
    """The stability panel of the trained model as it was, at token 512."""
    driver.run_python(
        opened,
        "explorer._tabs.selected_index = 1; explorer._stability._quantity.value = 'norm'\n"
        "explorer._set_controls(type(explorer.settings)()); explorer._refresh(); explorer.scrubber.token = 512",
    )
    wait_until_shown(opened, Settings(), 512)
    return opened


def open_tab(page: Page, title: str) -> None:
    page.locator(".lm-TabBar-tab", has_text=re.compile(f"^{title}$")).first.click()


def expected_rows(settings: Settings) -> list[list[str]]:
    marks = {"holds": "✓", "hypotheses not met": "–", "violated": "✗"}
    return [
        [
            f"{name} {c.title}",
            f"{marks[c.verdict]} {c.verdict}",
            "–" if np.isnan(c.margin) else f"{c.margin:.3g}".replace("-", "−"),
            str(c.token) if c.token >= 0 else "head",
        ]
        for name, c in guarantees.check(settings.inputs()).checks.items()
    ]


def wait_until_shown(page: Page, settings: Settings, token: int) -> dict:
    """Wait until the maps are cut through this token and the report is of these inputs; returns what is shown."""
    v = view(settings.inputs())
    here = f"at cos(q, k) = {round(v.cos[token], 3) + 0:g}, α = {round(v.alpha[token], 4):g}"
    page.wait_for_function(
        f"([title, x]) => {{ const p = {MAPS}; const t = p.data.find((t) => t.meta === 'beta token');"
        " const at = (t.x._inputArray ?? t.x)[0];"
        " return p.layout.annotations[0].text === title && Math.abs(at - x) < 1e-6; }",
        arg=[here, float(v.lam[token])],
        timeout=15000,
    )
    rows = expected_rows(settings)
    page.wait_for_function(
        "(margins) => [...document.querySelectorAll('.qdelta-report td.margin')].map((c) => c.textContent).join()"
        " === margins",
        arg=",".join(row[2] for row in rows),
        timeout=15000,
    )
    page.wait_for_timeout(200)
    found = page.evaluate(READ)
    assert found["rows"] == rows
    assert found["token"] == token
    assert found["titles"] == [here, f"at β = {v.beta[token]:.3f}, α = {v.alpha[token]:.4f}"]
    for over in ("beta", "cos"):
        marked, tokens = found["traces"][f"{over} token"], found["traces"][f"{over} tokens"]
        np.testing.assert_allclose([*marked["x"], *marked["y"]], [v.lam[token], getattr(v, over)[token]], atol=1e-6)
        np.testing.assert_allclose([tokens["x"], tokens["y"]], [v.lam, getattr(v, over)], atol=1e-6)
    return found


def colour_at(found: dict, over: str, lam: float, y: float) -> float:
    """What the map says at a point, interpolated between the cells around it."""
    z = np.array(found["z"][over])
    low = 0.0 if over == "beta" else -1.0
    rows, columns = np.linspace(low, low + 2, len(z)), np.linspace(0, 2, z.shape[1])
    along = [np.interp(lam, columns, row) for row in z]
    return float(np.interp(y, rows, along))


def press(page: Page, label: str, key: str) -> None:
    slider = page.locator(".widget-slider", has=page.locator(".widget-label", has_text=re.compile(f"^{label}$")))
    slider.locator(".noUi-handle").focus()
    page.keyboard.press(key)


def test_the_maps_say_at_the_token_what_its_transition_says(page: Page):
    v = view(Settings().inputs())
    found = page.evaluate(READ)
    for over in ("beta", "cos"):
        said = colour_at(found, over, v.lam[512], getattr(v, over)[512])
        assert said == pytest.approx(np.log(v.operator_norm[512]), abs=2e-4)


def test_lam_moves_the_token_and_the_report(page: Page):
    before = page.evaluate(READ)
    for _ in range(3):
        press(page, "λ", "ArrowRight")
    found = wait_until_shown(page, dataclasses.replace(Settings(), lam=Gate(1.03, scales=True)), 512)
    assert found["traces"]["beta token"]["x"][0] == pytest.approx(1.03 * before["traces"]["beta token"]["x"][0])
    assert found["traces"]["beta token"]["y"] == before["traces"]["beta token"]["y"]
    changed = [old[0] for old, new in zip(before["rows"], found["rows"], strict=True) if old != new]
    assert len(changed) >= 5


def test_gates_outside_the_box_are_said_to_be(page: Page):
    page.locator("select", has=page.locator("option", has_text="× trained")).first.select_option("=")
    press(page, "λ", "End")
    found = wait_until_shown(page, dataclasses.replace(Settings(), lam=Gate(2.0)), 512)
    assert next(row for row in found["rows"] if row[0].startswith("G6"))[1] == "– hypotheses not met"


def test_the_worst_token_is_a_click_away(page: Page):
    check = guarantees.check(Settings().inputs())["G7"]
    assert check.token != 512
    page.locator('[data-claim="G7"] .go').click()
    found = wait_until_shown(page, Settings(), check.token)
    assert found["details"].startswith("G7: with q, k in the unit ball and beta in [0, 1]")
    assert check.sentence in found["details"]
    driver.wait_for_python(page, "explorer.token", check.token)


def test_a_claim_can_be_read_by_keyboard_without_moving(page: Page):
    page.locator('[data-claim="G10"] .choose').focus()
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.querySelector('.qdelta-report .details').textContent.startsWith('G10')")
    found = page.evaluate(READ)
    unmet = guarantees.check(Settings().inputs())["G10"].unmet
    assert unmet
    assert f"Not met: {'; '.join(condition.words for condition in unmet)}." in found["details"]
    assert found["token"] == 512
    assert page.evaluate("() => document.activeElement.closest('tr').dataset.claim") == "G10"


def test_a_token_on_the_map_is_a_click_away(page: Page):
    v = view(Settings().inputs())
    places = np.stack([v.lam, v.cos], axis=1)
    distances = np.linalg.norm(places[:, None] - places, axis=-1) + 9 * np.eye(v.T)
    alone = int(distances.min(1).argmax())  # tokens may lie on one another
    x, y = page.evaluate(
        f"""([lam, cos]) => {{
          const {{ xaxis2, yaxis2 }} = ({MAPS})._fullLayout;
          const box = ({MAPS}).getBoundingClientRect();
          return [box.left + xaxis2._offset + xaxis2.l2p(lam), box.top + yaxis2._offset + yaxis2.l2p(cos)];
        }}""",
        places[alone].tolist(),
    )
    page.mouse.move(x - 3, y)
    page.mouse.move(x, y)
    page.mouse.click(x, y)
    page.wait_for_function(
        "(token) => document.querySelector('canvas.qdelta-picture').qdelta.token === token", arg=alone, timeout=10000
    )
    wait_until_shown(page, Settings(), alone)


def test_the_typical_memory(page: Page):
    before = page.evaluate(READ)
    page.get_by_role("button", name="mean square: a typical memory").click()
    page.wait_for_function(
        f"() => ({MAPS}).layout.coloraxis.colorbar.title.text.includes('typical memory in mean square')"
    )
    page.wait_for_timeout(500)
    colors = page.evaluate(f"() => ({MAPS})._fullLayout.coloraxis.colorscale")
    assert [colors[0][1], colors[-1][1]] == [DIVERGING_STOPS[0][1], DIVERGING_STOPS[-1][1]]
    found = wait_until_shown(page, Settings(), 512)
    assert found["z"] != before["z"]
    v = view(Settings().inputs())
    growth = products.mean_square_growth(v.beta[512], v.lam[512], v.cos[512], 32, v.alpha[512])
    for over in ("beta", "cos"):
        said = colour_at(found, over, v.lam[512], getattr(v, over)[512])
        assert said == pytest.approx(np.log(growth) / 2, abs=1e-5)


def test_a_tab_that_was_behind_is_drawn_when_it_comes_back(page: Page):
    press(page, "λ", "Home")
    still = dataclasses.replace(Settings(), lam=Gate(0.0, scales=True))
    wait_until_shown(page, still, 512)
    drawn = """() => {
      const traces = [...document.querySelectorAll('.js-plotly-plot')].flatMap((p) => p.data);
      const { x } = traces.find((t) => t.meta === 'eigenvalues');
      return Array.from(x._inputArray ?? x);
    }"""
    expected = list(view(still.inputs()).eigenvalues(512))
    assert page.evaluate(drawn) != pytest.approx(expected)  # behind, nothing is drawn
    open_tab(page, "Memory through time")
    page.wait_for_timeout(1000)
    assert page.evaluate(drawn) == pytest.approx(expected)
    press(page, "λ", "ArrowRight")
    page.wait_for_timeout(1000)
    open_tab(page, "Stability")
    wait_until_shown(page, dataclasses.replace(Settings(), lam=Gate(0.01, scales=True)), 512)
