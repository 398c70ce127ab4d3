"""What the query predicts against what the key retrieves: the recurrence step by step, and known angles."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from scipy.linalg import subspace_angles

from qdelta_analysis import QDeltaInputs, generators, influence, load_trained, readouts, trace
from qdelta_kernels import qdelta_rule_reference


def some(T: int = 63, H: int = 2, HV: int = 4, K: int = 8, V: int = 6) -> QDeltaInputs:
    g = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)
    unit = lambda x: torch.nn.functional.normalize(x, dim=-1)
    gate = lambda: torch.rand(2, T, HV, generator=g, dtype=torch.float64)
    q, k, v = unit(draw(2, T, H, K)), unit(draw(2, T, H, K)), draw(2, T, HV, V)
    return QDeltaInputs(q, k, v, -0.3 * gate(), gate(), gate(), draw(2, HV, K, V))


def states(x: QDeltaInputs) -> list[torch.Tensor]:
    """S_0, S_1, ... transposed, [B, HV, K, V], one call of the reference for each."""
    found = [x.initial_state]
    for t in range(x.T):
        one = (y[:, t : t + 1] for y in (x.q, x.k, x.v, x.g, x.beta, x.lam))
        found.append(qdelta_rule_reference(*one, initial_state=found[-1], output_final_state=True)[1])
    return found


def test_predictions_are_the_recurrence_s_reads_of_the_memory_before_the_write():
    x = some()
    found, S = readouts.predict(x), states(x)
    q, k = (y.repeat_interleave(2, dim=2) for y in (x.q, x.k))
    for t in range(x.T):
        before = x.alpha[:, t, :, None, None] * S[t].double()
        read = lambda y, h, t=t: torch.einsum("bhk,bhkv->bhv", y[:, t], h.double()).numpy()
        np.testing.assert_allclose(found.v_hat[:, t], read(k, before), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found.o_hat[:, t], read(q, before), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found.o[:, t], read(q, S[t + 1]), rtol=1e-5, atol=1e-6)


def test_the_write_takes_back_retrieval_and_prediction():
    x = some()
    found, S = readouts.predict(x), states(x)
    lam, beta = (y.numpy()[..., None] for y in (x.lam, x.beta))
    u = torch.as_tensor(beta * (x.v.numpy() - found.v_hat.values - lam * found.o_hat.values))
    k = x.k.repeat_interleave(2, dim=2)
    for t in (0, 5, 62):
        written = torch.einsum("bhk,bhv->bhkv", k[:, t], u[:, t])
        expected = x.alpha[:, t, :, None, None] * S[t].double() + written
        torch.testing.assert_close(S[t + 1].double(), expected, rtol=1e-5, atol=1e-6)


def test_they_agree_with_trace_and_with_influence():
    x = load_trained()[1].heads([0, 3]).tokens(0, 200)
    predicted, traced = readouts.predict(x), trace(x, 0)
    compared = readouts.compare(predicted)
    np.testing.assert_allclose(compared.mean_cosine, traced.cosine[:, 1:].mean(("batch", "time")), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(predicted.v_hat, axis=-1), traced.key_retrieval, rtol=1e-4, atol=1e-5)
    M = influence.exact(x)
    for name in influence.TARGETS:
        np.testing.assert_allclose(
            np.einsum("bhij,bjhv->bihv", M[name].values, x.v.numpy()), predicted[name], rtol=1e-3, atol=1e-4
        )


def test_angles_between_known_subspaces():
    e = np.eye(5)
    for angle in (0.0, 1e-6, 30.0, 60.0, 90.0):
        turned = np.cos(np.radians(angle)) * e[:, 1] + np.sin(np.radians(angle)) * e[:, 3]
        found = readouts.principal_angles(e[:, :2], np.stack([e[:, 0], turned], axis=1))
        np.testing.assert_allclose(found, [0.0, angle], rtol=1e-9, atol=1e-12)
    draws = np.random.default_rng(0).standard_normal((2, 30, 9, 4))
    one, other = np.linalg.qr(draws)[0]
    expected = [np.degrees(np.sort(subspace_angles(a, b))) for a, b in zip(one, other, strict=True)]
    np.testing.assert_allclose(readouts.principal_angles(one, other), expected, rtol=1e-7)


def test_chance_is_that_of_uniform_directions():
    angle = np.radians(readouts._random_angles(2, 1))  # of two lines in a plane: uniform from 0 to 90 degrees
    assert np.quantile(angle, [0.25, 0.5, 0.75]) == pytest.approx(np.pi / 2 * np.array([0.25, 0.5, 0.75]), abs=0.1)
    whole = readouts.compare(readouts.predict(some()), rank=6)
    assert float(whole.chance.max()) == pytest.approx(0, abs=1e-6)  # there is one subspace of all dimensions
    assert float(whole.angle.max()) == pytest.approx(0, abs=1e-6)
    assert whole.energy_v_hat.values == pytest.approx(np.ones(4))


def test_a_query_that_is_the_key_predicts_what_it_retrieves():
    x = some()
    same = QDeltaInputs(x.k, x.k, x.v, x.g, x.beta, x.lam)
    found = readouts.compare(readouts.predict(same), rank=3)
    assert found.mean_cosine.values == pytest.approx(np.ones(4))
    assert found.ratio.values == pytest.approx(np.ones(4))
    assert found.angle.values == pytest.approx(np.zeros((4, 3)), abs=1e-5)
    assert (abs(found.density.isel(bin=-1) - 20) < 1e-9).all()  # all in the last of 40 bins of width 1/20
    assert abs(found.density.sum("bin") * 0.05 - 1).max() < 1e-12


def test_shares_of_the_query():
    x = some()
    none = readouts.shares(x.with_lam(0.0))
    assert not none.erased.any()
    assert not none.changed.any()
    found, double = readouts.shares(x.with_lam(0.2)), readouts.shares(x.with_lam(0.4))
    assert (found.erased < double.erased).all()
    assert (found.changed < double.changed).all()
    same = QDeltaInputs(x.k, x.k, x.v, x.g, x.beta, torch.ones_like(x.lam))
    assert readouts.shares(same).erased.values == pytest.approx(np.full(4, 0.5))  # o_hat = v_hat, and lam = 1
    with_state, without = readouts.predict(x), readouts.predict(x.with_lam(0.0))
    error = (with_state.o - without.o).values[:, :, 1]
    expected = np.linalg.norm(error) / np.linalg.norm(with_state.o.values[:, :, 1])
    assert readouts.shares(x).changed.values[1] == pytest.approx(expected)


@pytest.mark.usefixtures("as_users_call")
def test_bad_sizes_are_refused_and_a_memory_without_content_has_no_direction():
    predicted = readouts.predict(some())
    with pytest.raises(ValueError, match="rank is 7; expected a whole number from 1 to 6"):
        readouts.compare(predicted, rank=7)
    with pytest.raises(ValueError, match="bins is 0; expected a whole number of at least 1"):
        readouts.compare(predicted, bins=0)
    silent = readouts.compare(readouts.predict(generators.isotropic(T=20, K=4, V=4, beta=0.0)), rank=2)
    assert silent.mean_cosine.isnull().all()
    assert silent.energy_o_hat.isnull().all()


def known(v_hat: np.ndarray, o_hat: np.ndarray) -> xr.Dataset:
    dims = ("batch", "time", "head", "value")
    found = {"v_hat": (dims, v_hat[None, :, None]), "o_hat": (dims, o_hat[None, :, None])}
    return xr.Dataset(found, {"head": [0]})


def scaled_values(x: QDeltaInputs, size: float) -> QDeltaInputs:
    state = None if x.initial_state is None else size * x.initial_state
    return QDeltaInputs(x.q, x.k, size * x.v, x.g, x.beta, x.lam, state)


@pytest.mark.parametrize("size", [1e-300, 1e-170, 1e170, 1e300])
def test_neither_shares_nor_directions_depend_on_the_size_of_the_values(size):
    x = some()
    for one, scaled in (
        (readouts.shares(x), readouts.shares(scaled_values(x, size))),
        (
            readouts.compare(readouts.predict(x), rank=2),
            readouts.compare(readouts.predict(scaled_values(x, size)), rank=2),
        ),
    ):
        for name in one:
            np.testing.assert_allclose(scaled[name], one[name], rtol=1e-6, err_msg=name)


def test_a_memory_that_leaves_float32_is_followed_in_float64():
    x = generators.isotropic(T=400, K=4, V=4, beta=1.8, lam=1.8)
    found = readouts.shares(x)
    assert found.erased.values == pytest.approx([0.7522326])
    assert found.changed.values == pytest.approx([1.0])
    narrow, wide = readouts.predict(x), readouts.predict(x.to(torch.float64))
    assert narrow.o.dtype == np.float32
    for name in ("o", "v_hat", "o_hat"):
        with np.errstate(over="ignore"):
            np.testing.assert_array_equal(narrow[name], wide[name].astype(np.float32), err_msg=name)
    assert 200 < np.isfinite(narrow.o.values).all(-1).sum() < 400
    compared = readouts.compare(narrow, rank=2)
    for name in ("angle", "mean_cosine", "ratio", "energy_v_hat", "energy_o_hat", "density"):
        assert compared[name].isnull().all(), name


def test_beyond_float64_shares_are_not_known_and_the_tokens_before_are():
    x = generators.isotropic(T=1600, K=4, V=4, beta=1.8, lam=1.8).to(torch.float64)
    assert readouts.shares(x).isnull().all().to_array().all()
    finite = np.isfinite(readouts.predict(x).o.values).all(-1)[0, :, 0]
    stop = int(finite.argmin())
    assert stop % 64
    assert stop == finite.sum()


def test_predictions_that_span_too_little_have_no_angles():
    one = generators.isotropic(T=2, K=4, V=4)
    for tokens in (0, 1, 2):  # a memory of nothing, twice, and of one value
        found = readouts.compare(readouts.predict(one.tokens(0, tokens)), rank=2)
        assert found.angle.isnull().all()
    assert found.energy_v_hat.values == pytest.approx([1])
    assert readouts.compare(readouts.predict(one), rank=1).angle.values == pytest.approx(np.zeros((1, 1)), abs=1e-5)
    assert not readouts.shares(one.tokens(0, 0)).to_array().any()


def test_angles_of_directions_of_very_different_sizes():
    draw = np.random.default_rng(0).standard_normal
    weights = np.linalg.qr(draw((50, 2)))[0] * [1, 1e-8]
    e = np.linalg.qr(draw((6, 6)))[0]
    turned = np.stack([e[0], np.cos(0.3) * e[1] + np.sin(0.3) * e[2]])
    found = readouts.compare(known(weights @ e[:2], weights @ turned), rank=2)
    np.testing.assert_allclose(found.angle, [[0, np.degrees(0.3)]], atol=1e-5)
