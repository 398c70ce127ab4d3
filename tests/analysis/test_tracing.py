"""A trace against the token loop, and against dense linear algebra."""

import re

import numpy as np
import pytest
import torch
import xarray as xr

from qdelta_analysis import QDeltaInputs, effective_rank, generators, trace
from qdelta_analysis.tracing import MEANINGS
from qdelta_kernels import chunk_qdelta_diagnostics
from tests.helpers import tokens


def token_loop(inputs: QDeltaInputs) -> dict[str, np.ndarray]:
    """The same diagnostics, with every S_t formed, in float64 NumPy."""
    groups = inputs.H // inputs.q.shape[2]
    q, k = (x.double().repeat_interleave(groups, dim=2).numpy() for x in (inputs.q, inputs.k))
    v, g, beta, lam = (x.double().numpy() for x in (inputs.v, inputs.g, inputs.beta, inputs.lam))
    S = np.zeros((inputs.B, inputs.H, inputs.V, inputs.K))
    if inputs.initial_state is not None:
        S = inputs.initial_state.double().transpose(-1, -2).numpy()
    found = {name: [] for name in (*MEANINGS, "state")}
    apply = lambda S, x: np.einsum("bhvk,bhk->bhv", S, x)
    size = lambda x: np.linalg.norm(x, axis=-1)
    for t in range(inputs.T):
        x = k[:, t] + lam[:, t, :, None] * q[:, t]
        alpha, b = np.exp(g[:, t]), beta[:, t, :, None]
        A = alpha[..., None, None] * (np.eye(inputs.K) - b[..., None] * x[..., :, None] * k[:, t, :, None, :])
        S_old, S = alpha[..., None, None] * S, S @ A + b[..., None] * v[:, t, :, :, None] * k[:, t, :, None, :]
        v_hat, o_hat = apply(S_old, k[:, t]), apply(S_old, q[:, t])
        values = {
            "alignment": (k[:, t] * x).sum(-1),
            "beta_alignment": beta[:, t] * (k[:, t] * x).sum(-1),
            "operator_norm": np.linalg.norm(A, 2, axis=(-2, -1)),
            "spectral_radius": np.abs(np.linalg.eigvals(A)).max(-1),
            "error_before": size(v[:, t] - apply(S_old, x)),
            "error_after": size(v[:, t] - apply(S, x)),
            "key_retrieval": size(v_hat),
            "query_prediction": size(o_hat),
            "cosine": (v_hat * o_hat).sum(-1) / np.where(size(v_hat) * size(o_hat) > 0, size(v_hat) * size(o_hat), 1),
            "state_norm": np.linalg.norm(S, axis=(-2, -1)),
            "state": S,
        }
        for name, value in values.items():
            found[name].append(value)
    return {name: np.stack(values, axis=1) for name, values in found.items()}


@pytest.mark.parametrize(
    "options", [{"T": 1}, {"T": 100, "HV": 6, "B": 2}, {"T": 300, "K": 16, "V": 5}, {"T": 63, "K": 1, "V": 1}], ids=str
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_to_the_token_loop(options, dtype):
    x = tokens(**options).to(dtype)
    inputs = QDeltaInputs(*x[:6], initial_state=x.state)
    dataset, loop = trace(inputs, snapshots=range(0, inputs.T, 7)), token_loop(inputs)
    assert dataset.state_norm.dtype == str(dtype).removeprefix("torch.")
    # The loop's spectral radius comes from a dense solver, which is off by the root of rounding where A is defective.
    for name, exact in loop.items():
        exact = exact[:, dataset.snapshot] if name == "state" else exact
        scale = np.abs(exact).max()
        tolerance = 1e-5 if dtype == torch.float32 else (1e-7 if name == "spectral_radius" else 1e-12)
        np.testing.assert_allclose(dataset[name], exact, atol=tolerance * scale, rtol=0, err_msg=name)


def test_the_norm_is_anchored_afresh_over_a_long_stretch():
    x = tokens(T=5000, H=1, K=8, V=8, dtype=torch.float32)
    inputs = QDeltaInputs(*x[:6])
    dataset, loop = trace(inputs, snapshots=0), token_loop(inputs)
    np.testing.assert_allclose(dataset.state_norm, loop["state_norm"], rtol=1e-5)


def test_singular_values_and_effective_rank():
    dataset = trace(generators.isotropic(T=50, K=7, V=5), snapshots=5)
    exact = np.linalg.svd(dataset.state.values, compute_uv=False)
    np.testing.assert_allclose(dataset.singular_values, exact, atol=1e-6)
    p = exact / exact.sum(-1, keepdims=True)
    np.testing.assert_allclose(dataset.effective_rank, np.exp(-(p * np.log(p)).sum(-1)), rtol=1e-4)
    assert float(effective_rank(torch.zeros(4))) == 0
    assert float(effective_rank(torch.tensor([2.0, 2.0, 0.0]))) == pytest.approx(2)


@pytest.mark.parametrize(
    ("snapshots", "expected"),
    [
        (1, [9]),
        (5, [1, 3, 5, 7, 9]),
        (64, list(range(10))),
        (0, []),
        ([4, 2, 4], [2, 4]),
        (range(3), [0, 1, 2]),
        (torch.tensor(1), [9]),
        (np.array(1), [9]),
        (torch.tensor([4, 2]), [2, 4]),
        ([np.array(3), torch.tensor(2)], [2, 3]),
    ],
)
def test_snapshots_asked_for(snapshots, expected):
    dataset = trace(generators.isotropic(T=10, K=4, V=3), snapshots=snapshots)
    assert dataset.snapshot.values.tolist() == expected
    assert dataset.state.dims == ("batch", "snapshot", "head", "value", "key")
    assert dataset.sizes["value"] == 3


def test_the_update_rebuilds_the_memory():
    """S_t = alpha_t S_{t-1} + u_t k_t^T: what a viewer needs to show the state at any token."""
    x = tokens(T=30, H=1)
    found = chunk_qdelta_diagnostics(*x[:6], initial_state=x.state, at=[29], keep_updates=True)
    h = x.state
    for t in range(30):
        h = x.g[:, t].exp()[..., None, None] * h + x.k[:, t, :, :, None] * found.updates[:, t, :, None, :]
    assert torch.allclose(h, found.states[:, 0], atol=1e-12)


def test_a_dataset_says_where_it_came_from_and_survives_a_file(tmp_path):
    dataset = trace(generators.cone(T=20, cos=0.25, seed=3), snapshots=2)
    assert dataset.attrs["source"] == "cone"
    assert "cos=0.25" in dataset.attrs["settings"]
    assert "seed=3" in dataset.attrs["settings"]
    assert all(dataset[name].attrs["long_name"] == meaning for name, meaning in MEANINGS.items())
    dataset.to_netcdf(tmp_path / "trace.nc", engine="h5netcdf")
    xr.testing.assert_identical(xr.load_dataset(tmp_path / "trace.nc", engine="h5netcdf"), dataset)


def test_bad_input(as_users_call):
    inputs = generators.isotropic(T=10)
    with pytest.raises(ValueError, match=r"snapshots is \[10\]; expected tokens from 0 to T - 1 = 9"):
        trace(inputs, snapshots=[10])
    for wrong in ([-1], [1.5], [True], ["1"], 2.0, True, None):
        with pytest.raises((ValueError, TypeError), match=r"^snapshots is .*; expected"):
            trace(inputs, snapshots=wrong)
    with pytest.raises(ValueError, match="snapshots is -1"):
        trace(inputs, snapshots=-1)
    with pytest.raises(ValueError, match="backend is 'reference'; expected 'auto', 'torch' or 'triton'"):
        trace(inputs, backend="reference")
    with pytest.raises(ValueError, match=r"at is \[3, 2\]; expected ascending token indices"):
        chunk_qdelta_diagnostics(**inputs.arguments(), at=[3, 2])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_tokens_in_half_precision_are_traced_in_float32(dtype):
    """Their norms too: in bfloat16 a norm of 1.003 would be 1."""
    x = generators.random_gates(100, 8, 6, 2, lam=0.3, dtype=dtype)
    dataset, exact = trace(x, snapshots=3), trace(x.to(torch.float32), snapshots=3)
    for name in MEANINGS:
        assert dataset[name].dtype == np.float32
        np.testing.assert_allclose(dataset[name], exact[name], rtol=1e-6, atol=1e-6, err_msg=name)
    assert dataset.precision == exact.precision == "float32"


def test_a_dataset_says_in_which_precision_it_was_computed():
    x = generators.isotropic(T=5, K=4, V=3)
    assert trace(x).precision == "float32"
    assert trace(x.to(torch.float64)).precision == "float64"
    assert trace(x.to(torch.float32), backend="triton").precision == "float32"
    assert trace(x.to(torch.bfloat16), backend="triton").precision == "float32 sums of bfloat16 products"
    large = QDeltaInputs(x.q, 1e30 * x.k, 1e30 * x.v, x.g, x.beta, x.lam)
    assert trace(large).precision.startswith("float64, as the memory leaves the range of float32")
    assert trace(large.to(torch.float64)).precision == "float64"


def test_as_many_snapshots_as_tokens_are_all_of_them():
    inputs = generators.isotropic(T=10, K=4, V=3)
    for many in (10, np.int64(11), 10**11):
        assert trace(inputs, snapshots=many).snapshot.values.tolist() == list(range(10))
    long = generators.isotropic(T=5000, K=1000, V=1000, H=2)
    with pytest.raises(ValueError, match="5000 snapshots of 1 x 2 memories would take about 120 GB; expected at most"):
        trace(long, snapshots=10**11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [20, 1e3, 1e20])
def test_a_memory_that_leaves_its_range_is_followed_as_far_as_it_goes(dtype, size):
    """Against the sequential loop in float64: finite where it is, inf or NaN beyond, and it says from where on."""
    x = tokens(T=150, H=1, HV=2, K=4, V=3, seed=5)
    ones = torch.ones_like(x.beta)
    long = [size * x.q, size * x.k, x.v, 0 * ones, ones, ones * torch.tensor([1.0, 0.0]).double()]
    inputs = QDeltaInputs(*(y.to(dtype) for y in long))
    found = trace(inputs, snapshots=range(150))
    with np.errstate(over="ignore", invalid="ignore"):
        loop = token_loop(inputs.to(torch.float64))
    most = {torch.float32: 3e38, torch.float64: 1e140}[dtype]
    norm = loop["state_norm"]
    within = np.isfinite(norm) & (np.abs(norm) < most)
    within &= np.logical_and.accumulate(within, axis=1)
    assert 2 <= within.sum() < within.size
    for name in ("state_norm", "error_before", "key_retrieval", "query_prediction"):
        scale = np.maximum.accumulate(norm, axis=1)[within] * size
        assert np.max(np.abs(found[name].values[within] - loop[name][within]) / scale) <= 1e-5, name
    finite = np.isfinite(found.state.values).all((-1, -2))
    assert not finite.all()
    assert not np.isfinite(found.state_norm.values[~finite]).any()
    assert (np.isfinite(found.singular_values.values).all(-1) == finite).all()
    assert (np.isfinite(found.effective_rank.values) == finite).all()
    assert re.match(
        rf"from token \d+ on \(sequence 0, head 0\) the memory leaves the range of {str(dtype)[6:]};", found.overflow
    )


def test_a_memory_whose_square_alone_leaves_the_range_is_whole():
    x = generators.isotropic(T=200, K=4, V=3)
    large = QDeltaInputs(x.q, x.k, x.v * 1e25, x.g, x.beta, x.lam)
    found, expected = trace(large), trace(x)
    assert "overflow" not in found.attrs
    np.testing.assert_allclose(found.state_norm, expected.state_norm * 1e25, rtol=1e-4)
    np.testing.assert_allclose(found.cosine, expected.cosine, atol=1e-4)
