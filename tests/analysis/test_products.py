"""Products of transitions against brute force, dense linear algebra, the literature, and sampling."""

import itertools

import numpy as np
import pytest
import torch

from qdelta_analysis import QDeltaInputs, Transition, generators, products
from qdelta_analysis.products import box, finite

LAMS = (0.25, 0.5, 1.0)
BOXES = [(0.0, 1.0, 1.0), (0.03, 1.0, 1.0), (0.7, 0.8, 0.4), (0.3, 1.0, 1.5), (1.0, 0.9, 1.5), (2.0, 1.0, 2.0)]


def growth_per_token(t: Transition) -> float:
    product = np.linalg.multi_dot([*t.matrix(), np.eye(t.d)])
    return float(np.abs(np.linalg.eigvals(product)).max() ** (1 / len(t.k)))


# Joint spectral radius of a box of gates


@pytest.mark.parametrize("lam", LAMS)
def test_the_search_finds_the_worst_cycle_without_the_formula(lam, monkeypatch):
    monkeypatch.setattr(box, "worst_growth", lambda *_: np.nan)
    found = products.joint_spectral_radius(lam)
    exact = np.sqrt(1 + lam * lam)
    assert abs(found.lower / exact - 1) < 1e-6
    assert exact <= found.upper < exact * (1 + 2e-6)
    assert found.products > 1000
    assert growth_per_token(found.witness) == pytest.approx(found.lower, rel=1e-12)


@pytest.mark.parametrize(("lam", "alpha", "beta"), BOXES)
def test_every_box_is_bounded_and_its_witness_lies_in_it(lam, alpha, beta):
    found = products.joint_spectral_radius(lam, alpha, beta)
    assert found.lower <= found.closed_form * (1 + 1e-12) <= found.upper * (1 + 1e-12)
    assert found.lower > 0.999 * found.closed_form
    t = found.witness
    assert growth_per_token(t) == pytest.approx(found.lower, rel=1e-12)
    for gate, high in ((t.beta, beta), (t.lam, lam)):
        assert gate.min() >= 0
        assert gate.max() <= high
    assert (t.alpha == alpha).all()
    np.testing.assert_allclose([np.linalg.norm(t.k, axis=-1), np.linalg.norm(t.q, axis=-1)], 1, rtol=1e-14)


def test_perfect_contraction_of_the_error_does_not_bound_the_memory():
    """The false claim is: beta a in (0, 2) at every token makes the joint spectral radius at most 1."""
    found = products.joint_spectral_radius(0.5)
    aligned = found.witness.beta * found.witness.alignment
    assert ((aligned > 0) & (aligned < 2)).all()
    assert found.lower > 1.1


@pytest.mark.parametrize("d", [2, 3, 6])
def test_no_product_of_tokens_exceeds_the_upper_bound(d):
    make = np.random.default_rng(d)
    found = products.joint_spectral_radius(1.0, beta_max=1.3)
    k, q = make.normal(size=(2, 4000, 4, d))
    k, q = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (k, q))
    A = Transition(k, q, make.uniform(0, 1.3, (4000, 4)), make.uniform(0, 1, (4000, 4))).matrix()
    product = A[:, 0] @ A[:, 1] @ A[:, 2] @ A[:, 3]
    assert np.linalg.norm(product, ord=2, axis=(-2, -1)).max() ** 0.25 < found.upper


@pytest.mark.parametrize("d", [2, 5])
def test_worst_growth_is_the_largest_norm_and_a_cycle_reaches_it(d):
    cos = np.linspace(-1, 1, 2001)
    q = np.zeros((2001, d))
    q[:, 0], q[:, 1] = cos, np.sqrt(1 - cos**2)
    k = np.zeros_like(q)
    k[:, 0] = 1
    for beta, lam in itertools.product(np.linspace(0, 2, 9), np.linspace(0, 2, 9)):
        t = Transition(k, q, beta, lam, 0.9)
        norms = np.linalg.norm(t.matrix(), ord=2, axis=(-2, -1))
        exact = products.worst_growth(beta, lam, 0.9)
        assert norms.max() == pytest.approx(exact, rel=1e-5)
        assert norms.max() <= exact * (1 + 1e-14)
        A = t.matrix()[norms.argmax()]
        U, s, Vt = np.linalg.svd(A)
        swap = np.eye(d)
        if not np.allclose(U[:, 0], Vt[0]):
            w = (U[:, 0] - Vt[0]) / np.linalg.norm(U[:, 0] - Vt[0])
            swap -= 2 * np.outer(w, w)
        assert np.abs(np.linalg.eigvals(swap @ A @ swap @ A)).max() == pytest.approx(s[0] ** 2, rel=1e-10)


def test_shorter_vectors_grow_no_more():
    make = np.random.default_rng(0)
    k, q = make.normal(size=(2, 20_000, 3))
    k, q = (x / np.linalg.norm(x, axis=-1, keepdims=True) * make.uniform(0, 1, (20_000, 1)) ** 0.2 for x in (k, q))
    beta, lam = make.uniform(0, 2, (2, 20_000))
    norms = np.linalg.norm(Transition(k, q, beta, lam).matrix(), ord=2, axis=(-2, -1))
    assert (norms <= products.worst_growth(beta, lam) * (1 + 1e-14)).all()


def test_worst_growth_contains_the_claim_at_beta_1():
    lam = np.linspace(0, 2, 21)
    np.testing.assert_allclose(products.worst_growth(1.0, lam), np.sqrt(1 + lam**2), rtol=1e-15)
    rising = products.worst_growth(np.linspace(0, 2, 41)[:, None], lam)
    assert (np.diff(rising, axis=0) >= -1e-15).all()
    assert (np.diff(rising, axis=1) >= -1e-15).all()


def test_the_witness_as_tokens_makes_the_memory_grow():
    found = products.joint_spectral_radius(0.5, alpha_max=0.95)
    x = found.inputs(T=200, K=6, V=3)
    assert (x.T, x.K, x.V) == (200, 6, 3)
    assert products.observed_growth(x).rate.values == pytest.approx(np.log(found.lower), abs=1e-3)


# Joint spectral radius of a finite set

ROOT3 = np.sqrt(3)
KNOWN = {
    "golden ratio": ([[[1, 1], [0, 1]], [[1, 0], [1, 1]]], (1 + np.sqrt(5)) / 2),
    # Gripenberg (1996): 0.6596789 < JSR < 0.6596924
    "Gripenberg's pair": (np.array([[[3, 0], [1, 3]], [[3, -3], [0, -1]]]) / 5, 0.6596789),
    # The transfer matrices of the Daubechies wavelet D4, whose Hoelder exponent is 2 - log2(1 + sqrt 3)
    "Daubechies D4": (
        np.array([[[1 + ROOT3, 0], [-1, 1 - ROOT3]], [[1 - ROOT3, -1], [0, 1 + ROOT3]]]) / 4,
        (1 + ROOT3) / 4,
    ),
    "one matrix": ([[[2, 1, 0], [0, 1.9, 5], [0, 0, 0.5]]], 2.0),
    "one Jordan block": ([[[1, 1], [0, 1]]], 1.0),
    "symmetric": ([[[1, 2], [2, -1]], [[0.5, 0], [0, -2]]], np.sqrt(5)),
    "rotations": ([[[0, -2], [2, 0]], [[0.6, -0.8], [0.8, 0.6]]], 2.0),
    "nilpotent": ([[[0, 1], [0, 0]]], 0.0),
    "nilpotent pair": ([[[0, 1], [0, 0]], [[0, 0], [4, 0]]], 2.0),
    "zero": ([[[0, 0], [0, 0]]], 0.0),
    "numbers": ([[[0.5]], [[-3]]], 3.0),
}


@pytest.mark.parametrize("case", KNOWN)
def test_known_joint_spectral_radii(case):
    matrices, exact = KNOWN[case]
    found = products.joint_spectral_radius_of(np.array(matrices), tolerance=1e-3)
    assert found.lower - 1e-7 <= exact <= found.upper + 1e-7
    assert found.upper - found.lower <= 1.001e-3


@pytest.mark.parametrize("quadratic", [True, False])
def test_commuting_matrices_have_the_largest_spectral_radius(quadratic):
    make = np.random.default_rng(0)
    V, D = make.normal(size=(4, 4)), make.normal(size=(3, 4))
    found = products.joint_spectral_radius_of(V @ (D[:, :, None] * np.linalg.inv(V)), quadratic=quadratic)
    assert found.lower == pytest.approx(np.abs(D).max(), rel=1e-9)
    assert np.abs(D).max() <= found.upper * (1 + 1e-12)
    if quadratic:  # all are diagonal in one basis, which the search for a norm finds
        assert found.upper < found.lower * (1 + 1e-6)


@pytest.mark.parametrize("case", ["Gripenberg's pair", "Daubechies D4", 0, 1, 2, 3])
def test_no_quadratic_norm_of_the_plane_is_clearly_better(case):
    A = np.array(KNOWN[case][0]) if case in KNOWN else np.random.default_rng(case).normal(size=(3, 2, 2))
    L = finite.quadratic_basis(A)
    found = np.linalg.norm(L @ A @ np.linalg.inv(L), ord=2, axis=(-2, -1)).max()
    # Every quadratic norm is, up to a factor, that of a lower triangular L with entries 1, shear and stretch.
    shear, stretch = np.meshgrid(np.linspace(-4, 4, 161), np.exp(np.linspace(-3, 3, 121)))
    grid = np.zeros((shear.size, 1, 2, 2))
    grid[..., 0, 0], grid[..., 1, 0], grid[..., 1, 1] = 1, shear.reshape(-1, 1), stretch.reshape(-1, 1)
    norms = np.linalg.norm(grid @ A @ np.linalg.inv(grid), ord=2, axis=(-2, -1)).max(-1)
    assert found <= norms.min() * 1.001
    assert found >= max(np.abs(np.linalg.eigvals(A)).max(), joint_lower(A)) - 1e-9


def joint_lower(A: np.ndarray) -> float:
    return products.joint_spectral_radius_of(A, tolerance=1e-3).lower


@pytest.mark.parametrize("seed", range(6))
def test_finite_sets_against_brute_force(seed):
    make = np.random.default_rng(seed)
    A = make.normal(size=(2, 3, 3))
    found = products.joint_spectral_radius_of(torch.as_tensor(A), tolerance=0.02)
    product = np.linalg.multi_dot([*A[list(found.witness)], np.eye(3)])
    reached = np.abs(np.linalg.eigvals(product)).max() ** (1 / len(found.witness))
    assert reached == pytest.approx(found.lower, rel=1e-9)
    assert found.upper - found.lower <= 0.02 * (1 + 1e-9)
    words, P = 8, A
    for _ in range(words - 1):
        P = (P[:, None] @ A).reshape(-1, 3, 3)
    assert np.abs(np.linalg.eigvals(P)).max() ** (1 / words) <= found.upper
    assert found.lower <= np.linalg.norm(P, ord=2, axis=(-2, -1)).max() ** (1 / words)


def test_bounds_hold_when_the_search_is_cut_short():
    A = np.array(KNOWN["Gripenberg's pair"][0])
    cut = products.joint_spectral_radius_of(A, tolerance=1e-6, max_length=5)
    fewer = products.joint_spectral_radius_of(A, tolerance=1e-6, max_products=20)
    assert cut.length == 5
    assert fewer.products <= 20 * fewer.length
    for found in (cut, fewer):
        assert found.lower < 0.6596790 < found.upper < 0.7


# Mean square


@pytest.mark.parametrize(("d", "cos", "lam", "beta"), [(2, 0.3, 1.0, 0.8), (16, -0.7, 0.5, 1.0), (5, 0.9, 2.0, 1.7)])
def test_mean_square_growth_by_sampling(d, cos, lam, beta):
    make, n = np.random.default_rng(3), 200_000
    unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
    k, m = unit(make.normal(size=(n, d))), make.normal(size=(n, d))
    q = cos * k + np.sqrt(1 - cos**2) * unit(m - (m * k).sum(-1, keepdims=True) * k)
    s = unit(make.normal(size=d))
    moved = 0.9 * (s - beta * ((k + lam * q) @ s)[:, None] * k)
    squares = (moved**2).sum(-1)
    exact = products.mean_square_growth(beta, lam, cos, d, alpha=0.9)
    assert abs(squares.mean() - exact) < 5 * squares.std() / np.sqrt(n)


def test_critical_beta_is_the_boundary():
    lam, cos = np.meshgrid(np.linspace(0, 1, 11), np.linspace(-0.99, 1, 11))
    beta = products.critical_beta(lam, cos)
    np.testing.assert_allclose(products.mean_square_growth(np.clip(beta, 0, 2), lam, cos, 7)[beta <= 2], 1, rtol=1e-14)
    below = products.mean_square_growth(0.9 * np.minimum(beta, 2), lam, cos, 7)
    assert (below < 1).all()
    assert products.critical_beta(1.0, -1.0) == np.inf
    assert products.critical_beta(2.0, -0.75) < 0
    assert products.mean_square_growth(0.01, 2.0, -0.75, 7) > 1
    assert products.mean_square_growth(0.5, 0.4, -1.0, 1) == pytest.approx((1 - 0.5 * 0.6) ** 2)


def test_typical_growth_is_below_mean_square_growth():
    x = generators.cone(T=4000, K=3, cos=0.2, beta=1.0, lam=1.0)
    top = products.top_lyapunov_exponent(x)
    assert top.lyapunov_exponent + 4 * top.standard_error < np.log(products.mean_square_growth(1.0, 1.0, 0.2, 3)) / 2


@pytest.mark.parametrize("cos", [-0.6, 0.0, 0.7])
def test_sampled_mean_square_growth_is_the_closed_form_s_for_uniform_tokens(cos):
    x = generators.cone(T=40_000, K=6, V=1, cos=cos, beta=0.9, lam=0.8, alpha=0.95, seed=2)
    found = products.sampled_mean_square_growth(x).squeeze()
    exact = products.mean_square_growth(0.9, 0.8, cos, 6, alpha=0.95)
    # At a fixed angle every token has the same Frobenius norm; the directions differ by sampling alone.
    assert float(found.growth) == pytest.approx(exact, abs=1e-6)
    assert abs(found.least - exact) < 0.02
    assert abs(found.most - exact) < 0.02


def test_sampled_mean_square_growth_against_dense_matrices():
    make = torch.Generator().manual_seed(4)
    q, k = torch.randn(2, 2, 60, 2, 5, dtype=torch.float64, generator=make)
    gates = torch.rand(3, 2, 60, 4, dtype=torch.float64, generator=make)
    x = QDeltaInputs(q, k, torch.zeros(2, 60, 4, 1, dtype=torch.float64), -gates[0], gates[1], gates[2])
    found, A = products.sampled_mean_square_growth(x), x.transition().matrix()
    moment = (A @ A.mT).mean(1)
    np.testing.assert_allclose(found.most, torch.linalg.eigvalsh(moment)[..., -1], rtol=1e-12)
    np.testing.assert_allclose(found.least, torch.linalg.eigvalsh(moment)[..., 0], rtol=1e-9)
    squares = A.square().sum((-2, -1)) / 5
    np.testing.assert_allclose(found.growth, squares.mean(1), rtol=1e-12)
    np.testing.assert_allclose(found.growth_error, squares.std(1) / 60**0.5, rtol=1e-9)
    s = torch.nn.functional.normalize(torch.randn(5, dtype=torch.float64, generator=make), dim=-1)
    along = (s @ A).square().sum(-1).mean(1).numpy()
    assert ((found.least <= along) & (along <= found.most)).all()
    assert np.isnan(products.sampled_mean_square_growth(x.tokens(0, 1)).growth_error).all()


def test_persistent_excitation_against_the_definitions():
    make = torch.Generator().manual_seed(1)
    q, k = torch.randn(2, 2, 50, 2, 12, dtype=torch.float64, generator=make)
    gates = torch.rand(3, 2, 50, 4, dtype=torch.float64, generator=make)
    x = QDeltaInputs(q, k, torch.zeros(2, 50, 4, 1, dtype=torch.float64), -gates[0], gates[1], gates[2])
    found, t = products.persistent_excitation(x), x.transition()
    mixed, k = t.x.numpy(), t.k.numpy()
    for b, h in itertools.product(range(2), range(4)):
        M = np.mean([np.outer(a, c) for a, c in zip(mixed[b, :, h], k[b, :, h], strict=True)], axis=0)
        W = np.mean([c @ c * np.outer(a, a) for a, c in zip(mixed[b, :, h], k[b, :, h], strict=True)], axis=0)
        mu, largest = np.linalg.eigvalsh((M + M.T) / 2)[0], np.linalg.eigvalsh(W)[-1]
        assert found.mu[b, h] == pytest.approx(mu, rel=1e-10)
        assert found.lambda_max[b, h] == pytest.approx(largest, rel=1e-12)
        assert found.beta_bound[b, h] == pytest.approx(max(0, 2 * mu / largest), rel=1e-10)
        beta = float(found.beta_bound[b, h])
        mean_square = np.eye(12) - beta * (M + M.T) + beta**2 * W
        assert np.linalg.eigvalsh(mean_square)[-1] <= 1 + 1e-12
    few = products.persistent_excitation(generators.isotropic(T=3, K=16))
    assert few.beta_bound == 0


@pytest.mark.parametrize("size", [1e-100, 1e-60, 1e60, 1e100])
def test_moments_of_keys_of_any_size(size):
    plain = generators.isotropic(T=64, K=4, lam=0.0, seed=1).to(torch.float64)
    x = QDeltaInputs(plain.q, size * plain.k, plain.v, plain.g, plain.beta, plain.lam)
    found, unit = products.persistent_excitation(x), products.persistent_excitation(plain)
    np.testing.assert_allclose(found.mu, unit.mu * size**2, rtol=1e-9)
    np.testing.assert_allclose(found.beta_bound, unit.beta_bound / size / size, rtol=1e-9)
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(found.lambda_max, unit.lambda_max * size * size * size * size, rtol=1e-9)
    sampled = products.sampled_mean_square_growth(x).squeeze()
    assert np.isfinite(sampled.most) == (size < 1e70)
    assert (sampled.growth == np.inf) == (size > 1e70)
    assert np.isnan(sampled.least) == (size > 1e70)


def test_mean_square_growth_of_long_keys_that_the_decay_makes_up_for():
    x = generators.isotropic(T=64, K=4, lam=0.0, seed=1).to(torch.float64)
    long = QDeltaInputs(x.q, 1e100 * x.k, x.v, x.g, x.beta, x.lam).with_alpha(1e-120)
    found = products.sampled_mean_square_growth(long)
    np.testing.assert_allclose(found.growth, 0.25 * 1e160 / 4, rtol=1e-6)


def test_matrices_in_half_precision():
    found = products.joint_spectral_radius_of(torch.eye(2, dtype=torch.bfloat16)[None] / 2)
    assert (found.lower, found.upper) == (0.5, 0.5)


# Bad input

NONE = generators.isotropic(T=4, K=3).tokens(0, 0)
SOME = generators.isotropic(T=4, K=3)
BAD = {
    "lam_max": (lambda: products.joint_spectral_radius(-0.1), "lam_max is -0.1; expected a number from 0 to 2"),
    "alpha_max": (lambda: products.joint_spectral_radius(1.0, 0.0), "alpha_max is 0.0; expected"),
    "beta_max": (lambda: products.joint_spectral_radius(1.0, 1.0, np.nan), "beta_max is nan; expected"),
    "directions": (lambda: products.joint_spectral_radius(1.0, directions=1), "directions is 1; expected"),
    "a grid of 15 TB": (
        lambda: products.joint_spectral_radius(2, directions=10**6),
        "directions = 1000000 would take about .* GB; expected at most",
    ),
    "complex matrices": (
        lambda: products.joint_spectral_radius_of(torch.eye(2, dtype=torch.complex64)[None]),
        "finite real numbers",
    ),
    "no matrices": (lambda: products.joint_spectral_radius_of(np.zeros((0, 2, 2))), r"shape \[0, 2, 2\]; expected"),
    "not square": (lambda: products.joint_spectral_radius_of(np.zeros((1, 2, 3))), r"shape \[1, 2, 3\]; expected"),
    "NaN": (lambda: products.joint_spectral_radius_of(np.full((1, 2, 2), np.nan)), "finite real numbers"),
    "tolerance": (lambda: products.joint_spectral_radius_of(np.eye(2)[None], tolerance=0), "tolerance is 0; expected"),
    "exponents": (lambda: products.lyapunov_spectrum(SOME, exponents=4), "exponents is 4; expected .* from 1 to 3"),
    "transient": (lambda: products.top_lyapunov_exponent(SOME, transient=4), "transient is 4; expected .* from 0 to 3"),
    "blocks": (lambda: products.observed_growth(SOME, blocks=0), "blocks is 0; expected"),
    "no tokens": (lambda: products.lyapunov_spectrum(NONE), "T = 0 tokens; expected at least 1"),
    "no tokens, summary": (lambda: products.growth_summary(NONE), "T = 0 tokens; expected at least 1"),
    "no tokens, windows": (lambda: products.transient_growth(NONE), "T = 0 tokens; expected at least 1"),
    "no tokens, sampled": (lambda: products.sampled_mean_square_growth(NONE), "T = 0 tokens; expected at least 1"),
    "no tokens, moments": (lambda: products.persistent_excitation(NONE), "T = 0 tokens; expected at least 1"),
    "window": (lambda: products.transient_growth(SOME, 0), "window is 0; expected a whole number of at least 1"),
    "half a window": (lambda: products.transient_growth(SOME, 1.5), "window is 1.5; expected a whole number"),
    "d": (lambda: products.mean_square_growth(0.5, 0.5, 0.0, 0), "d is 0; expected a whole number of at least 1"),
    "d = 1": (lambda: products.mean_square_growth(0.5, 0.5, 0.0, 1), "d is 1 with cos as small as 0; expected"),
    "cos": (lambda: products.critical_beta(0.5, 1.5), r"cos has values in \[1.5, 1.5\]; expected values in \[-1, 1\]"),
    "lam": (lambda: products.worst_growth(0.5, np.array([0, 3])), r"lam has values in \[0, 3\]; expected"),
    "NaN gate": (
        lambda: products.mean_square_growth(np.nan, 0.5, 0.0, 3),
        r"beta has values in \[nan, nan\]; expected",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case, as_users_call):
    call, message = BAD[case]
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert str(error.value).count(".\n") == 0


def test_what_is_no_inputs(as_users_call):
    with pytest.raises(TypeError, match="inputs is a int; expected QDeltaInputs"):
        products.growth_summary(3)
