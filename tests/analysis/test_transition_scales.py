"""Closed forms at any scale against 60 digits: what a float can hold comes out right, whatever its square would be."""

import mpmath
import numpy as np
import pytest
import torch

from qdelta_analysis import Transition
from tests.helpers import cases

KINDS = {
    "numpy": (np.asarray, np.float64),
    "torch": (torch.as_tensor, np.float64),
    "numpy float32": (np.asarray, np.float32),
    "torch float32": (torch.as_tensor, np.float32),
}


def dot(u, w):
    return sum((a * b for a, b in zip(u, w, strict=True)), mpmath.mpf(0))


def exact(k, q, beta, lam, alpha) -> dict:
    """Every closed form by its definition; beside each, the size of the terms that were summed."""
    k, q = ([mpmath.mpf(float(x)) for x in y] for y in (k, q))
    beta, lam, alpha = (mpmath.mpf(float(x)) for x in (beta, lam, alpha))
    x = [a + lam * b for a, b in zip(k, q, strict=True)]
    kk, qq, kq, xx = dot(k, k), dot(q, q), dot(k, q), dot(x, x)
    a, sizes = dot(k, x), kk + lam * mpmath.sqrt(kk * qq)
    moving, terms = 1 - beta * a, 1 + beta * sizes
    total, det = 2 - 2 * beta * a + beta**2 * xx * kk, abs(moving)
    root = mpmath.sqrt(max(total**2 - 4 * det**2, 0))
    largest = det if len(k) == 1 else mpmath.sqrt((total + root) / 2)
    found = {
        "alignment": (a, sizes),
        "cos": (kq / mpmath.sqrt(kk * qq) if kk * qq else mpmath.mpf(0), 1),
        "moving": (alpha * moving, alpha * terms),
        "radius": (alpha * (det if len(k) == 1 else max(1, det)), alpha * terms),
        "norm": (alpha * largest, 0),
        "smallest": (alpha * det / (largest if len(k) > 1 else 1), alpha * terms / max(largest, 1)),
        "envelope": (alpha * mpmath.sqrt(1 + lam**2), 0),
    }
    for i, row in enumerate(x):
        found[f"x {i}"] = (row, abs(k[i]) + lam * abs(q[i]))
        for j, column in enumerate(k):
            size = alpha * ((i == j) + beta * found[f"x {i}"][1] * abs(column))
            found[f"A {i} {j}"] = (alpha * ((i == j) - beta * row * column), size)
    return found


def computed(t: Transition) -> dict:
    found = {"alignment": t.alignment, "cos": t.cos, "moving": t.eigenvalues()[-1], "radius": t.spectral_radius()}
    found |= {"norm": t.operator_norm(), "smallest": t.singular_values()[-1], "envelope": t.norm_envelope()}
    found |= {f"x {i}": x for i, x in enumerate(t.x)}
    return found | {f"A {i} {j}": y for i, row in enumerate(t.matrix()) for j, y in enumerate(row)}


def held(t: Transition, right: dict, info) -> None:
    """Every value within 100 units in the last place of what its terms are, or of the smallest float there is."""
    assert float(t.singular_values()[0]) == float(t.operator_norm())
    for name, value in computed(t).items():
        value, (true, size) = float(value), right[name]
        if abs(true) > float(info.max):
            assert value * int(mpmath.sign(true)) >= float(info.max) * (1 - 1e-5), (name, value, true)
            continue
        allowed = 100 * float(info.eps) * max(abs(true), size) + 4 * float(info.smallest_subnormal)
        assert abs(mpmath.mpf(value) - true) <= allowed, (name, value, true)


EXTREME = [
    ([1e150, 0.0], [0.0, 1.0], 0.5, 0.5, 1.0),
    ([1e-200, 0.0], [1e200, 1e200], 0.5, 0.5, 1.0),
    ([1e-170, 2e-170], [3e-170, 1e-170], 1.0, 1.0, 1.0),
    ([5e-324, 0.0], [5e-324, 5e-324], 2.0, 1.0, 1.0),
    ([1e308, 1e308], [1e-308, 0.0], 1e-310, 2.0, 1e-300),
    ([1e200, 0.0], [-1e200, 0.0], 1.0, 1.0, 1.0),  # x = 0
    ([1e300, 0.0], [0.0, 1e300], 1.0, 1.0, 1e-300),  # ||A|| = 1.41e300
    ([0.0, 0.0], [1e200, 0.0], 1.0, 1.0, 1.0),
    ([1e160], [1e100], 1e-300, 1.0, 1.0),
]


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
@pytest.mark.parametrize("case", range(len(EXTREME)))
def test_extremes(kind, case):
    k, q, *gates = (np.array(x) for x in EXTREME[case])
    with mpmath.workdps(60), np.errstate(over="ignore"):
        held(Transition(kind(k), kind(q), *map(float, gates)), exact(k, q, *gates), np.finfo(np.float64))


@pytest.mark.cases
@pytest.mark.parametrize("name", KINDS)
def test_random_sizes_against_sixty_digits(name):
    kind, dtype = KINDS[name]
    draw, info = np.random.default_rng(1), np.finfo(dtype)
    reach = np.log2(float(info.max))
    for _ in range(cases(30)):
        d, spread = int(draw.integers(1, 5)), draw.choice([2.0, reach / 3, reach])
        sized = lambda *n: np.ldexp(draw.uniform(0.5, 1, n), draw.uniform(-spread, spread, n).astype(int))  # noqa: B023
        vector = lambda: (draw.normal(size=d) * float(sized())).astype(dtype)  # noqa: B023
        k, q = (np.clip(vector(), -info.max / 4, info.max / 4) for _ in range(2))
        tiny = lambda: float(np.ldexp(draw.uniform(0, 2), int(draw.choice([0, 0, -draw.uniform(0, spread)]))))  # noqa: B023
        gates = [kind(np.asarray(tiny(), dtype=dtype)) for _ in range(3)]
        with mpmath.workdps(60), np.errstate(over="ignore"):
            held(Transition(kind(k), kind(q), *gates), exact(k, q, *gates), info)


def test_one_large_token_changes_no_other():
    make = torch.Generator().manual_seed(0)
    k, q = torch.randn(2, 50, 8, generator=make, dtype=torch.float64)
    beta, lam = torch.rand(2, 50, generator=make, dtype=torch.float64)
    k2 = k.clone()
    k2[17] *= 1e200
    one, other = Transition(k, q, beta, lam, 0.9), Transition(k2, q, beta, lam, 0.9)
    rest = torch.arange(50) != 17
    for name in ("operator_norm", "singular_values", "eigenvalues", "matrix", "spectral_radius"):
        torch.testing.assert_close(getattr(one, name)()[rest], getattr(other, name)()[rest], rtol=1e-15, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(dtype):
    make = torch.Generator().manual_seed(0)
    k, q = (torch.randn(2, 100, 6, generator=make) * torch.logspace(-3, 2, 100)[:, None]).to(dtype)
    beta, lam = torch.rand(2, 100, generator=make).to(dtype)
    t = Transition(k, q, beta, lam, 0.5)
    wide = Transition(*(x.double() for x in (k, q, beta, lam)), 0.5)
    eps = torch.finfo(dtype).eps
    for name in ("operator_norm", "singular_values", "matrix", "spectral_radius", "norm_envelope"):
        found, right = getattr(t, name)(), getattr(wide, name)()
        assert found.dtype == dtype
        fits = right.abs() < torch.finfo(dtype).max / 2
        torch.testing.assert_close(found[fits].double(), right[fits], rtol=eps, atol=1e-4)
    torch.testing.assert_close(t.cos.double(), wide.cos, rtol=eps, atol=eps)


@pytest.mark.parametrize("scale", [1.0, 1e120, 1e-120])
def test_gradients_pass_and_are_those_of_dense_matrices(scale):
    make = torch.Generator().manual_seed(3)
    k, q = torch.randn(2, 5, 4, generator=make, dtype=torch.float64).unbind()
    beta, lam = torch.rand(2, 5, generator=make, dtype=torch.float64).unbind()
    leaves = [(k * scale).requires_grad_(), (q * scale).requires_grad_(), (beta / scale / scale).requires_grad_()]
    Transition(*leaves, lam).operator_norm().sum().backward()
    plain = [x.clone().requires_grad_() for x in (k, q, beta)]
    A = (
        torch.eye(4).double()
        - plain[2][:, None, None] * (plain[0] + lam[:, None] * plain[1])[:, :, None] * plain[0][:, None]
    )
    torch.linalg.matrix_norm(A, ord=2).sum().backward()
    for leaf, dense, size in zip(leaves, plain, (1 / scale, 1 / scale, scale * scale), strict=True):
        torch.testing.assert_close(leaf.grad / size, dense.grad, rtol=1e-9, atol=1e-12)


def test_gradients_are_finite_where_the_plane_of_q_and_k_is_none():
    k = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1e-200, 0.0]], dtype=torch.float64)
    q = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0], [1e200, 0.0]], dtype=torch.float64)
    for chosen in (slice(1, 2), slice(None)):
        leaves = [x[chosen].clone().requires_grad_() for x in (k, q)]
        t = Transition(*leaves, 0.5, 0.5)
        (t.operator_norm() + t.spectral_radius() + t.cos).sum().backward()
        assert all(leaf.grad.isfinite().all() for leaf in leaves)


def with_zeros(draw: np.random.Generator, scale: float) -> list[torch.Tensor]:
    """k, q, beta, lam, alpha of three tokens, many of whose parts are zero; the second's vectors are of that scale."""
    d = int(draw.integers(2, 5))
    given = [draw.normal(size=(3, d)), draw.normal(size=(3, d)), *draw.uniform(0, 1, (3, 3))]
    for x in given[:4]:
        x[draw.uniform(size=x.shape) < 0.3] = 0
    given[0][1], given[1][1] = given[0][1] * scale, given[1][1] / scale
    given[0][2] *= draw.integers(0, 2)
    return [torch.tensor(x, requires_grad=True) for x in given]


@pytest.mark.parametrize("scale", [1.0, 1e-60, 1e90])
def test_slopes_at_zeros_are_those_of_the_formulas_whatever_stands_beside(scale):
    draw = np.random.default_rng(0)
    for _ in range(50):
        leaves = with_zeros(draw, scale)
        k, q, beta, lam, alpha = leaves
        t, x = Transition(*leaves), k + lam[:, None] * q
        aligned = (k * x).sum(-1)
        dense = alpha[:, None, None] * (torch.eye(len(k[0])) - beta[:, None, None] * x[:, :, None] * k[:, None])
        pairs = {
            "x": (t.x, x),
            "alignment": (t.alignment, aligned),
            "matrix": (t.matrix(), dense),
            "eigenvalues": (t.eigenvalues()[:, -1], alpha * (1 - beta * aligned)),
        }
        for name, ours in pairs.items():
            slopes = [torch.autograd.grad(y[0].sum(), leaves, retain_graph=True, materialize_grads=True) for y in ours]
            for found, expected in zip(*slopes, strict=True):
                torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12, msg=name)


def test_singular_values_have_their_slopes_at_a_zero_query():
    k, q = torch.tensor([0.6, 0.8]).double(), torch.zeros(2).double()
    gates = tuple(torch.tensor(0.5).double() for _ in range(2))
    found = torch.autograd.functional.jacobian(lambda *y: Transition(k, q, *y).singular_values(), gates)
    dense = torch.autograd.functional.jacobian(lambda *y: torch.linalg.svdvals(Transition(k, q, *y).matrix()), gates)
    torch.testing.assert_close(found, dense)
