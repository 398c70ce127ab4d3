"""Along given tokens: Lyapunov exponents, windows, observed growth and the summary, against dense linear algebra."""

import itertools

import numpy as np
import pytest
import torch

from qdelta_analysis import QDeltaInputs, Transition, generators, load_trained, products
from qdelta_analysis.threads import one_thread


@pytest.fixture(autouse=True)
def on_one_thread():
    with one_thread():  # the oracles multiply thousands of small matrices
        yield


def dense(inputs: QDeltaInputs) -> torch.Tensor:
    return inputs.to(torch.float64).transition().matrix()  # [B, T, H, K, K]


# Lyapunov exponents


def oracle(inputs: QDeltaInputs, transient: int, exponents: int | None = None) -> np.ndarray:
    """QR of dense transitions at every token, from the same rows."""
    A, n = dense(inputs), exponents or inputs.K
    make = torch.Generator().manual_seed(0)
    Q = torch.linalg.qr(torch.randn(inputs.K, n, dtype=torch.float64, generator=make))[0]
    total, Q = 0, Q.expand(inputs.B, inputs.H, -1, -1)
    for t in range(inputs.T):
        Q, R = torch.linalg.qr(A[:, t].mT @ Q)
        total = total + R.diagonal(dim1=-2, dim2=-1).abs().log() * (t >= transient)
    return (total / (inputs.T - transient)).sort(-1, descending=True).values.numpy()


def batch() -> QDeltaInputs:
    make = torch.Generator().manual_seed(1)
    q, k = torch.nn.functional.normalize(torch.randn(2, 2, 300, 2, 12, dtype=torch.float64, generator=make), dim=-1)
    g, beta, lam = torch.rand(3, 2, 300, 4, dtype=torch.float64, generator=make)
    return QDeltaInputs(q, k, torch.zeros(2, 300, 4, 1, dtype=torch.float64), -g, beta, lam)


TOKENS = {
    "batch, grouped heads, every gate": batch,
    "isotropic": lambda: generators.isotropic(T=600, K=16, H=2),
    "strong writes": lambda: generators.isotropic(T=300, K=16, beta=0.95, lam=1.0),
    "doubled gates": lambda: generators.isotropic(T=300, K=16, beta=1.7, lam=1.5),
    "nearly singular": lambda: generators.isotropic(T=200, K=8, beta=0.9999, lam=0.0),
    "few directions": lambda: generators.repeated_keys(T=300, K=24, distinct=4),
    "against": lambda: generators.cone(T=300, K=8, cos=-0.9, lam=1.0),
    "plane": lambda: generators.isotropic(T=300, K=2, beta=0.9, lam=1.0),
    "one dimension": lambda: generators.isotropic(T=64, K=1, beta=0.3, lam=0.3),
    "one token": lambda: generators.isotropic(T=1, K=3),
    "trained": lambda: load_trained()[1].tokens(0, 400),
}


@pytest.mark.parametrize("case", TOKENS)
def test_spectrum_against_dense_qr_at_every_token(case):
    x = TOKENS[case]()
    found = products.lyapunov_spectrum(x)
    assert found.lyapunov_exponent.shape == (x.B, x.H, x.K)
    np.testing.assert_allclose(found.lyapunov_exponent, oracle(x, found.transient_tokens), atol=1e-6)
    np.testing.assert_allclose(found.lyapunov_exponent.sum("exponent"), found.log_determinant, atol=1e-6)
    if x.K > 2:
        top = products.lyapunov_spectrum(x, exponents=2, transient=0)
        np.testing.assert_allclose(top.lyapunov_exponent, oracle(x, top.transient_tokens, 2), atol=1e-6)


def test_exponents_that_are_known():
    x = generators.repeated_keys(T=100, K=5, distinct=1, beta=0.3, lam=0.0, alpha=0.9)
    exponents = products.lyapunov_spectrum(x).lyapunov_exponent.values[0, 0]
    np.testing.assert_allclose(exponents, np.log(0.9) + np.array([0, 0, 0, 0, np.log(0.7)]), atol=1e-7)
    cycle = products.lyapunov_spectrum(generators.two_token_cycle(T=400, K=4, lam=0.5, alpha=0.8))
    exact = np.log([0.8 * np.sqrt(1.25), 0.8, 0.8, 1e-300])
    np.testing.assert_allclose(cycle.lyapunov_exponent.values[0, 0, :3], exact[:3], atol=1e-12)
    assert cycle.lyapunov_exponent.values[0, 0, 3] == -np.inf


def scaled(x: QDeltaInputs, size: float, tokens=slice(None)) -> QDeltaInputs:
    """Return x in float64 with the keys of some tokens so much longer."""
    k = x.k.double()
    k[0, tokens] *= size
    return QDeltaInputs(x.q.double(), k, x.v.double(), x.g.double(), x.beta.double(), x.lam.double())


@pytest.mark.parametrize("size", [1e4, 1e8, 1e20, 1e100])
def test_one_token_that_expands_wipes_nothing_out(size):
    found = products.lyapunov_spectrum(scaled(generators.isotropic(T=64, K=3, V=2, seed=1), size, 20), transient=0)
    # Of the singular values of the product, by mpmath at size = 1e8; the largest is proportional to size^2.
    exact = [0.40764 + 2 * np.log(size / 1e8) / 64, -0.15634, -0.44290]
    np.testing.assert_allclose(found.lyapunov_exponent[0, 0], exact, atol=6e-4)
    np.testing.assert_allclose(found.lyapunov_exponent.sum("exponent"), found.log_determinant, rtol=1e-9)


@pytest.mark.parametrize("size", [1e8, 1e80])
def test_exponents_of_long_keys_add_up_to_the_determinant(size):
    found = products.lyapunov_spectrum(scaled(generators.isotropic(T=64, K=4, V=2, seed=1), size), transient=0)
    assert np.isfinite(found.lyapunov_exponent).all()
    np.testing.assert_allclose(found.lyapunov_exponent.sum("exponent"), found.log_determinant, rtol=1e-12)


def test_a_wiped_direction_beside_one_that_expands():
    k = torch.eye(4, dtype=torch.float64)[0].repeat(1, 20, 1, 1)
    k[0, 10] = 1e9 * torch.tensor([3, 4, 0, 0]) / 5
    one = torch.ones(1, 20, 1, dtype=torch.float64)
    x = QDeltaInputs(k, k, one[..., None], 0 * one, one, 0 * one)
    found = products.lyapunov_spectrum(x, transient=0, blocks=1)
    exponents = found.lyapunov_exponent.values[0, 0]
    np.testing.assert_allclose(exponents[:3], [2 * np.log(1e9) / 20, 0, 0], atol=0.2)
    assert exponents[3] == -np.inf


def test_decay_moves_every_exponent_by_its_logarithm():
    x = generators.isotropic(T=200, K=6)
    with_decay = products.lyapunov_spectrum(x.with_alpha(0.5)).lyapunov_exponent
    plain = products.lyapunov_spectrum(x).lyapunov_exponent
    np.testing.assert_allclose(with_decay, plain + np.log(0.5), atol=1e-7)


def test_the_top_exponent_is_the_first_of_the_spectrum():
    x = generators.isotropic(T=4000, K=4, beta=0.9, lam=1.0)
    top, spectrum = products.top_lyapunov_exponent(x), products.lyapunov_spectrum(x)
    assert top.lyapunov_exponent.dims == ("batch", "head")
    assert abs(top.lyapunov_exponent - spectrum.lyapunov_exponent[..., 0]).max() < 2e-3


def test_the_error_bar_is_the_spread_between_seeds():
    runs = [products.top_lyapunov_exponent(generators.isotropic(T=512, K=4, beta=0.9, seed=s)) for s in range(40)]
    spread = np.std([float(run.lyapunov_exponent[0, 0]) for run in runs], ddof=1)
    claimed = np.mean([float(run.standard_error[0, 0]) for run in runs])
    assert 0.6 < claimed / spread < 1.6


def test_transient_and_blocks_are_stated():
    found = products.lyapunov_spectrum(generators.isotropic(T=100, K=3), transient=7, blocks=10)
    assert (found.transient_tokens, found.blocks, found.block_tokens) == (10, 10, 9)
    alone = products.top_lyapunov_exponent(generators.isotropic(T=1, K=3))
    assert np.isnan(alone.standard_error).all()
    assert found.lyapunov_exponent.units == "nats per token"


# Windows


def worst_window(inputs: QDeltaInputs, window: int) -> np.ndarray:
    A = dense(inputs)
    worst = torch.zeros(inputs.B, inputs.H, dtype=torch.float64)
    for s in range(inputs.T):
        P = torch.eye(inputs.K, dtype=torch.float64).expand(inputs.B, inputs.H, -1, -1)
        for t in range(s, min(s + window, inputs.T)):
            P = P @ A[:, t]
            worst = torch.maximum(worst, torch.linalg.matrix_norm(P, ord=2))
    return worst.numpy()


WINDOWS = {
    "batch, grouped heads, every gate": (lambda: batch().tokens(0, 40), 12),
    "isotropic": (lambda: generators.isotropic(T=70, K=12, H=2), 30),
    "little decay": (lambda: generators.isotropic(T=70, K=8, alpha=0.995), 30),
    "strong writes, in the plane": (lambda: generators.isotropic(T=50, K=2, beta=0.8, lam=1.0), 20),
    "doubled gates": (lambda: generators.isotropic(T=40, K=6, beta=1.5, lam=1.5), 100),
    "two-token cycle": (lambda: generators.two_token_cycle(T=40, K=4), 20),
    "trained, decay off": (lambda: load_trained()[0].heads(1).tokens(0, 40).with_alpha(1.0), 20),
    "one dimension": (lambda: generators.isotropic(T=20, K=1, beta=0.3, lam=0.3), 5),
    "one token": (lambda: generators.isotropic(T=1, K=3), 5),
    "a wiped memory": (lambda: generators.isotropic(T=4, K=3).with_alpha(1e-38), 3),
}


@pytest.mark.parametrize("case", WINDOWS)
def test_transient_growth_against_every_window(case):
    make, window = WINDOWS[case]
    x = make()
    found = products.transient_growth(x, window)
    np.testing.assert_allclose(found.growth, worst_window(x, window), rtol=1e-11)
    for b, h in itertools.product(range(x.B), range(x.H)):
        start, stop = int(found.start[b, h]), int(found.stop[b, h])
        assert 0 < stop - start <= window
        P = np.linalg.multi_dot([*dense(x)[b, start:stop, h].numpy(), np.eye(x.K)])
        assert np.linalg.norm(P, ord=2) == pytest.approx(float(found.growth[b, h]), rel=1e-11)


def test_windows_of_one_token_are_the_operator_norms():
    x = batch()
    found = products.transient_growth(x, 1)
    np.testing.assert_allclose(found.growth, x.transition().operator_norm().amax(1), rtol=1e-13)


def test_observed_growth_against_the_recurrence():
    x = generators.isotropic(T=100, K=5, V=3).to(torch.float64)
    t, S, norms = x.transition(), np.zeros((3, 5)), [0.0]
    for i in range(100):
        S = S @ t.matrix()[0, i, 0].numpy() + np.outer(x.v[0, i, 0], x.k[0, i, 0]) * float(x.beta[0, i, 0])
        norms.append(np.linalg.norm(S))
    found = products.observed_growth(x, transient=20, blocks=8)
    assert found.rate.item() == pytest.approx(np.log(norms[100] / norms[20]) / 80, rel=1e-9)
    assert found.largest.item() == pytest.approx(max(norms))
    assert found.final.item() == pytest.approx(norms[-1])


def test_one_long_key_makes_the_worst_window():
    y = generators.isotropic(T=64, K=4, V=4, seed=1)
    found = products.transient_growth(scaled(y, 1e100, 5)).squeeze()
    exact = float(scaled(y, 1e100, 5).transition().operator_norm().max())
    assert found.growth >= exact * (1 - 1e-12)
    assert found.start <= 5 < found.stop
    assert products.transient_growth(scaled(y, 1e80)).growth == np.inf
    long = scaled(y, 1e80)
    faded = products.transient_growth(QDeltaInputs(long.q, long.k, long.v, long.g - 360, long.beta, long.lam), 9)
    assert np.isfinite(faded.growth).all()


def test_a_memory_that_every_token_wipes_grows_by_nothing():
    y = generators.isotropic(T=6, K=3)
    wiped = QDeltaInputs(y.q, y.k, y.v, torch.full_like(y.g, -torch.inf), y.beta, y.lam)
    assert products.transient_growth(wiped).growth == 0


def test_a_memory_that_begins_at_zero_has_no_rate():
    assert np.isnan(products.observed_growth(generators.isotropic(T=4, K=4)).rate)
    assert np.isnan(products.observed_growth(generators.isotropic(T=64, K=4), transient=0, blocks=1).rate)
    assert np.isnan(products.growth_summary(generators.isotropic(T=4, K=4)).observed)
    beyond = products.observed_growth(scaled(generators.isotropic(T=64, K=4), 1e100)).squeeze()
    assert (beyond.rate, beyond.largest, beyond.final) == (np.inf,) * 3


# The summary


def test_what_every_generator_can_do_does_and_did():
    for name, make in generators.GENERATORS.items():
        found = products.growth_summary(make(T=256)).squeeze()
        assert found.worst_case >= found.worst_case_gates - 1e-12
        assert found.worst_case_gates >= found.typical - 4 * found.typical_error - 1e-3
        if name == "two-token cycle":  # it is the worst case, and the memory follows it
            np.testing.assert_allclose([found.typical, found.observed], found.worst_case, atol=1e-3)
            assert found.threshold == pytest.approx(2**-0.5)
        else:  # the typical memory fades although the worst one grows
            assert found.worst_case > 0.1 > 0 > found.typical
            assert abs(found.observed) < 0.01


def test_what_the_trained_heads_can_do_do_and_did():
    for x in load_trained():
        found = products.growth_summary(x)
        assert found.unit.all()
        assert (found.typical < 0).all()
        # The largest alpha is no protection against arbitrary tokens and gates; the gates each head really has are.
        assert (found.alpha_max > found.threshold).all()
        assert (found.alpha_mean < found.threshold_gates).all()
        assert (abs(found.observed) < 4 * found.observed_error).all()
        exact = (x.alpha.amax(1) * (1 + x.lam.amax(1) ** 2).sqrt()).log().numpy()
        np.testing.assert_allclose(found.worst_case, exact, rtol=1e-5)


def test_the_worst_unit_vectors_for_given_gates_reach_their_bound():
    make, T = np.random.default_rng(0), 60
    beta, lam, alpha = make.uniform(0, 1.8, T), make.uniform(0, 1.8, T), make.uniform(0.8, 1, T)
    q, k, memory = [], [], 0.0
    for b, m in zip(beta, lam, strict=True):
        ahead = min(1.0, m * (b - 1) / (2 - b))
        plane = np.array([[1.0, 0.0], [ahead, np.sqrt(1 - ahead**2)]])
        U, _, Vt = np.linalg.svd(Transition(plane[:1], plane[1:], b, m).matrix()[0])
        angle = lambda v: np.arctan2(v[1], v[0])
        turn = memory - angle(U[:, 0])  # the row that grows most is the one the token before has left
        turned = plane @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        k.append(turned[0])
        q.append(turned[1])
        memory = angle(Vt[0]) + turn
    shape = lambda x: np.array(x)[None, :, None]
    v = np.zeros((1, T, 1, 1))
    x = QDeltaInputs(shape(q), shape(k), v, shape(np.log(alpha)), shape(beta), shape(lam))
    reached = np.linalg.norm(np.linalg.multi_dot(list(dense(x)[0, :, 0].numpy())), ord=2)
    assert np.log(reached) / T == pytest.approx(products.growth_summary(x).worst_case_gates.item(), abs=1e-9)


def test_the_summary_as_a_table():
    x = load_trained()[0]
    lines = products.growth_table(products.growth_summary(x)).splitlines()
    assert len(lines) == 4 + x.H
    assert lines[3].split()[:3] == ["head", "worst", "case"]
    found = products.growth_summary(x).isel(batch=0, head=2)
    assert lines[6].split()[:5] == [
        "2",
        f"{float(found.worst_case):+.4f}",
        f"{float(found.worst_case_gates):+.4f}",
        f"{float(found.typical):+.4f}",
        "±",
    ]
    table = products.growth_table(products.growth_summary(batch()))
    assert "sequence  head" in table
    assert len(table.splitlines()) == 4 + 2 * 4
    line = products.growth_table(products.growth_summary(generators.isotropic(T=64, K=1))).splitlines()[-1]
    assert line.split()[1:3] == ["-", "-"]


def test_worst_cases_need_unit_vectors():
    x = generators.isotropic(T=20, K=4)
    longer = QDeltaInputs(2 * x.q, x.k, x.v, x.g, x.beta, x.lam)
    found = products.growth_summary(longer)
    assert not found.unit.any()
    assert np.isnan(found.worst_case).all()
    assert np.isnan(found.threshold_gates).all()
    assert np.isfinite(found.typical).all()
