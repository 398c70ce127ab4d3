"""The canvas scrubber in JupyterLab, against the recurrence run token by token in float64."""

import inspect
import re
from collections.abc import Iterator

import nbformat
import numpy as np
import pytest
from playwright.sync_api import Browser, Locator, Page

from . import driver

pytestmark = pytest.mark.browser

TOKENS, SIDE, STRIDE = 200, 16, 64
TEXT = "A memory that writes,\n\tforgets and keeps. " * 10


def recording(tokens, side, seed, stride=64):
    """Return k, u, alpha, the anchors and every state of a seeded recurrence, all in float64."""
    random = np.random.default_rng(seed)
    k = random.normal(size=(tokens, side))
    k /= np.linalg.norm(k, axis=1, keepdims=True)
    u, alpha = random.normal(size=(tokens, side)), random.uniform(0.95, 1, tokens)
    states = np.zeros((tokens + 1, side, side))
    for t in range(tokens):
        states[t + 1] = alpha[t] * states[t] + np.outer(u[t], k[t])
    return k, u, alpha, states[:-1:stride], states[1:]


NOTEBOOK = f"""
import numpy as np
from qdelta_analysis.widgets.scrubber import StateScrubber

{inspect.getsource(recording)}
def show(tokens, side, seed, labels=None):
    *factors, states = recording(tokens, side, seed)
    scrubber.load(*factors, {STRIDE}, labels)

scrubber = StateScrubber(title="Memory")
show({TOKENS}, {SIDE}, 0, {TEXT[:TOKENS]!r})
scrubber
"""

STATES = recording(TOKENS, SIDE, 0)[-1]


@pytest.fixture(scope="module")
def opened(browser: Browser, lab: driver.Lab) -> Iterator[Page]:
    cells = [nbformat.v4.new_code_cell(source) for source in (NOTEBOOK, "scrubber")]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), lab.root / "scrubber.ipynb")
    with driver.open_page(browser) as page:
        driver.open_and_run(page, lab, "scrubber.ipynb")
        yield page
        driver.assert_clean(page)


@pytest.fixture
def page(opened: Page) -> Page:
    """The open notebook, its scrubber at rest on the first token of the same recording."""
    # A report of the last test's moves may still be on its way, and the last to write the token wins.
    opened.wait_for_timeout(250)
    driver.run_python(
        opened, f"scrubber.playing = False; show({TOKENS}, {SIDE}, 0, {TEXT[:TOKENS]!r}); scrubber.token = 0"
    )
    wait_for_token(opened, 0)
    return opened


def wait_for_token(page: Page, token: int) -> None:
    page.wait_for_function(
        "(t) => [...document.querySelectorAll('.qdelta-picture')].every((c) => c.qdelta?.token === t)",
        arg=token,
    )


def view(page: Page) -> Locator:
    return page.locator(".qdelta-scrubber").first


def shown_token(page: Page) -> int:
    return view(page).locator("canvas").evaluate("(c) => c.qdelta.token")


def shown_state(page: Page) -> np.ndarray:
    return np.array(view(page).locator("canvas").evaluate("(c) => [...c.qdelta.state]")).reshape(SIDE, SIDE)


def pixels(page: Page) -> np.ndarray:
    """Return the colour in the middle of each cell, [V, K, 3]."""
    image = (
        view(page)
        .locator("canvas")
        .evaluate("(c) => [c.width, c.height, ...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]")
    )
    width, height = image[:2]
    cell = width // SIDE
    return np.array(image[2:]).reshape(height, width, 4)[cell // 2 :: cell, cell // 2 :: cell, :3]


def test_the_state_is_the_recurrence_however_it_is_reached(page: Page):
    slider = view(page).locator(".qdelta-slider")
    slider.focus()
    for token in (1, 2, 3):
        page.keyboard.press("ArrowRight")
        wait_for_token(page, token)
        np.testing.assert_allclose(shown_state(page), STATES[token], atol=1e-5)
    driver.wait_for_python(page, "scrubber.token", 3)
    # Over an anchor forwards, back into the block before it, and to both ends.
    for token in (63, 64, 65, 150, 63, 0, TOKENS - 1):
        driver.run_python(page, f"scrubber.token = {token}")
        wait_for_token(page, token)
        np.testing.assert_allclose(shown_state(page), STATES[token], atol=1e-5)


def test_a_drag_with_the_mouse_scrubs_and_reports(page: Page):
    before = pixels(page)
    box = view(page).locator(".qdelta-slider").bounding_box()
    assert box is not None
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 8, middle)
    page.mouse.down()
    for step in range(1, 11):
        page.mouse.move(box["x"] + box["width"] * step / 15, middle)
    page.mouse.up()
    page.wait_for_function("() => document.querySelector('.qdelta-picture').qdelta.token > 100")
    token = shown_token(page)
    assert 110 < token < 160
    np.testing.assert_allclose(shown_state(page), STATES[token], atol=1e-5)
    assert np.abs(pixels(page) - before).max() > 50
    driver.wait_for_python(page, "scrubber.token", token)


def test_the_keyboard_moves_the_scrubber_and_not_the_notebook(page: Page):
    view(page).focus()
    active = "() => jupyterapp.shell.currentWidget.content.activeCellIndex"
    cell = page.evaluate(active)
    for key, token in (("End", TOKENS - 1), ("ArrowLeft", TOKENS - 2), ("Home", 0), ("ArrowRight", 1)):
        page.keyboard.press(key)
        wait_for_token(page, token)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    page.wait_for_function("() => document.querySelector('.qdelta-picture').qdelta.token > 5")
    page.keyboard.press("Space")
    view(page).get_by_role("button", name="Play", exact=True).wait_for()
    assert page.evaluate(active) == cell
    driver.wait_for_python(page, "scrubber.playing", False)


def test_playing_advances_all_views_and_reports_at_most_eight_times_a_second(page: Page):
    driver.run_python(page, "import time; seen = []; scrubber.speed = 50")
    driver.run_python(page, "scrubber.observe(lambda change: seen.append((time.monotonic(), change.new)), 'token')")
    view(page).get_by_role("button", name="Play", exact=True).click()
    page.wait_for_function("() => document.querySelector('.qdelta-picture').qdelta.token >= 100")
    view(page).get_by_role("button", name="Pause").click()
    page.wait_for_function("() => document.querySelectorAll('[aria-label=Play]').length === 2")
    token = shown_token(page)
    wait_for_token(page, token)
    assert page.locator(".qdelta-picture").count() == 2
    np.testing.assert_allclose(shown_state(page), STATES[token], atol=1e-5)
    driver.wait_for_python(page, "scrubber.token", token)
    times, seen = zip(*driver.read_python(page, "seen"), strict=True)
    driver.run_python(page, "scrubber.unobserve_all('token')")
    assert seen[-1] == token
    assert list(seen) == sorted(seen)
    # The first and the last are reported at once, and messages may bunch on their way.
    assert 4 <= len(seen) <= 8 * (times[-1] - times[0]) + 3


def test_playing_ends_at_the_last_token_and_starts_again(page: Page):
    driver.run_python(page, f"scrubber.speed = 20; scrubber.token = {TOKENS - 3}; scrubber.playing = True")
    wait_for_token(page, TOKENS - 1)
    view(page).get_by_role("button", name="Play", exact=True).click()
    page.wait_for_function("() => [2, 3, 4, 5].includes(document.querySelector('.qdelta-picture').qdelta.token)")
    driver.run_python(page, "scrubber.playing = False")
    view(page).get_by_role("button", name="Play", exact=True).wait_for()


def test_hovering_reads_the_cell(page: Page):
    driver.run_python(page, "scrubber.token = 77")
    wait_for_token(page, 77)
    canvas = view(page).locator("canvas")
    box = canvas.bounding_box()
    assert box is not None
    canvas.hover(position={"x": (5 + 0.5) * box["width"] / SIDE, "y": (3 + 0.5) * box["height"] / SIDE})
    status = view(page).locator(".qdelta-status").inner_text()
    found = re.fullmatch(r"value 3, key 5: (−?)([\d.]+)", status)
    assert found, status
    assert float(found[1].replace("−", "-") + found[2]) == pytest.approx(STATES[77][3, 5], rel=1e-3)
    page.mouse.move(0, 0)
    assert view(page).locator(".qdelta-status").inner_text() == "Point at a cell to read its value."


def test_colours_are_centred_at_zero_and_clip_at_the_limit(page: Page):
    driver.run_python(page, "scrubber.token = 120; scrubber.limit = 0.8")
    wait_for_token(page, 120)
    page.wait_for_function("() => document.querySelector('.qdelta-marks').innerText.startsWith('0.8')")
    colors = driver.read_python(page, "list(scrubber.colors)")
    table = np.array([[int(color[i : i + 2], 16) for i in (1, 3, 5)] for color in colors])
    place = (np.clip(STATES[120] / 0.8, -1, 1) + 1) / 2 * (len(table) - 1)
    # Single precision may round to the neighbour.
    wrong = np.minimum(
        *(np.abs(pixels(page) - table[np.round(place + e).astype(int).clip(0, 254)]).max(-1) for e in (-1e-3, 1e-3))
    )
    assert wrong.max() == 0
    beyond = np.count_nonzero(np.abs(STATES[120]) > 0.8)
    assert view(page).locator(".qdelta-status").inner_text() == f"{beyond} cells beyond the colour range"
    driver.run_python(page, "scrubber.limit = None")
    page.wait_for_function("() => !document.querySelector('.qdelta-marks').innerText.startsWith('0.8')")


def test_what_is_not_a_number_is_gray(page: Page):
    # load() refuses it, so it is put in by hand: row 2 holds NaN from the first token on.
    driver.run_python(
        page,
        "memory, = scrubber.recording['memories']\n"
        f"u = np.frombuffer(memory['u'], '<f4').reshape({TOKENS}, {SIDE}).copy()\n"
        "u[0, 2] = np.nan\n"
        "scrubber.recording = {**scrubber.recording, 'memories': [{**memory, 'u': u.tobytes()}]}",
    )
    page.wait_for_function("() => document.querySelector('.qdelta-status').innerText.includes('gray')")
    assert view(page).locator(".qdelta-status").inner_text() == f"{SIDE} cells not a number (gray)"
    assert (pixels(page)[2] == 128).all()
    assert not (pixels(page)[:2] == 128).all(-1).any()


def test_labels_show_white_space_and_the_current_token(page: Page):
    at = TEXT.index("\n")
    driver.run_python(page, f"scrubber.token = {at}")
    wait_for_token(page, at)
    strip = view(page).locator(".qdelta-strip")
    assert strip.locator("strong").inner_text() == "⏎"
    assert strip.locator("div").last.locator("span").first.inner_text() == "⇥"
    assert "memory␣that␣writes," in strip.locator("div").first.evaluate("(e) => e.textContent")
    driver.run_python(page, f"show({TOKENS}, {SIDE}, 0)")
    strip.wait_for(state="hidden")


def test_a_shorter_recording_keeps_the_token_in_range(page: Page):
    driver.run_python(page, "scrubber.token = 180")
    wait_for_token(page, 180)
    driver.run_python(page, f"show(50, {SIDE}, 3)")
    wait_for_token(page, 49)
    assert driver.read_python(page, "scrubber.token") == 49
    np.testing.assert_allclose(shown_state(page), recording(50, SIDE, 3)[-1][49], atol=1e-5)


def test_the_frame_rate_is_printed(page: Page, capsys: pytest.CaptureFixture[str]):
    canvas, slider = view(page).locator("canvas"), view(page).locator(".qdelta-slider")
    count = "(c) => [c.qdelta.frames, performance.now() / 1000, c.qdelta.lastDrawMs]"

    driver.run_python(page, "show(1024, 32, 1); scrubber.speed = 200; scrubber.playing = True")
    begin = canvas.evaluate(count)
    page.wait_for_timeout(3000)
    end = canvas.evaluate(count)
    driver.run_python(page, "scrubber.playing = False")
    played = (end[0] - begin[0]) / (end[1] - begin[1])

    box = slider.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 8, box["y"] + box["height"] / 2)
    page.mouse.down()
    begin = canvas.evaluate(count)
    for step in range(150):
        page.mouse.move(box["x"] + 8 + step * (box["width"] - 16) / 150, box["y"] + box["height"] / 2)
    end = canvas.evaluate(count)
    page.mouse.up()
    dragged = (end[0] - begin[0]) / (end[1] - begin[1])

    with capsys.disabled():
        print(
            f"\nscrubber, T = 1024, K = V = 32, two views: {played:.0f} frames/s playing, "
            f"{dragged:.0f} frames/s dragged, last frame {end[2]:.1f} ms"
        )
    assert min(played, dragged) > 0


def test_a_view_that_is_closed_leaves_the_other_one_working(page: Page):
    page.evaluate(
        """() => {
          const { content } = jupyterapp.shell.currentWidget;
          content.activeCellIndex = 1;
          jupyterapp.commands.execute('notebook:clear-cell-output');
          return null;
        }"""
    )
    page.wait_for_function("() => document.querySelectorAll('.qdelta-picture').length === 1")
    view(page).focus()
    page.keyboard.press("ArrowRight")
    wait_for_token(page, 1)
    np.testing.assert_allclose(shown_state(page), STATES[1], atol=1e-5)
