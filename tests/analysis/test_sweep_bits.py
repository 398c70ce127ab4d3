"""The same sweep gives the same numbers to the last bit: whoever computes, however long it takes."""

import joblib
import numpy as np
import pytest
import xarray as xr

from qdelta_analysis import generators, sweep
from qdelta_analysis.sweep import computing, running
from tests.helpers import cases

# Gates enough for several calls, and tokens of two sizes: what is computed together is not the same everywhere.
GRID = {"lam": np.linspace(0, 1, 11), "beta": np.linspace(0.1, 1, 5), "seed": range(7), "N": [40, 33], "d": [16]}
ROUNDED = {"seed": range(40), "lam": [0.0, 0.3, 0.7], "N": [24], "d": [8]}


def same(a: xr.Dataset, b: xr.Dataset) -> None:
    for name in a.data_vars.keys() | b.data_vars.keys():
        np.testing.assert_array_equal(a[name].values, b[name].values, err_msg=str(name))


@pytest.fixture(scope="module", params=["memory", "recall"])
def whole(request) -> tuple[str, xr.Dataset]:
    return request.param, sweep.run(request.param, GRID, n_jobs=1, progress=False)


@pytest.mark.parametrize(("jobs", "seconds"), [(1, 1e-6), (2, 0.02), (3, 1000)])
def test_neither_workers_nor_their_speed_change_a_bit(whole, jobs, seconds, monkeypatch):
    for module in (computing, running):
        monkeypatch.setattr(module, "TASK_SECONDS", seconds)
    same(sweep.run(whole[0], GRID, n_jobs=jobs, progress=False), whole[1])


def test_processes_find_the_same_bits(whole):
    with joblib.parallel_config(backend="loky", n_jobs=2):
        same(sweep.run(whole[0], GRID, progress=False), whole[1])


def test_nor_does_where_a_sweep_was_stopped(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(running, "_TASK_POINTS", 5)
    make = np.random.default_rng(0)
    data = None
    while data is None or not (data.status == 1).all():
        steps = iter([False] * int(make.integers(2, 9)))
        stop = lambda steps=steps: next(steps, True)
        data = sweep.run(whole[0], GRID, path=tmp_path / "it.zarr", n_jobs=2, stop=stop, progress=False)
    same(data, whole[1])
    same(sweep.load(tmp_path / "it.zarr"), whole[1])


@pytest.mark.cases
def test_nor_does_which_points_are_there(tmp_path):
    """Marks taken away at random, as if these points had never been done."""
    path, make = tmp_path / "it.zarr", np.random.default_rng(1)
    first = sweep.run("memory", ROUNDED, path=path, progress=False)
    for _ in range(cases(5)):
        taken = make.random(first.status.shape) < make.choice([0.02, 0.5, 0.95])
        with sweep.store.Results(sweep.running._plan("memory", ROUNDED, "cone", None), path) as results:
            results.status[taken] = 0
            results._arrays["status"][...] = results.status
        assert (sweep.load(path).status == 0).sum() == taken.sum()
        same(sweep.run("memory", ROUNDED, path=path, progress=False), first)


def test_a_sweep_that_grew_has_the_same_bits_wherever_it_was_stopped(tmp_path):
    """What was added is computed together, also where the smaller grid had not been finished."""
    grown = {**ROUNDED, "lam": [0.0, 0.3, 0.7, 1.0], "seed": range(45)}
    found = []
    for name, stops in (("a", False), ("b", True)):
        options = {"path": tmp_path / name, "progress": False, "n_jobs": 1}
        first = sweep.run("memory", ROUNDED, stop=lambda stops=stops: stops, **options)
        assert bool((first.status == 1).all()) != stops
        found.append(sweep.run("memory", grown, stop=lambda stops=stops: stops, **options))
        found[-1] = sweep.run("memory", grown, **options)
        assert (found[-1].status == 1).all()
        kept = first.status == 1
        xr.testing.assert_equal(
            found[-1].final_norm.isel(lam=slice(3), seed=slice(40)).where(kept), first.final_norm.where(kept)
        )
    same(*found)


def test_what_fails_changes_nothing_of_its_neighbours(tmp_path):
    """A call that fails is halved till the point is alone; so it is again when the sweep goes on."""

    def make(seed):
        if seed == 5:
            raise OSError("no such tokens")
        return generators.isotropic(T=20, K=8, V=8, seed=seed)

    grid = {"lam": [0.0, 0.5, 1.0, 3.0], "seed": range(20)}
    first = sweep.run("memory", grid, make, n_jobs=1, progress=False)
    assert int((first.status == 2).sum()) == 4 + 20 - 1
    stopped = {"path": tmp_path / "it.zarr", "n_jobs": 2, "progress": False}
    sweep.run("memory", grid, make, stop=lambda: True, **stopped)
    same(sweep.run("memory", grid, make, **stopped), first)
    same(sweep.run("memory", grid, make, retry_failed=True, **stopped), first)
