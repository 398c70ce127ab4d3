"""What a sweep keeps on disk, resumes, extends and stops, and that workers of every kind find the same."""

import threading
import time

import joblib
import numpy as np
import pytest
import torch
import xarray as xr

from qdelta_analysis import generators, sweep
from qdelta_analysis.sweep import computing, running


class Counted:
    """A measure that knows which points it was asked for."""

    def __init__(self):
        self.calls, self.lock = [], threading.Lock()

    def __call__(self, x):
        with self.lock:
            self.calls.append((x.T, float(x.lam[0, 0, 0])))
        if x.T == 4:
            raise ValueError("four")
        return {"sum": x.T + float(x.lam[0, 0, 0])}


def test_only_what_is_missing_is_computed(tmp_path):
    measure, path = Counted(), tmp_path / "it.zarr"
    first = sweep.run(measure, {"N": [3, 4, 5], "lam": [0.0, 0.5]}, path=path, progress=False)
    assert sorted(measure.calls) == [(3, 0), (3, 0.5), (4, 0), (4, 0.5), (5, 0), (5, 0.5)]
    measure.calls.clear()
    again = sweep.run(measure, {"N": [3, 4, 5], "lam": [0.0, 0.5]}, path=path, progress=False)
    assert measure.calls == []
    xr.testing.assert_identical(again, first)
    xr.testing.assert_identical(sweep.load(path), first)
    more = sweep.run(measure, {"N": [3, 4, 5, 2], "lam": [0.0, 0.5, 0.25]}, path=path, progress=False)
    assert sorted(measure.calls) == [(2, 0), (2, 0.25), (2, 0.5), (3, 0.25), (4, 0.25), (5, 0.25)]
    xr.testing.assert_identical(more.isel(N=slice(0, 3), lam=slice(0, 2)), first)
    xr.testing.assert_identical(sweep.load(path), more)
    measure.calls.clear()
    retried = sweep.run(
        measure, {"N": [3, 4, 5, 2], "lam": [0.0, 0.5, 0.25]}, path=path, retry_failed=True, progress=False
    )
    assert sorted(measure.calls) == [(4, 0), (4, 0.25), (4, 0.5)]
    assert (retried.status == more.status).all()
    assert retried["sum"].sel(N=5, lam=0.25).item() == 5.25


def test_a_retried_point_that_succeeds_loses_its_error(tmp_path):
    broken = [True]

    def measure(x):
        if broken[0]:
            raise OSError("disk full")
        return 1.0

    run = lambda **options: sweep.run(measure, {"N": [3, 4]}, path=tmp_path / "it.zarr", progress=False, **options)
    assert (run().error == "OSError: disk full").all()
    broken[0] = False
    assert (run().status == 2).all()
    assert (run(retry_failed=True).status == 1).all()
    assert (sweep.load(tmp_path / "it.zarr").error == "").all()


def test_words_and_many_files(tmp_path, monkeypatch):
    monkeypatch.setattr("qdelta_analysis.sweep.store._CHUNK_POINTS", 6)
    make = lambda kind, seed: generators.GENERATORS[kind](T=4, K=2, V=2, seed=seed)
    grid = {"seed": range(5), "lam": [0.0, 1.0, 0.5, 0.25], "kind": ["cone", "isotropic"]}
    data = sweep.run("memory", grid, make, path=tmp_path / "it.zarr", progress=False)
    assert len(list((tmp_path / "it.zarr" / "final_norm").rglob("*"))) > 5
    assert (data.status == 1).all()
    xr.testing.assert_identical(sweep.load(tmp_path / "it.zarr"), data)
    grid["kind"].append("repeated keys")
    more = sweep.run("memory", grid, make, path=tmp_path / "it.zarr", progress=False)
    assert more.kind.values.tolist() == ["cone", "isotropic", "repeated keys"]
    xr.testing.assert_identical(sweep.load(tmp_path / "it.zarr"), more)


def test_anyone_may_read_it_with_xarray_alone(tmp_path, recwarn):
    data = sweep.run("memory", {"lam": [0.0, 1.0], "N": [4]}, path=tmp_path / "it.zarr", progress=False)
    opened = xr.open_zarr(tmp_path / "it.zarr", consolidated=False, chunks=None)
    xr.testing.assert_equal(opened.final_norm, data.final_norm)
    assert opened.status.attrs["flag_meanings"] == "missing done failed"
    assert opened.attrs["measure"] == "qdelta_analysis.sweep.measures.memory"
    assert not [warning for warning in recwarn if "zarr" in str(warning.message).lower()]


def test_stop_keeps_what_is_done_and_watch_sees_it_grow(tmp_path):
    seen = []
    options = {"path": tmp_path / "it.zarr", "progress": False, "n_jobs": 1}
    stopped = sweep.run(
        "memory",
        {"seed": range(300), "N": [64], "d": [32]},
        watch=lambda data: seen.append(int((data.status == 1).sum())),
        stop=lambda: len(seen) == 2,
        **options,
    )
    assert len(seen) == 2
    assert 0 < seen[0] < seen[1] == int((stopped.status == 1).sum()) < 300
    xr.testing.assert_identical(sweep.load(tmp_path / "it.zarr"), stopped)
    whole = sweep.run("memory", {"seed": range(300), "N": [64], "d": [32]}, **options)
    kept = stopped.status == 1
    xr.testing.assert_identical(whole.final_norm.where(kept), stopped.final_norm.where(kept))
    assert (whole.status == 1).all()


def test_a_sweep_that_is_stopped_as_soon_as_it_may_be_has_something_done():
    """Of points that are measured together one task has all; that other tasks have none is no occasion to stop."""
    asked = []
    grid = {"lam": [0.0, 0.5, 1.0], "seed": range(50), "N": [64], "d": [16]}
    data = sweep.run("memory", grid, n_jobs=2, stop=lambda: asked.append(1) or True, progress=False)
    assert 0 < int((data.status != 0).sum()) < data.status.size
    assert len(asked) <= int((data.status != 0).sum())


def test_stopping_loses_nothing_that_a_worker_had_computed(monkeypatch, recwarn):
    """Workers run ahead of a caller who takes a while to look; what they did meanwhile is kept."""
    monkeypatch.setattr(running, "_TASK_POINTS", 1)
    computed, lock = [], threading.Lock()

    def measure(x):
        with lock:
            computed.append(x.T)
        time.sleep(0.002)
        return float(x.T)

    options = {"watch": lambda data: time.sleep(0.05), "stop": lambda: len(computed) > 20, "n_jobs": 2}
    data = sweep.run(measure, {"N": range(1, 1001), "d": [2]}, progress=False, **options)
    assert 20 < len(computed) < 1000
    assert sorted(computed) == data.N[(data.status == 1).values.ravel()].values.tolist()
    assert not [warning for warning in recwarn if "tasks" in str(warning.message)]


def test_a_task_that_takes_too_long_hands_back_the_rest(monkeypatch):
    """Points that were quick become slow: nobody waits for a task of a thousand of them."""
    monkeypatch.setattr(computing, "TASK_SECONDS", 0.02)
    monkeypatch.setattr(running, "TASK_SECONDS", 0.02)

    def measure(x):
        if x.T > 4:
            time.sleep(0.05)
        return float(x.T)

    grown = []
    watch = lambda data: grown.append(int((data.status == 1).sum()))
    grid = {"N": [4, 5], "seed": range(30), "d": [2]}
    data = sweep.run(measure, grid, watch=watch, n_jobs=1, progress=False)
    assert (data["value"] == data.N).all()
    assert max(np.diff(grown)) < 30
    assert sum(np.diff(grown[-16:]) <= 3) > 10


def test_a_bar_shows_points_and_the_remaining_time(capsys):
    sweep.run("memory", {"lam": [0.0, 3.0], "N": [4]})
    shown = capsys.readouterr().err
    assert "2/2" in shown
    assert "point/s" in shown
    assert "<" in shown
    assert "failed=1" in shown


@pytest.mark.parametrize("backend", ["threading", "loky", "sequential"])
def test_workers_of_every_kind_find_the_same(backend):
    grid = {"lam": [0.0, 1.0], "seed": range(4), "N": [20], "d": [4]}
    here = sweep.run("memory", grid, n_jobs=1, progress=False)
    with joblib.parallel_config(backend=backend, n_jobs=2):
        there = sweep.run("memory", grid, progress=False)
    assert torch.get_num_threads() == 2  # as it was before
    for name in ("final_norm", "cosine"):
        np.testing.assert_allclose(there[name], here[name], rtol=1e-5, atol=1e-6)
