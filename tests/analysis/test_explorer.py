"""The explorer as an object: its controls, and what they refuse. A real browser drives it in tests/browser."""

import dataclasses

import numpy as np
import pytest

from qdelta_analysis import generators, guarantees, rendering
from qdelta_analysis.plots import explorer_figure
from qdelta_analysis.view import Gate, Settings, view
from qdelta_analysis.widgets import Explorer


@pytest.fixture(scope="module")
def explorer() -> Explorer:
    return Explorer()


def panels_agree(explorer: Explorer) -> None:
    v, token = view(explorer.settings.inputs()), explorer.token
    traces = {trace.meta: trace for trace in explorer._panels.figure.data}
    np.testing.assert_allclose(traces["singular values"].y, v.singular_values(token), rtol=1e-9)
    np.testing.assert_allclose(traces["eigenvalues"].x, v.eigenvalues(token))
    for name in ("error_before", "error_after", "state_norm", "beta_alignment"):
        np.testing.assert_allclose(traces[name].y, getattr(v, name)[traces[name].x])
        assert {getattr(v, name).min(), getattr(v, name).max()} <= set(traces[name].y)
    assert {shape.x0 for shape in explorer._panels.figure.layout.shapes if shape.type == "line"} == {token}
    assert explorer.scrubber.recording["tokens"] == v.T
    assert explorer._copy.text == explorer.settings.code()


def test_it_starts_with_the_settings_asked_for():
    settings = Settings(source="cone", lam=Gate(0.25), beta=Gate(0.75), alpha=Gate(0.9), cos=-0.5)
    explorer = Explorer(settings, token=3)
    assert explorer.settings == settings
    assert explorer.token == 3
    panels_agree(explorer)


def test_every_control_reaches_every_panel(explorer):
    figure = explorer._panels
    sliders = zip(explorer._sliders.values(), (0.5, 0.7, 2.0), strict=True)
    for control, value in [(explorer._layer, 2), (explorer._head, 1), *sliders]:
        control.value = value
        panels_agree(explorer)
    for mode in explorer._modes.values():
        mode.value = "="
        panels_agree(explorer)
    assert explorer.settings.lam == Gate(0.5)
    for source in ("two-token cycle", "cone", "trained model"):
        explorer._source.value = source
        panels_agree(explorer)
    assert explorer.settings.lam == Gate(1.0, scales=True)
    explorer.scrubber.token = 7
    panels_agree(explorer)
    assert explorer._panels is figure  # built once, mutated


def stability_agrees(explorer: Explorer) -> None:
    v, token = view(explorer.settings.inputs()), explorer.token
    panel = explorer._stability
    drawn = {trace.meta: trace for trace in panel.maps.figure.data}
    expected = {trace.meta: trace for trace in panel.figure().data}
    assert expected.keys() == drawn.keys()
    for key, trace in expected.items():
        np.testing.assert_array_equal(drawn[key].x, trace.x, err_msg=key)
        np.testing.assert_array_equal(drawn[key].y, trace.y, err_msg=key)
        if trace.type == "heatmap":
            np.testing.assert_array_equal(drawn[key].z, trace.z, err_msg=key)
    assert drawn["beta token"].x == v.lam[token]
    assert drawn["beta token"].y == v.beta[token]
    assert drawn["cos token"].y == pytest.approx(v.cos[token])
    report = guarantees.check(explorer.settings.inputs())
    assert {row["id"]: row["verdict"] for row in panel.report_table.claims} == report.verdicts
    assert {row["id"]: row["token"] for row in panel.report_table.claims} == {
        c.id: c.token for c in report.checks.values()
    }
    assert panel.report_table.summary == report.summary


def test_the_stability_panel_is_made_when_it_is_opened_and_follows_when_it_is_seen(monkeypatch):
    explorer = Explorer()
    assert explorer._stability is None
    explorer._tabs.selected_index = 1
    maps = explorer._stability.maps
    stability_agrees(explorer)
    checks = []
    check = guarantees.check
    monkeypatch.setattr(guarantees, "check", lambda facts: checks.append(facts) or check(facts))
    for token in (3, 700):
        explorer.scrubber.token = token
    assert not checks  # the report is of the head, not of the token
    explorer._sliders["lam"].value = 0.5
    assert len(checks) == 1
    explorer._tabs.selected_index = 0
    explorer._sliders["lam"].value = 0.7
    explorer._head.value = 1
    assert len(checks) == 1  # behind, nothing is computed
    panels_agree(explorer)
    explorer._tabs.selected_index = 1
    assert len(checks) == 2
    monkeypatch.undo()
    stability_agrees(explorer)
    for source in ("two-token cycle", "cone", "repeated keys"):
        explorer._source.value = source
        stability_agrees(explorer)
    assert explorer._stability.maps is maps  # built once, mutated
    assert explorer.figure().data[0].meta == "beta growth"
    explorer._tabs.selected_index = 0
    panels_agree(explorer)


def test_the_report_s_tokens_are_gone_to(explorer):
    explorer._tabs.selected_index = 1
    table = explorer._stability.report_table
    table._handle_custom_msg({"go": 17}, [])
    assert explorer.token == 17
    table._handle_custom_msg({"go": 10**6}, [])  # a token after those that can be shown
    assert explorer.token == explorer.view.T - 1
    explorer._tabs.selected_index = 0


def test_a_memory_that_outgrows_the_screen_is_said_to():
    cycle = Settings(source="two-token cycle", lam=Gate(2.0), beta=Gate(1.0), alpha=Gate(1.0))
    explorer = Explorer(cycle)
    assert "passes 1e30" not in explorer._words.value
    explorer.view = view(generators.two_token_cycle(T=400, lam=1.0, K=4, V=4))
    explorer._show_words()
    assert f"Shown up to token {explorer.view.T - 1} of 400: there ‖S‖ passes 1e30" in explorer._words.value


def test_what_is_not_there_is_refused_before_anything_moves(as_users_call):
    with pytest.raises(ValueError, match="layer is 9; expected 0 to 2"):
        Explorer(dataclasses.replace(Settings(), layer=9))
    for token in (-1, 1024, 10**6, 0.5):
        with pytest.raises(ValueError, match=f"token is {token}; expected a whole number from 0 to 1023"):
            Explorer(token=token)


def test_a_figure_holds_every_panel_and_is_readable():
    v = view(Settings(source="two-token cycle", lam=Gate(1.0), beta=Gate(1.0), alpha=Gate(1.0)).inputs())
    figure = explorer_figure(v, 40)
    assert figure.layout.yaxis5.type == "log"  # the memory grows by sqrt(2) a token
    titles = {axis.title.text for axis in figure.select_yaxes()} | {axis.title.text for axis in figure.select_xaxes()}
    assert {"value dimension", "singular value σ<sub>i</sub>(S)", "Im", "‖v − Sx‖", "βa", "token"} <= titles
    heat = figure.data[0]
    assert heat.zmin == -heat.zmax
    np.testing.assert_array_equal(heat.z, v.state(40))


def test_exporting_without_a_chrome_says_how_to_get_one(explorer, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "no-browser"))
    rendering._Browser.stop()  # another test's, which would draw
    row = explorer.children[-1]
    row.children[0].click()
    assert "plotly_get_chrome" in row.children[-1].value
    assert list(tmp_path.iterdir()) == []
