"""Sweeps against the same numbers computed one point at a time, and what is refused."""

import itertools

import filelock
import numpy as np
import pytest
import torch
import xarray as xr

from qdelta_analysis import QDeltaInputs, generators, load_trained, products, sweep, trace
from qdelta_analysis.sweep import computing, running
from qdelta_kernels import qdelta_rule_reference
from tests.helpers import tokens

GRID = {"lam": [0.0, 0.3, 1.0], "d": [4, 9], "beta": [0.0, 0.2, 1.0], "N": [67, 7], "alpha": [1.0, 0.9], "seed": [5, 0]}


def each(data: xr.Dataset):
    """Every point's coordinates, and what was found there."""
    for values in itertools.product(*(data[name].values.tolist() for name in data.dims)):
        point = dict(zip(data.dims, values, strict=True))
        yield point, data.sel(point)


def one(lam, beta, alpha, d, N, seed, c=0.0) -> QDeltaInputs:
    return generators.cone(T=N, K=d, V=d, cos=c, seed=seed, lam=lam, beta=beta, alpha=alpha)


# What is measured


@pytest.mark.parametrize("measure", ["error", "memory"])
def test_memory_and_error_are_what_a_trace_says_of_every_point(measure):
    data = sweep.run(measure, GRID, progress=False)
    assert dict(data.sizes) == {name: len(values) for name, values in GRID.items()}
    for point, found in each(data):
        traced = trace(one(**point), snapshots=0).isel(batch=0, head=0)
        expected = {
            "final_norm": traced.state_norm[-1],
            "largest_norm": traced.state_norm.max(),
            "error_before": traced.error_before.mean(),
            "error_after": traced.error_after.mean(),
            "cosine": traced.cosine.mean(),
        }
        assert len(data.data_vars) == (7 if measure == "memory" else 5)
        for name in data.data_vars.keys() & expected.keys():
            value = expected[name]
            np.testing.assert_allclose(found[name], value, rtol=2e-5, atol=2e-6, err_msg=f"{name} at {point}")


def test_recall_is_what_the_definition_s_last_memory_answers():
    data = sweep.run("recall", {**GRID, "c": [-0.5, 0.8]}, progress=False)
    for point, found in each(data):
        inputs = one(**point).to(torch.float64)
        _, h = qdelta_rule_reference(**inputs.arguments(), output_final_state=True)
        error = (inputs.k[0, :, 0] @ h[0, 0] - inputs.v[0, :, 0]).square().sum(-1) / inputs.v[0, :, 0].square().sum(-1)
        quarter = max(1, inputs.T // 4)
        expected = {"recall_error": error, "oldest_error": error[:quarter], "newest_error": error[-quarter:]}
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value.mean(), rtol=1e-4, atol=1e-5, err_msg=f"{name} at {point}")


@pytest.mark.parametrize("d", [[1], [2, 5]])
def test_transition_is_the_dense_matrices_norm(d):
    make = lambda d, seed: generators.isotropic(T=9, K=d, V=d, seed=seed)
    data = sweep.run(
        "transition", {"lam": [0.0, 2.0], "beta": [0.3, 1.9], "d": d, "seed": [0, 1]}, make, progress=False
    )
    for point, found in each(data):
        A = make(point["d"], point["seed"]).with_lam(point["lam"]).with_beta(point["beta"]).transition().matrix()
        norms = torch.linalg.matrix_norm(A.double()[0, :, 0], ord=2)
        np.testing.assert_allclose(found.mean_norm, norms.mean(), rtol=1e-5)
        np.testing.assert_allclose(found.largest_norm, norms.max(), rtol=1e-5)
        np.testing.assert_allclose(found.mean_log_norm, norms.log().mean(), rtol=1e-4, atol=1e-6)


def test_transition_survives_vanishing_keys_and_shared_heads():
    x = generators.isotropic(T=6, K=3, V=3, H=4)
    k = x.k[:, :, :2].clone()
    k[:, 0] = 0
    inputs = QDeltaInputs(x.q[:, :, :2], k, x.v, x.g, x.beta, x.lam)
    found = sweep.MEASURES["transition"](inputs)
    traced = trace(inputs, snapshots=0)
    np.testing.assert_allclose(found["largest_norm"], traced.operator_norm.max("time"), rtol=1e-5)
    np.testing.assert_allclose(found["mean_alignment"], traced.beta_alignment.mean("time"), atol=1e-6)
    assert found["contracting"].max() <= 5 / 6  # nothing contracts where there is no key


@pytest.mark.parametrize("T", [1, 31, 100])
def test_error_and_recall_with_shared_heads_and_a_state_that_enters(T):
    x = tokens(T=T, B=2, H=2, HV=6, K=5, V=4)
    inputs = QDeltaInputs(*x[:6], initial_state=x.state)
    traced, (_, h) = trace(inputs, snapshots=0), x.call(qdelta_rule_reference)
    found = sweep.MEASURES["error"](inputs)
    np.testing.assert_allclose(found["error_before"], traced.error_before.mean("time"), rtol=1e-12)
    np.testing.assert_allclose(found["error_after"], traced.error_after.mean("time"), rtol=1e-12)
    np.testing.assert_allclose(found["final_norm"], h.norm(dim=(-2, -1)), rtol=1e-12)
    read = x.k.repeat_interleave(3, dim=2).transpose(1, 2) @ h - x.v.transpose(1, 2)
    error = (read.square().sum(-1) / x.v.square().sum(-1).transpose(1, 2)).mean(-1)
    np.testing.assert_allclose(sweep.MEASURES["recall"](inputs)["recall_error"], error, rtol=1e-12)


def test_growth_is_the_top_lyapunov_exponent():
    data = sweep.run("growth", {"lam": [0.2, 1.0], "beta": [0.9], "d": [3], "N": [200]}, progress=False)
    for point, found in each(data):
        alone = products.top_lyapunov_exponent(generators.cone(T=200, K=3, V=3, cos=0.0, beta=0.9, lam=point["lam"]))
        assert found.lyapunov_exponent.item() == pytest.approx(alone.lyapunov_exponent.item(), abs=1e-12)


def test_the_trained_heads_keep_their_own_gates_unless_the_sweep_sets_them():
    data = sweep.run(
        "memory", {"layer": [0, 2], "head": [1, 3], "N": [100], "lam": [0.0, 0.7]}, "trained", progress=False
    )
    for point, found in each(data):
        inputs = load_trained()[point["layer"]].heads(point["head"]).tokens(0, 100).with_lam(point["lam"])
        expected = trace(inputs, snapshots=0).state_norm[0, -1, 0]
        np.testing.assert_allclose(found.final_norm, expected, rtol=1e-5)


def test_a_gate_that_the_tokens_depend_on_goes_to_their_source():
    data = sweep.run("memory", {"lam": [0.5, 1.0], "d": [4], "N": [40]}, "two-token cycle", progress=False)
    grown = data.final_norm.squeeze().values
    assert grown[1] > 1e4 * grown[0] > 1e4  # 2^20 and 1.25^20, times what was written


# Any function


@pytest.mark.parametrize("batched", [False, True])
def test_every_number_lands_at_its_own_point(batched):
    """Seven axes in no order, gates among them: every point must be told what its labels say."""

    def make(seed, d, c, N):
        v = torch.full((1, N, 1, d), float(seed))
        k = torch.full((1, N, 1, d), c)
        return QDeltaInputs(k, k, v, None, torch.ones(1, N, 1), None)

    def measure(x):
        first = {"lam": x.lam, "beta": x.beta, "g": x.g, "seed": x.v[..., 0], "c": x.k[..., 0].expand(x.beta.shape)}
        found = {f"{name}_": y[:, 0].double() for name, y in first.items()}
        found |= {f"{name}_": torch.full((x.B, x.H), float(size)) for name, size in {"d": x.V, "N": x.T}.items()}
        return found if batched else {name: y.item() for name, y in found.items()}

    grid = {
        "seed": [3, 1],
        "beta": [0.0, 1.0, 0.25],
        "d": [2, 5],
        "lam": [0.5, 2.0],
        "c": [0.25, -0.5, 1.0],
        "alpha": [1.0, 0.5],
        "N": [4, 3],
    }
    data = sweep.run(measure, grid, make, batched=batched, progress=False)
    for name in ("lam", "beta", "seed", "d", "N", "c"):
        np.testing.assert_array_equal(*xr.broadcast(data[f"{name}_"], data[name]))
    np.testing.assert_allclose(*xr.broadcast(np.exp(data.g_), data.alpha), rtol=1e-6)


@pytest.mark.parametrize(
    ("measure", "name"),
    [
        (lambda x: 2, "value"),
        (lambda x: np.float32(2), "value"),
        (lambda x: torch.tensor([[2.0]]), "value"),
        (lambda x: xr.DataArray(2.0), "value"),
        (lambda x: {"two": True + 1}, "two"),
        (lambda x: trace(x, snapshots=0).state_norm.max() * 0 + 2, "value"),
    ],
)
def test_any_function_that_returns_numbers(measure, name):
    data = sweep.run(measure, {"N": [4, 5]}, progress=False)
    assert data[name].values.tolist() == [2.0, 2.0]
    assert data[name].dtype == np.float64


def test_tokens_are_made_once_for_all_gates_and_stacked_where_they_are_alike(monkeypatch):
    for module in (computing, running):  # tasks of 1, 8, 64 ... points, however slow this machine is
        monkeypatch.setattr(module, "TASK_SECONDS", 1000)
    made, seen = [], []

    def make(seed, N):
        made.append((seed, N))
        return generators.isotropic(T=N, K=4, V=4, seed=seed)

    def measure(x):
        seen.append((x.B, x.H))
        return x.lam[:, 0]

    grid = {"N": [8, 9], "lam": np.linspace(0, 1, 7), "seed": range(30)}
    sweep.run(measure, grid, make, batched=True, n_jobs=1, progress=False)
    assert len(made) <= 60 + 16  # of a group that is found not to stack some are made again
    assert sum(B * H for B, H in seen) == 2 * 7 * 30
    assert max(B for B, H in seen) > 1
    assert len(seen) < 30


def test_a_call_is_never_given_more_than_fits(monkeypatch):
    monkeypatch.setattr(computing, "_FLOATS", 100)
    seen = []
    measure = lambda x: seen.append(x.v.numel()) or x.lam[:, 0]
    data = sweep.run(measure, {"lam": np.linspace(0, 1, 50), "N": [5, 6], "d": [4]}, batched=True, progress=False)
    assert max(seen) <= 120
    np.testing.assert_allclose(*xr.broadcast(data["value"], data.lam), rtol=1e-6)


# Failing points


def test_a_failing_point_keeps_its_error_and_the_rest_goes_on():
    def make(seed):
        if seed == 2:
            raise RuntimeError("no tokens today")
        return generators.isotropic(T=5, K=3, V=3, seed=seed)

    def measure(x):
        if (x.beta == 0.5).any():
            raise ZeroDivisionError("half")
        return {"feedback": x.lam[:, 0], "size": torch.full((x.B, x.H), 5.0)}

    data = sweep.run(
        measure, {"lam": [0.0, 1.0, 3.0], "beta": [0.25, 0.5], "seed": range(4)}, make, batched=True, progress=False
    )
    for point, found in each(data):
        error = found.error.item()
        if point["seed"] == 2:
            assert error == "RuntimeError: no tokens today"
        elif point["lam"] == 3.0:
            assert error == "ValueError: lam has values in [3, 3]; expected values in [0, 2]."
        elif point["beta"] == 0.5:
            assert error == "ZeroDivisionError: half"
        else:
            assert (found.status.item(), error, found.feedback.item()) == (1, "", point["lam"])
            continue
        assert found.status.item() == 2
        assert np.isnan(found["size"])


@pytest.mark.parametrize(
    ("measure", "batched", "message"),
    [
        (lambda x: x.lam, False, "returned value of float32 and shape [1, 3, 1]; expected one number."),
        (lambda x: x.lam.sum(), True, "shape []; expected [B, H] = [1, 1], one number for each memory."),
        (lambda x: {"name": "much"}, False, "returned name of <U4 and shape []; expected one number."),
        (lambda x: None, False, "returned value of object and shape []; expected one number."),
        (lambda x: {1: 2.0}, False, "returned something named 1; expected names like final_norm, and none of N, lam"),
        (lambda x: {"lam": 2.0}, False, "something named 'lam'; expected names like"),
        (lambda x: {"error": 2.0}, False, "something named 'error'; expected names like"),
        (lambda x: {"a/b": 2.0}, False, "something named 'a/b'; expected names like"),
    ],
)
def test_what_is_no_number_is_said_of_every_point(measure, batched, message):
    data = sweep.run(measure, {"N": [3], "lam": [0.0, 1.0]}, batched=batched, progress=False)
    assert all(message in error for error in data.error.values.ravel())
    assert (data.status == 2).all()


def test_a_source_must_return_one_memory():
    two = lambda seed: generators.isotropic(T=5, H=2, seed=seed)
    data = sweep.run("memory", {"seed": [0]}, two, progress=False)
    assert "expected the inputs of one memory, B = H = 1" in data.error.item()


def test_not_a_number_is_a_result():
    data = sweep.run(lambda x: float("nan"), {"N": [3]}, progress=False)
    assert (data.status == 1).all()


# Bad input

FINE = {"lam": [0.0], "N": [3]}
BAD = {
    "measure": (
        lambda: sweep.run("growht", FINE),
        "measure is 'growht'; expected a function, or one of error, memory, recall",
    ),
    "no function": (lambda: sweep.run(3, FINE), "measure is 3; expected a function"),
    "make": (lambda: sweep.run("memory", FINE, "spiral"), "make is 'spiral'; expected a function, or one of cone"),
    "empty": (lambda: sweep.run("memory", {}), "grid is empty; expected at least one axis"),
    "number": (lambda: sweep.run("memory", {"lam": 0.5}), "grid has lam = 0.5; expected a list of numbers."),
    "no values": (lambda: sweep.run("memory", {"lam": []}), r"grid has lam = \[\]; expected a list"),
    "objects": (lambda: sweep.run("memory", {"lam": [None]}), r"grid has lam = \[None\]; expected a list"),
    "twice": (lambda: sweep.run("memory", {"lam": [1.0, 1]}), r"grid has lam = \[1.0, 1.0\]; expected distinct values"),
    "words": (lambda: sweep.run("memory", {"lam": ["a"]}), r"grid has lam = \['a'\]; expected a list of numbers\."),
    "number of tokens": (
        lambda: sweep.run("memory", {"N": 3}),
        "grid has N = 3; expected a list of numbers or of words",
    ),
    "not finite": (lambda: sweep.run("memory", {"lam": [np.nan]}), r"grid has lam = \[nan\]; expected finite values"),
    "unknown axis": (
        lambda: sweep.run("memory", {"lam": [1.0], "heads": [2]}),
        r"the axes lam, heads; expected lam, beta, alpha and parameters of qdelta_analysis.sweep.sources.cone\(c, d",
    ),
    "lacking axis": (
        lambda: sweep.run("memory", {"lam": [1.0]}, lambda width: None),
        "missing a required argument: 'width'",
    ),
    "more than fits": (
        lambda: sweep.run("memory", {"lam": np.linspace(0, 1, 100_000), "beta": np.linspace(0, 1, 100_000)}),
        r"a grid of 10,000,000,000 points \(lam 100,000 x beta 100,000\) would take about 1,000 GB; expected at most",
    ),
    "an axis that does not fit": (
        lambda: sweep.run("memory", {"seed": range(10**12)}),
        r"a grid of 1,000,000,000,000 points \(seed 1,000,000,000,000\) would take about",
    ),
    "reserved": (lambda: sweep.run("memory", {"error": [1]}, lambda error: None), "grid has an axis error; expected"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case, as_users_call):
    call, message = BAD[case]
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert str(error.value).count(".\n") == 0


def test_a_place_that_holds_something_else(tmp_path, as_users_call):
    path = tmp_path / "it.zarr"
    run = lambda measure="memory", grid=FINE, make="cone", where=path: sweep.run(
        measure, grid, make, path=where, progress=False
    )
    run()
    before = sweep.load(path)
    for call, message in {
        (
            lambda: run("recall"),
            "it.zarr holds a sweep of measure qdelta_analysis.sweep.measures.memory; expected .*recall",
        ),
        (lambda: run(make="isotropic"), "holds a sweep of make .*cone; expected .*isotropic"),
        (
            lambda: run(grid={"N": [3], "lam": [0.0]}),
            r"holds a sweep over \['lam', 'N'\]; expected one over \['N', 'lam'\]",
        ),
        (lambda: run(grid={"lam": [0.5], "N": [3]}), r"holds lam = \[0.0\]; expected these first, and then any new"),
        (lambda: run(grid={"lam": [0.0], "N": [3, 3.5]}), "holds N as int64; expected new values of that kind"),
        (lambda: run(where=tmp_path / "no" / "it.zarr"), "it.zarr cannot be written; expected a place in a folder"),
    }:
        with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
            call()
        assert str(error.value).count(".\n") == 0
    xr.testing.assert_identical(sweep.load(path), before)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("no sweep")
    for name in ("folder", "file"):
        for call in (lambda name=name: sweep.load(tmp_path / name), lambda name=name: run(where=tmp_path / name)):
            with pytest.raises(ValueError, match=f"{name} is no zarr group; expected a sweep"):
                call()
    with pytest.raises(FileNotFoundError, match="nothing is not there; expected a sweep"):
        sweep.load(tmp_path / "nothing")
    xr.Dataset({"x": 1}).to_zarr(tmp_path / "other.zarr", zarr_format=3, consolidated=False)
    with pytest.raises(ValueError, match=r"expected a sweep, {'format': 'qdelta-sweep'"):
        sweep.load(tmp_path / "other.zarr")


def test_a_link_to_nothing_makes_what_it_leads_to(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "link").symlink_to("deep/it.zarr")
    (tmp_path / "far").symlink_to("nowhere/it.zarr")
    (tmp_path / "loop").symlink_to("loop")
    first = sweep.run("memory", FINE, path=tmp_path / "link", progress=False)
    assert (tmp_path / "link").is_symlink()
    for place in ("link", "deep/it.zarr"):
        xr.testing.assert_identical(sweep.load(tmp_path / place), first)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["it.zarr"]
    for name in ("far", "loop"):
        with pytest.raises(FileNotFoundError, match=f"{name} cannot be written; expected a place in a folder"):
            sweep.run("memory", FINE, path=tmp_path / name, progress=False)
        assert (tmp_path / name).is_symlink()


def test_two_do_not_write_at_once(tmp_path):
    path = tmp_path / "it.zarr"
    sweep.run("memory", FINE, path=path, progress=False)
    with (
        filelock.FileLock(path / "status" / ".lock"),
        pytest.raises(ValueError, match="being written by another process"),
    ):
        sweep.run("memory", FINE, path=path, progress=False)
    sweep.run("memory", FINE, path=path, progress=False)
