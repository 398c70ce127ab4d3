"""The explorer as an object: its controls, and what they refuse. A real browser drives it in tests/browser."""

import dataclasses

import numpy as np
import pytest

from qdelta_analysis.plots import explorer_figure
from qdelta_analysis.view import Gate, Settings, view
from qdelta_analysis.widgets import Explorer


@pytest.fixture(scope="module")
def explorer() -> Explorer:
    return Explorer()


def panels_agree(explorer: Explorer) -> None:
    v, token = view(explorer.settings.inputs()), explorer.token
    traces = {trace.meta: trace for trace in explorer._panels.data}
    np.testing.assert_allclose(traces["singular values"].y, v.singular_values(token), rtol=1e-9)
    np.testing.assert_allclose(traces["eigenvalues"].x, v.eigenvalues(token))
    for name in ("error_before", "error_after", "state_norm", "beta_alignment"):
        np.testing.assert_allclose(traces[name].y, getattr(v, name)[traces[name].x])
        assert {getattr(v, name).min(), getattr(v, name).max()} <= set(traces[name].y)
    assert {shape.x0 for shape in explorer._panels.layout.shapes if shape.type == "line"} == {token}
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


def test_what_is_not_there_is_refused_before_anything_moves():
    with pytest.raises(ValueError, match="layer is 9; expected 0 to 2"):
        Explorer(dataclasses.replace(Settings(), layer=9))


def test_a_figure_holds_every_panel_and_is_readable():
    v = view(Settings(source="two-token cycle", lam=Gate(1.0), beta=Gate(1.0), alpha=Gate(1.0)).inputs())
    figure = explorer_figure(v, 40)
    assert figure.layout.yaxis5.type == "log"  # the memory grows by sqrt(2) a token
    titles = {axis.title.text for axis in figure.select_yaxes()} | {axis.title.text for axis in figure.select_xaxes()}
    assert {"value dimension", "singular value σ<sub>i</sub>(S)", "Im", "‖v − Sx‖", "βa", "token"} <= titles
    heat = figure.data[0]
    assert heat.zmin == -heat.zmax
    np.testing.assert_array_equal(heat.z, v.state(40))


def test_saving_without_a_chrome_says_how_to_get_one(explorer, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "no-browser"))
    from ipywidgets import HTML

    message = HTML()
    explorer._save("png", message)
    assert "plotly_get_chrome" in message.value
    assert list(tmp_path.iterdir()) == []
