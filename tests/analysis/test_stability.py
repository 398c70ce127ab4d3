"""The stability maps and their boundaries, against dense linear algebra, certified boxes, and sampling."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from qdelta_analysis import certify, generators, products
from qdelta_analysis.plots import stability_figure
from qdelta_analysis.stability import StabilityMap, stability_map

CUTS = [("beta", 0.0), ("beta", 0.4), ("beta", -0.8), ("beta", 1.0), ("beta", -1.0)]
CUTS += [("cos", beta) for beta in (0.0, 0.3, 1.0, 1.6, 2.0)]


def gates(m: StabilityMap, lam, y):
    """lam, beta and cos of points in a map."""
    return (lam, y, np.full_like(y, m.at)) if m.over == "beta" else (lam, np.full_like(y, m.at), y)


def inside(m: StabilityMap, claim: str):
    """Points of a boundary that lie in the map: lam, beta, cos."""
    lam, y = m.boundaries[claim]
    keep = (lam >= 0) & (lam <= 2) & (y >= m.y[0]) & (y <= m.y[-1])
    return gates(m, lam[keep], y[keep])


@pytest.mark.parametrize(("over", "at"), CUTS)
def test_the_norm_is_that_of_dense_matrices(over, at):
    m = stability_map(over, at, alpha=0.9, points=9)
    draw = torch.Generator().manual_seed(0)
    lam, y = np.meshgrid(m.lam, m.y)
    lam, beta, cos = (torch.as_tensor(x) for x in gates(m, lam, y))
    k, n = normalize(torch.randn(2, *lam.shape, 5, dtype=torch.float64, generator=draw), dim=-1)
    n = normalize(n - (n * k).sum(-1, keepdim=True) * k, dim=-1)
    q = cos[..., None] * k + (1 - cos**2).sqrt()[..., None] * n
    x = k + lam[..., None] * q
    A = 0.9 * (torch.eye(5, dtype=torch.float64) - beta[..., None, None] * x[..., :, None] * k[..., None, :])
    np.testing.assert_allclose(m.growth, torch.linalg.svdvals(A)[..., 0].log(), atol=1e-7)


@pytest.mark.parametrize(("over", "at"), [("beta", 0.4), ("cos", 0.9)])
def test_the_typical_growth_is_that_of_sampled_tokens(over, at):
    m = stability_map(over, at, alpha=0.97, d=8, quantity="mean square", points=3)
    s = torch.zeros(8, dtype=torch.float64)
    s[0] = 1
    for row, y in enumerate(m.y):
        for column, lam in enumerate(m.lam):
            lam, beta, cos = gates(m, np.array(lam), np.array(y))
            x = generators.cone(T=40_000, K=8, V=1, cos=float(cos), beta=float(beta), lam=float(lam), alpha=0.97)
            t = x.to(torch.float64).transition()
            step = t.alpha[..., None] * (s - (t.beta * (t.x @ s))[..., None] * t.k)
            sampled = step.square().sum(-1).flatten()
            error = sampled.std().item() / len(sampled) ** 0.5
            assert np.exp(2 * m.growth[row, column]) == pytest.approx(sampled.mean().item(), abs=5 * error + 1e-6)


@pytest.mark.parametrize(("over", "at"), CUTS)
def test_g4_is_where_one_write_stops_contracting_the_error(over, at):
    m = stability_map(over, at)
    lam, beta, cos = inside(m, "G4")
    moved = np.array([_moving_eigenvalue(*point) for point in zip(lam, beta, cos, strict=True)])
    np.testing.assert_allclose(np.abs(moved), 1, atol=1e-7)
    # Where the map has no such line, the error shrinks everywhere or nowhere.
    grid = gates(m, *(x.ravel() for x in np.meshgrid(m.lam[1:-1], m.y[1:-1])))
    factor = np.abs(1 - grid[1] * (1 + grid[0] * grid[2]))
    if not len(lam):
        assert (factor < 1).all() or (factor >= 1).all()


def _moving_eigenvalue(lam, beta, cos) -> float:
    k, q = np.array([1.0, 0.0]), np.array([cos, np.sqrt(1 - cos**2)])
    return np.linalg.det(np.eye(2) - beta * np.outer(k + lam * q, k))  # the other eigenvalue is 1


def test_g4_leaves_out_no_crossing():
    """Along every row of a map, |1 - beta a| crosses 1 only where the line is."""
    for over, at in CUTS:
        m = stability_map(over, at, points=401)
        lines = np.stack(m.boundaries["G4"])
        steps = np.linspace(0, 1, 101)[:, None, None]
        lines = lines[:, :-1] + steps * (lines[:, 1:] - lines[:, :-1])  # with what is drawn between its points
        lines = lines.transpose(1, 0, 2).reshape(2, -1)
        lines = lines[:, np.isfinite(lines).all(0)]
        lam, y = np.meshgrid(m.lam, m.y)
        l, b, c = gates(m, lam, y)
        contracts = np.abs(1 - b * (1 + l * c)) < 1
        crossing = np.argwhere(contracts[1:-1, 1:-2] != contracts[1:-1, 2:-1]) + 1
        for row, column in crossing[::7]:
            distance = np.hypot(lines[0] - m.lam[column], lines[1] - m.y[row]).min(initial=np.inf)
            assert distance < 0.02, (over, at, m.lam[column], m.y[row])


def test_g6_is_the_certified_box():
    for over, at in (("beta", 0.7), ("cos", 0.5)):
        lam, y = stability_map(over, at).boundaries["G6"]
        box = {"beta": (0.0, y.max() if over == "beta" else 1.0), "lam": (0.0, lam.max()), "cos": (-1.0, 1.0)}
        assert certify.certify("G6", box).verdict == "proved"
        assert certify.certify("G6", box | {"lam": (0.0, lam.max() + 0.01)}).verdict == "refuted"
        assert certify.certify("G6", box | {"beta": (0.0, box["beta"][1] + 0.01)}).verdict == "refuted"
    assert not len(stability_map("cos", 1.1).boundaries["G6"][0])  # no lam is small enough at beta = 1.1


@pytest.mark.parametrize("alpha", [0.999, 0.95, 0.8, 0.5])
def test_g9_is_where_the_joint_spectral_radius_is_one(alpha):
    lam = {over: stability_map(over, 0.5, alpha=alpha).boundaries["G9"][0] for over in ("beta", "cos")}
    assert len({*lam["beta"], *lam["cos"]}) == 1
    L = float(lam["beta"][0])
    bounds = products.joint_spectral_radius(L, alpha_max=alpha)
    assert bounds.lower == pytest.approx(1, abs=2e-3)
    assert bounds.upper == pytest.approx(1, abs=2e-3)
    # One step at beta = 1 and the worst angle grows beyond it, and no step before it.
    m = stability_map("cos", 1.0, alpha=alpha, points=401)
    worst = m.growth.max(0)
    assert (worst[m.lam < L - 0.01] <= 1e-12).all()
    assert (worst[m.lam > L + 0.01] > 0).all()
    assert not len(stability_map("cos", 1.1, alpha=alpha).boundaries["G9"][0])


@pytest.mark.parametrize(("over", "at"), CUTS)
def test_g10_is_where_typical_growth_begins(over, at):
    m = stability_map(over, at)
    lam, beta, cos = inside(m, "G10")
    np.testing.assert_allclose(products.mean_square_growth(beta, lam, cos, d=8), 1, atol=1e-12)
    grows = stability_map(over, at, quantity="mean square", points=201)
    lam, y = np.meshgrid(grows.lam, grows.y)
    lam, beta, cos = gates(grows, lam, y)
    beyond = np.where(beta > 0, lam - products.critical_lam(beta, cos), -1)
    clear = np.abs(beyond) > 1e-9
    assert ((grows.growth > 0) == (beyond > 0))[clear].all()


@settings(max_examples=100, deadline=None)
@given(st.floats(1e-6, 2), st.floats(-1, 1))
def test_critical_lam_solves_critical_beta(beta, cos):
    lam = products.critical_lam(beta, cos)
    assert lam >= 0
    size = beta * (1 + 2 * lam * cos + lam**2)
    assert size == pytest.approx(2 * (1 + lam * cos), abs=1e-9 * (1 + lam**2))
    if lam <= 2 and 1 + 2 * lam * cos + lam**2 > 1e-6:
        assert products.critical_beta(lam, cos) == pytest.approx(beta, rel=1e-6, abs=1e-9 / (1 + lam * cos + lam**2))


def test_critical_lam_where_nothing_is_written():
    np.testing.assert_array_equal(products.critical_lam(0.0, np.array([-1.0, 0.0, 1.0])), np.inf)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"over": "lam"}, "over is 'lam'; expected 'beta' or 'cos'"),
        ({"at": 1.5}, "cos is 1.5; expected a number from -1 to 1"),
        ({"over": "cos", "at": -0.1}, "beta is -0.1; expected a number from 0 to 2"),
        ({"alpha": 0.0}, "alpha is 0.0; expected a number from"),
        ({"alpha": 0.9, "alpha_max": 0.8}, "alpha_max is 0.8; expected a number from 0.9 to 1"),
        ({"d": 1}, "d is 1; expected a whole number of at least 2"),
        ({"points": 1}, "points is 1; expected a whole number of at least 2"),
        ({"quantity": "radius"}, "quantity is 'radius'; expected 'norm' or 'mean square'"),
    ],
)
@pytest.mark.usefixtures("as_users_call")
def test_what_is_no_map(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        stability_map(**({"over": "beta", "at": 0.5} | change))


def test_the_figure_is_centred_on_no_growth_and_marks_the_token():
    tokens = {"lam": np.array([0.1, 0.2]), "beta": np.array([0.3, 0.4]), "cos": np.array([-0.5, 0.5])}
    for quantity in ("norm", "mean square"):
        maps = [stability_map(over, 0.5, quantity=quantity) for over in ("beta", "cos")]
        figure = stability_figure(maps, tokens, 1)
        assert figure.layout.coloraxis.cmin == -figure.layout.coloraxis.cmax < 0
        drawn = {trace.meta: trace for trace in figure.data}
        for m in maps:
            np.testing.assert_allclose(drawn[f"{m.over} growth"].z, m.growth, rtol=1e-6, atol=1e-7)
            for claim, (lam, y) in m.boundaries.items():
                np.testing.assert_array_equal([drawn[f"{m.over} {claim}"].x, drawn[f"{m.over} {claim}"].y], [lam, y])
            assert (drawn[f"{m.over} token"].x, drawn[f"{m.over} token"].y) == (0.2, tokens[m.over][1])
        assert {a.text for a in figure.layout.annotations} == {
            "at cos(q, k) = 0.5, α = 1",
            "at β = 0.5, α = 1",
        }


@pytest.mark.parametrize("quantity", ["norm", "mean square"])
def test_a_decay_of_any_size_only_moves_the_map(quantity):
    plain = stability_map("beta", 0.0, quantity=quantity, points=3).growth
    found = stability_map("beta", 0.0, alpha=1e-200, quantity=quantity, points=3).growth
    np.testing.assert_allclose(found, plain + np.log(1e-200), rtol=1e-14)


def test_a_map_that_does_not_fit_into_memory():
    with pytest.raises(ValueError, match=r"points = 10000000 would take about .* GB; expected at most"):
        stability_map("beta", 0.0, points=10**7)
