"""Inputs of any scale and precision: no traceback, nothing violated by rounding, and words that agree with checks."""

import dataclasses
import json
import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from qdelta_analysis import QDeltaInputs, generators, guarantees
from qdelta_analysis.guarantees import memory
from tests.helpers import cases, tokens

from .claims import HOLDS, UNMET, VIOLATED, inputs, unmet

WORST = [HOLDS, UNMET, VIOLATED]
SIZES = (1e-310, 1e-300, 1e-160, 1e-30, 1e-3, 1.0, 1.0, 1.0, 3e3, 1e8, 1e20, 1e100, 1e160, 1e300)


def agree(x: QDeltaInputs) -> guarantees.Report:
    """Check, and hold the words at every token against it: of a head, the worst of its tokens."""
    report = guarantees.check(x)
    assert VIOLATED not in report.verdicts.values(), report.to_text(details=True)
    json.loads(report.to_json())
    assert str(report)
    said = {}
    for head in range(x.H):
        for batch in range(x.B):
            for token in range(x.T):
                for s in guarantees.at_token(report, token, head, batch):
                    said.setdefault((s.id, head), []).append(s.verdict)
    for (claim, head), verdicts in said.items():
        assert max(verdicts, key=WORST.index) == report[claim].verdicts[head], (claim, head)
    return report


def drawn(seed: int) -> QDeltaInputs:
    """Tokens of which some have keys, queries, values and gates of very different sizes; every dtype."""
    draw = np.random.default_rng(seed)
    T, K = int(draw.integers(1, 12)), int(draw.integers(1, 5))
    x = tokens(T=T, K=K, V=2, seed=seed)
    some = lambda: torch.as_tensor(draw.random((1, T, 2)) < draw.choice([0.1, 1.0]))
    sized = lambda y: torch.where(some()[..., None], y * float(draw.choice(SIZES)), y)
    gate = lambda y: torch.where(some(), float(draw.choice([0.0, 5e-324, 1e-300, 1e-17, 0.5, 1.0, 2.0])), y)
    q, k, v = sized(x.q), sized(x.k), sized(x.v)
    if draw.random() < 0.3:
        q = k * float(draw.choice([-1.0, 1.0]))
    g = torch.where(some(), float(draw.choice([0.0, -1e-300, -1e3])), x.g)
    dtype = [torch.float64, torch.float64, torch.float32, torch.bfloat16, torch.float16][draw.integers(5)]
    limit = torch.finfo(dtype).max
    q, k, v = (y.clamp(-limit, limit) for y in (q, k, v))
    return QDeltaInputs(*(y.to(dtype) for y in (q, k, v, g, gate(x.beta), gate(x.lam))), x.state.to(dtype))


@pytest.mark.cases
def test_any_scale_agrees_and_violates_nothing():
    for seed in range(cases(25)):
        try:
            agree(drawn(seed))
        except Exception as error:
            raise AssertionError(f"seed {seed}") from error


LONG = {"||k|| = 3e3": 3e3, "||k|| = 1e8": 1e8, "||k|| = 1e20": 1e20, "||k|| = 1e70": 1e70}


@pytest.mark.parametrize("case", LONG)
@pytest.mark.parametrize("along", [True, False])
def test_g1_holds_for_long_keys(case, along):
    x = inputs(T=40)
    k = LONG[case] * x.k
    report = guarantees.check(dataclasses.replace(x, k=k, q=x.k if along else x.q))
    assert report["G1"].verdict == report["G3"].verdict == HOLDS
    assert VIOLATED not in report.verdicts.values()


def test_one_key_of_length_1e100():
    x = inputs(T=40)
    k = x.k.clone()
    k[0, 7] *= 1e100
    assert agree(dataclasses.replace(x, k=k))["G1"].verdict == HOLDS


@pytest.mark.parametrize("reset", [-30.0, -745.0, -1e12, -1e16, float(np.finfo(np.float32).min), -np.inf])
def test_a_reset_touches_nothing_after_it(reset):
    """G12's decays between two tokens are sums of the gates between them, whatever came before."""
    x = generators.isotropic(T=150, K=8, V=8, beta=0.8, lam=0.5, alpha=0.95, seed=1)
    x.g[:, [3, 40, 70, 71]] = -20.0
    expected = guarantees.check(x)["G12"]
    x.g[:, [3, 40, 70, 71]] = reset
    check = guarantees.check(x)["G12"]
    assert check.verdict == HOLDS
    np.testing.assert_allclose(check.numbers["largest_inverse"], expected.numbers["largest_inverse"], rtol=1e-6)
    np.testing.assert_allclose(check.margin, expected.margin, rtol=1e-6)


def test_a_beta_too_small_for_one_minus_it():
    """1 - 1e-17 rounds to 1, yet beta a lies strictly inside (0, 2)."""
    report = agree(inputs(T=20).with_beta(1e-17).with_lam(0.0))
    assert report["G4"].verdict == report["G5"].verdict == HOLDS
    assert 0 < report["G4"].margin < 2e-17


def test_keys_slightly_short_or_long_are_in_the_unit_ball():
    """As layers normalise: x / sqrt(||x||^2 + eps), then rounded to float32."""
    x = inputs(T=200, K=16).with_alpha(0.6)
    short = dataclasses.replace(x, q=0.995 * x.q, k=0.998 * x.k)
    for y in (short, short.to(torch.float32), x.to(torch.float32)):
        report = agree(y)
        for claim in ("G6", "G7", "G8", "G9", "G12"):
            assert report[claim].verdict == HOLDS
    assert unmet(guarantees.check(short)["G10"]) >= {"unit q, k"}
    longer = guarantees.check(dataclasses.replace(x, q=1.001 * x.q))
    for claim in ("G6", "G7", "G8", "G9", "G12"):
        assert unmet(longer[claim]) == {"q, k in the unit ball"}


def test_short_keys_may_turn_the_error_round_within_the_bound():
    """||k|| = lam ||q|| / 2 against q: beta a = -beta lam^2 / 4, the least that the ball allows."""
    k = torch.tensor([0.5, 0.0]).double().expand(1, 8, 1, 2)
    ones = torch.ones(1, 8, 1).double()
    report = agree(QDeltaInputs(-2 * k, k, ones[..., None], -ones, ones, ones))
    assert report["G6"].verdict == HOLDS
    assert report["G6"].numbers["smallest"][0] == -0.25
    assert report["G6"].margin == pytest.approx(0, abs=1e-15)
    assert report["G2"].verdict == UNMET
    t = next(s for s in guarantees.at_token(report, 0) if s.id == "G6")
    assert "βa = -0.25 lies in [-0.25, 2]" in t.sentence


def test_the_bounds_of_the_unit_ball_on_dense_matrices():
    make = torch.Generator().manual_seed(0)
    for d in (2, 3, 7):
        k, q = torch.nn.functional.normalize(torch.randn(2, 4000, d, generator=make, dtype=torch.float64), dim=-1)
        r, s, beta, lam = torch.rand(4, 4000, generator=make, dtype=torch.float64)
        k, q = k * r[:, None], q * s[:, None]
        x = k + lam[:, None] * q
        A = torch.eye(d).double() - beta[:, None, None] * x[:, :, None] * k[:, None]
        norm, ba = torch.linalg.matrix_norm(A, ord=2), beta * (x * k).sum(-1)
        sharp = (1 + lam**2 * s**2 * beta / (2 - beta * r**2)).sqrt()
        assert (norm <= sharp * (1 + 1e-14)).all()
        assert (sharp <= (1 + lam**2 * beta / (2 - beta)).sqrt() * (1 + 1e-14)).all()
        assert (ba <= 2).all()
        assert (ba >= -beta * lam**2 * s**2 / 4).all()
        assert (ba >= 0)[r >= lam * s].all()
        assert math.isfinite(float(norm.max()))


@pytest.mark.parametrize("rate", [0.0, 1e-17, 0.3, 1 - 1e-5, 1 - 1.5e-9, 1 - 1e-15, 1.0, 1 + 1e-8, 3.0])
def test_the_series_of_powers_is_exact(rate):
    _, series = memory._powers(torch.tensor([rate], dtype=torch.float64), 40)
    exact = [float(sum(Fraction(rate) ** i for i in range(t))) for t in range(1, 41)]
    np.testing.assert_allclose(series[:, 0], exact, rtol=1e-14)


@pytest.mark.parametrize("forgets", [1e-9, 1.5e-9, 3e-9, 1e-8])
@pytest.mark.parametrize("T", [5, 10, 50])
def test_a_memory_that_hardly_forgets_keeps_its_bound(forgets, T):
    ones = torch.ones(1, T, 1).double()
    x = QDeltaInputs(*[ones[..., None]] * 3, math.log1p(-forgets) * ones, 1e-10 * ones, 0 * ones)
    assert agree(x)["G9"].verdict == HOLDS


def test_a_memory_that_fades_below_the_smallest_number_keeps_its_bound():
    ones = torch.ones(1, 8000, 1).double()
    x = QDeltaInputs(*[ones[..., None]] * 3, -0.1 * ones, 1e-12 * ones, 0 * ones, torch.ones(1, 1, 1, 1).double())
    assert guarantees.GUARANTEES["G9"].check(x).verdict == HOLDS
