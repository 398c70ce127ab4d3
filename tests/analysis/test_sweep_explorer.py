"""The sweep widget as an object, and the picture that it shows. A real browser drives it in tests/browser."""

import gc
import json
import time

import numpy as np
import pytest
import xarray as xr

from qdelta_analysis import sweep
from qdelta_analysis.plots import sweep_figure
from qdelta_analysis.widgets import SweepExplorer

from .test_export import needs_chrome

SMALL = {"across": ("lam", "0:1:3"), "up": ("beta", "0.5,1,3"), "also": "d=4; N=8; seed=0,1"}


@pytest.fixture
def swept() -> xr.Dataset:
    """Two axes, and two seeds of which one may fail, or be infinite."""

    def measure(x):
        lam, beta, seed = x.lam[0, 0, 0].item(), x.beta[0, 0, 0].item(), x.v[0, 0, 0, 0].item()
        if lam == 1 and seed > 0:
            raise ArithmeticError("a < b & c, and " + "so on " * 30)
        return np.inf if beta == 0.5 and seed > 0 else 100 * lam + 10 * beta + seed

    def make(seed):
        from qdelta_analysis import generators

        x = generators.isotropic(T=2, K=2, V=2)
        x.v[:] = seed
        return x

    grid = {"lam": [0.0, 0.5, 1.0], "seed": [0, 1, 2], "beta": [0.5, 1.0]}
    return sweep.run(measure, grid, make, progress=False)


def test_cells_are_means_over_what_is_done_and_finite(swept):
    cells = sweep.cells(swept, "value", "lam", "beta")
    assert cells["mean"].dims == ("beta", "lam")
    expected = [[5, 55, 105], [11, 61, 110]]  # at beta = 1/2 seed 0 alone is finite, at lam = 1 it alone is done
    np.testing.assert_allclose(cells["mean"], expected)
    np.testing.assert_array_equal(cells.done, [[3, 3, 1], [3, 3, 1]])
    np.testing.assert_array_equal(cells.failed, [[0, 0, 2], [0, 0, 2]])
    np.testing.assert_array_equal(cells.finite, [[1, 1, 1], [3, 3, 1]])
    assert (cells.attrs["points"], cells.attrs["over"]) == (3, {"seed": 3})
    assert cells.error.values[0, 2].startswith("ArithmeticError: a < b & c")
    assert cells.error.values[0, 0] == ""
    turned = sweep.cells(swept, "value", "beta", "lam")
    np.testing.assert_allclose(turned["mean"], np.transpose(expected))
    assert np.isnan(sweep.cells(swept, "another", "lam", "beta")["mean"]).all()


@pytest.mark.parametrize("axes", [("lam", "lam"), ("lam", "alpha")])
def test_cells_want_two_axes_of_the_sweep(axes, swept, as_users_call):
    with pytest.raises(ValueError, match="expected two axes among lam, seed, beta"):
        sweep.cells(swept, "value", *axes)


def test_the_picture_marks_what_failed_and_says_why(swept):
    figure = sweep_figure(sweep.cells(swept, "value", "lam", "beta"))
    heat, failed, infinite = figure.data
    np.testing.assert_allclose(heat.z, [[5, 55, 105], [11, 61, 110]])
    assert heat.text[0][1] == "value = 55, 3 of 3 points"
    assert list(zip(failed.x, failed.y, strict=True)) == [(1.0, 0.5), (1.0, 1.0)]
    assert failed.text[0].startswith("failed, 2 of 3 points:<br>ArithmeticError: a &lt; b &amp; c")
    assert max(map(len, failed.text[0].split("<br>"))) < 70
    assert list(zip(infinite.x, infinite.y, strict=True)) == [(0.0, 0.5), (0.5, 0.5)]
    assert figure.layout.showlegend
    assert figure.layout.xaxis.range == (-0.25, 1.25)
    colors = figure.layout.coloraxis
    assert (colors.cmin, colors.cmax) == (5, 110)
    assert colors.colorbar.title.text == "value, mean over 3 seeds"


def drawn(values: list[float], **axis) -> tuple:
    """The picture of a row of numbers."""
    axis = axis or {"lam": np.arange(len(values)) / 2}
    (name, places) = next(iter(axis.items()))
    data = xr.Dataset(
        {
            "value": (("y", name), [values]),
            "status": (("y", name), np.where(np.isnan([values]), 0, 1)),
            "error": (("y", name), np.full((1, len(values)), "", dtype=object)),
        },
        {name: places, "y": ["one"]},
    )
    figure = sweep_figure(sweep.cells(data, "value", name, "y"))
    return figure, figure.layout.coloraxis


def test_colours_are_centred_on_zero_where_there_are_signs_and_logarithmic_over_decades():
    _, colors = drawn([-1.0, 3.0, np.nan])
    assert (colors.cmin, colors.cmax) == (-3, 3)
    figure, colors = drawn([1.0, 10.0, 1e6, 0.0])
    np.testing.assert_allclose(figure.data[0].z, [[0, 1, 6, 0]])
    assert (colors.cmin, colors.cmax) == (0, 6)
    assert colors.colorbar.ticktext[-1] == "10<sup>6</sup>"
    _, colors = drawn([2.0, 2.0])
    assert colors.cmin < 2 < colors.cmax
    figure, colors = drawn([np.nan, np.nan])
    assert not figure.layout.showlegend


def test_uneven_axes_have_cells_of_one_width():
    figure, _ = drawn([1.0, 2.0, 3.0], N=np.array([16, 32, 64]))
    assert list(figure.data[0].x) == ["16", "32", "64"]
    assert figure.layout.xaxis.type == "category"
    assert figure.layout.xaxis.range == (-0.5, 2.5)


def agrees(explorer: SweepExplorer) -> None:
    """What is on the screen is what `figure()` draws of the data."""
    shown, still = explorer.map.figure, explorer.figure()
    for a, b in zip(shown.data, still.data, strict=True):
        for name in ("x", "y", "text", *(["z"] if b.type == "heatmap" else [])):
            kind = float if name == "z" else object
            np.testing.assert_array_equal(np.array(a[name], kind), np.array(b[name], kind))
    colors = [json.loads(figure.to_json())["layout"]["coloraxis"] for figure in (shown, still)]
    assert colors[0] == colors[1]


def test_it_measures_what_a_sweep_measures_and_keeps_errors():
    explorer = SweepExplorer(**SMALL)
    assert np.isnan(np.array(explorer.map.figure.data[0].z, float)).all()
    assert "0 of 18 points" in explorer._message.value
    explorer.start()
    explorer.wait(60)
    grid = {"d": [4], "N": [8], "seed": [0, 1], "beta": [0.5, 1.0, 3.0], "lam": [0.0, 0.5, 1.0]}
    assert explorer.grid == grid
    xr.testing.assert_allclose(
        explorer.data.drop_vars("error"), sweep.run("recall", grid, progress=False).drop_vars("error")
    )
    assert explorer._number.value == "recall_error"
    assert "18 of 18 points, 6 failed" in explorer._message.value
    assert (explorer._bar.value, explorer._bar.max) == (18, 18)
    failed = explorer.map.figure.data[1]
    assert list(failed.y) == ["3", "3", "3"]
    assert "beta has values in [3, 3]" in failed.text[0].replace("<br>", " ")
    agrees(explorer)
    explorer._number.value = "oldest_error"
    np.testing.assert_allclose(
        np.array(explorer.map.figure.data[0].z, float)[0],
        explorer.data.oldest_error.sel(beta=0.5).mean("seed").squeeze(),
    )
    agrees(explorer)


def test_cancel_keeps_what_is_done_and_start_computes_the_rest(tmp_path):
    computed = []

    def slowly(x):
        time.sleep(0.02)
        computed.append(x.lam[0, 0, 0].item())
        return float(len(computed))

    options = {"across": ("lam", "0:1:5"), "up": ("seed", "0:59:60"), "also": "d=2; N=2"}
    explorer = SweepExplorer(slowly, **options, number="value", folder=tmp_path)
    explorer.start()
    explorer.start()  # which does nothing while it runs
    assert explorer.running
    assert explorer._start.disabled
    assert not explorer._cancel.disabled
    while (explorer.data.status == 1).sum() < 6:
        time.sleep(0.01)
    with pytest.raises(TimeoutError, match="still runs after"):
        explorer.wait(0.01)
    explorer.cancel()
    explorer.wait(30)
    before = len(computed)
    assert 6 <= before < 300
    assert (explorer.data.status == 1).sum() == before
    assert "cancelled; start goes on" in explorer._message.value
    assert explorer._cancel.disabled
    agrees(explorer)
    kept = explorer.data["value"].copy()
    again = SweepExplorer(slowly, **options, number="value", folder=tmp_path)  # another day
    xr.testing.assert_equal(again.data, explorer.data)
    again.start()
    again.wait(30)
    assert len(computed) == 300
    xr.testing.assert_equal(again.data["value"].where(kept.notnull()), kept)
    agrees(again)


def test_failed_points_are_computed_again_only_if_asked(tmp_path):
    lacking, calls = tmp_path / "lacking", []
    lacking.touch()

    def measure(x):
        calls.append(x.T)
        if lacking.exists() and x.T == 3:
            raise RuntimeError("not yet")
        return float(x.T)

    explorer = SweepExplorer(measure, across=("N", "2,3"), up=("lam", "0,1"), also="d=2", number="value")
    for retry, again in ((False, 4), (False, 4), (True, 6)):
        explorer._retry.value = retry
        if retry:
            lacking.unlink()
        explorer.start()
        explorer.wait(30)
        assert len(calls) == again
        assert ("2 failed" in explorer._message.value) == (not retry)
    assert (explorer.data["value"] == explorer.data.N).all()
    assert not explorer.map.figure.layout.showlegend
    agrees(explorer)


def test_other_settings_are_another_sweep_and_both_are_kept():
    explorer = SweepExplorer(**SMALL)
    explorer.start()
    explorer.wait(60)
    first = explorer.data
    explorer._across[1].value = "0,2"
    assert dict(explorer.data.sizes) == {"d": 1, "N": 1, "seed": 2, "beta": 3, "lam": 2}
    assert (explorer.data.status == 0).all()
    explorer._across[1].value = "0:1:3"
    xr.testing.assert_equal(explorer.data, first)
    explorer._across[0].value = "seed"
    assert explorer._also.value == "d=4; N=8"
    assert explorer.grid["seed"] == list(range(8))
    explorer._source.value = "trained"
    assert explorer._across[0].value not in ("seed", "beta")
    assert explorer._also.value == "N=8"
    explorer.start()
    explorer.wait(60)
    assert (explorer.data.status != 0).all(), explorer._message.value
    agrees(explorer)


def test_what_controls_cannot_mean_is_said():
    explorer = SweepExplorer(**SMALL)
    explorer._up[1].value = "0:1"
    assert "expected values such as" in explorer._message.value
    explorer.start()
    assert not explorer.running
    explorer._up[1].value = "1,2"
    explorer._also.value = "lam=1"
    assert "expected each once" in explorer._message.value
    explorer._also.value = "width=3"
    assert "expected lam, beta, alpha and parameters of" in explorer._message.value
    explorer._up[1].value = "zzz"
    assert "expected a list of numbers" in explorer._message.value
    explorer._up[1].value = "1,2"
    explorer.start()
    explorer.wait(30)
    assert "expected lam, beta, alpha and parameters of" in explorer._message.value
    assert not explorer._start.disabled


def test_closed_it_starts_no_sweep():
    explorer = SweepExplorer(**SMALL)
    explorer.close()
    explorer.start()
    assert explorer._worker is None
    assert not explorer.running


def test_its_code_runs_the_same_sweep(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    explorer = SweepExplorer(**SMALL)
    explorer.start()
    explorer.wait(60)
    found = {}
    exec(explorer._copy.text, found)
    xr.testing.assert_allclose(found["data"].drop_vars("error"), explorer.data.drop_vars("error"))


@needs_chrome
def test_it_exports_what_it_shows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    explorer = SweepExplorer(**SMALL)
    explorer.start()
    explorer.wait(60)
    row = explorer.children[-1]
    row._export()
    assert "wrote sweep-1.pdf, sweep-1.svg, sweep-1.png, sweep-1.json" in row._message.value
    made_with = json.loads((tmp_path / "sweep-1.json").read_text())["parameters"]
    assert made_with == {"measure": "recall", "tokens": "cone", "number": "recall_error", "grid": explorer.grid}
    row._export()
    assert (tmp_path / "sweep-2.svg").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"measure": "nothing"}, "measure is 'nothing'; expected a function, or one of error, memory, recall"),
        ({"tokens": 3}, "tokens is 3; expected a function, or one of cone"),
        ({"across": ("lam", "0:1")}, "lam is '0:1'; expected values such as"),
        ({"up": ("lam", "0,1")}, "expected each once"),
        ({"across": ("lam", "0:1:100000"), "up": ("c", "0:1:100000"), "also": "N=8"}, "c 100,000 x lam 100,000.* GB"),
        ({"across": ("lam", "zzz")}, r"grid has lam = \['zzz'\]; expected a list of numbers"),
        ({"across": ("nope", "0:1:3")}, "grid has the axes .*nope; expected lam, beta, alpha and parameters of"),
        ({"across": ("lam", "0,0")}, "expected distinct values"),
        ({"across": ("lam",)}, r"across is \('lam',\); expected a name and values"),
        ({"up": ("c", 3)}, r"up is \('c', 3\); expected a name and values"),
        ({"also": None}, "also is None; expected other axes"),
    ],
)
def test_bad_input(options, sentence, as_users_call, monkeypatch):
    lost = []
    monkeypatch.setattr("sys.unraisablehook", lost.append)
    with pytest.raises(ValueError, match=sentence):
        SweepExplorer(**options)
    gc.collect()
    assert not lost  # what could not be made ends without a word
