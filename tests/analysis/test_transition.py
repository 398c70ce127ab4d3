"""Every closed form of a transition against dense linear algebra, degenerate cases included."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from qdelta_analysis import Transition

ROOT = 0.5**0.5


def unit(*values: float) -> torch.Tensor:
    return normalize(torch.tensor(values, dtype=torch.float64), dim=-1)


def against_dense(t: Transition, tolerance: float = 1e-12) -> None:
    A = torch.as_tensor(t.matrix())
    eigenvalues = torch.linalg.eigvals(A)
    sort = lambda x: torch.sort(torch.as_tensor(x), dim=-1).values
    # A defective matrix (1 - beta a = 1, not zero) loses half the digits in any dense solver.
    loose = 1e-6 if tolerance > 0 else 0
    assert torch.allclose(eigenvalues.imag, torch.zeros_like(eigenvalues.imag), atol=loose)
    assert torch.allclose(sort(eigenvalues.real), sort(t.eigenvalues()), atol=loose)
    assert torch.allclose(eigenvalues.abs().amax(-1), torch.as_tensor(t.spectral_radius()), atol=loose)
    singular = torch.linalg.svdvals(A)
    assert torch.allclose(singular, torch.as_tensor(t.singular_values()), atol=tolerance, rtol=tolerance)
    assert torch.allclose(singular[..., 0], torch.as_tensor(t.operator_norm()), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("kind", [torch.as_tensor, np.asarray])
@pytest.mark.parametrize("d", [1, 2, 3, 17])
def test_random_batches(kind, d):
    make = torch.Generator().manual_seed(d)
    k, q = torch.randn(2, 4, 5, d, dtype=torch.float64, generator=make)
    beta, lam, alpha = torch.rand(3, 4, 5, dtype=torch.float64, generator=make) * 2
    t = Transition(*(kind(x) for x in (k, q, beta, lam, alpha)))
    against_dense(t)
    assert type(t.eigenvalues()) is type(kind(k))
    x = np.asarray(k) + np.asarray(lam)[..., None] * np.asarray(q)
    np.testing.assert_allclose(np.asarray(t.alignment), (np.asarray(k) * x).sum(-1), atol=1e-13)
    np.testing.assert_array_equal(np.asarray(t.x), x)
    dense = np.asarray(alpha)[..., None, None] * (
        np.eye(d) - np.asarray(beta)[..., None, None] * np.einsum("...i,...j->...ij", x, np.asarray(k))
    )
    np.testing.assert_allclose(np.asarray(t.matrix()), dense, atol=1e-14)


DEGENERATE = {
    "one dimension": (unit(1.0), unit(-1.0), 0.7, 0.4, 0.9),
    "one dimension, zero": (torch.zeros(1).double(), unit(1.0), 0.7, 0.4, 0.9),
    "q along k": (unit(1, 2, 2), unit(1, 2, 2), 0.7, 0.4, 1.0),
    "q against k": (unit(1, 2, 2), -unit(1, 2, 2), 0.7, 1.0, 1.0),
    "x along k and beta a = 2": (unit(0, 1), unit(0, 1), 1.0, 1.0, 1.0),
    "x along k and beta a = 1": (unit(0, 3, 4), unit(0, 3, 4), 0.5, 1.0, 1.0),
    "no write": (unit(1, 2, 2), unit(2, -1, 2), 0.0, 0.4, 0.8),
    "no feedback": (unit(1, 2, 2), unit(2, -1, 2), 0.7, 0.0, 0.8),
    "no feedback, full reflection": (unit(1, 2, 2), unit(2, -1, 2), 2.0, 0.0, 1.0),
    "zero key": (torch.zeros(3).double(), unit(1, 2, 2), 0.7, 0.4, 1.0),
    "zero query": (unit(1, 2, 2), torch.zeros(3).double(), 0.7, 0.4, 1.0),
    "both zero": (torch.zeros(3).double(), torch.zeros(3).double(), 0.7, 0.4, 1.0),
    "orthogonal": (unit(1, 0), unit(0, 1), 1.0, 1.0, 1.0),
    "defective: k.x = 0": (unit(1, 0), unit(-1, 1) * 2**0.5, 1.0, 1.0, 1.0),
    "no memory": (unit(1, 0), unit(0, 1), 1.0, 1.0, 0.0),
}


@pytest.mark.parametrize("case", DEGENERATE)
def test_degenerate_cases(case):
    k, q, beta, lam, alpha = DEGENERATE[case]
    against_dense(Transition(k, q, beta, lam, alpha))
    against_dense(Transition(k.numpy(), q.numpy(), beta, lam, alpha))


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    d=st.integers(2, 6),
    cos=st.floats(-1, 1),
    beta=st.floats(0, 2),
    lam=st.floats(0, 2),
    alpha=st.just(0.0) | st.floats(1e-100, 1),  # LAPACK gives up on subnormal matrices
)
def test_any_angle_and_gate(seed, d, cos, beta, lam, alpha):
    make = torch.Generator().manual_seed(seed)
    k, n = normalize(torch.randn(2, d, dtype=torch.float64, generator=make), dim=-1)
    n = normalize(n - (n @ k) * k, dim=-1)
    q = cos * k + (1 - cos * cos) ** 0.5 * n
    t = Transition(k, q, beta, lam, alpha)
    against_dense(t, 1e-11)
    norm = float(t.operator_norm())
    assert norm >= alpha - 1e-12
    if beta <= 1:
        assert norm <= float(t.norm_envelope()) + 1e-12


@pytest.mark.parametrize("lam", [0.25, 0.5, 1.0])
def test_the_norm_envelope_is_reached(lam):
    # At beta = 1 and q orthogonal to k, |k - lam q| = |k + lam q| = sqrt(1 + lam^2).
    t = Transition(unit(1, 0), unit(0, 1), 1.0, lam, 0.9)
    assert float(t.operator_norm()) == pytest.approx(float(t.norm_envelope()), abs=1e-15)
    assert float(t.norm_envelope()) == pytest.approx(0.9 * (1 + lam**2) ** 0.5, abs=1e-15)


def test_without_feedback_nothing_expands_and_with_it_something_does():
    make = torch.Generator().manual_seed(0)
    k, q = normalize(torch.randn(2, 100, 8, dtype=torch.float64, generator=make), dim=-1)
    beta = torch.rand(100, dtype=torch.float64, generator=make)
    assert torch.allclose(Transition(k, q, beta, 0.0).operator_norm(), torch.ones(100).double(), atol=1e-15)
    assert (Transition(k, q, beta, 0.3).operator_norm() > 1 + 1e-6).all()
    assert torch.allclose(Transition(k, q, beta, 0.3).spectral_radius(), torch.ones(100).double())


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        (([1.0], [1.0], 1.0, 1.0), TypeError, "k and q are list and list; expected NumPy arrays or torch tensors"),
        ((np.ones(3), np.ones(4), 1.0, 1.0), ValueError, r"shapes \[3\] and \[4\]; expected the same \[..., d\]"),
        ((np.ones(3, int), np.ones(3, int), 1.0, 1.0), TypeError, "dtypes int64 and int64; expected the same float"),
        ((np.ones((2, 3)), np.ones((2, 3)), np.ones(5), 1.0), ValueError, r"beta has shape \[5\]; expected one that"),
        (
            (np.ones(3), np.ones(3), 1.0, 1.0, -0.5),
            ValueError,
            "alpha is as low as -0.5; expected values of at least 0",
        ),
        ((np.ones(3), np.ones(3), 1.0, 1.0, np.nan), ValueError, "alpha is as low as nan"),
    ],
)
def test_bad_input(arguments, error, sentence, as_users_call):
    with pytest.raises(error, match=sentence):
        Transition(*arguments)
