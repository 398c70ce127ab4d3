"""The claims on data: verdicts, margins and counterexamples that agree with the theory."""

import math

import numpy as np
import pytest
import torch

from qdelta_analysis import generators, guarantees, load_trained, trace

from .claims import CLAIMS, HOLDS, UNMET, VIOLATED, inputs, unmet


def test_all_claims_are_there_in_order_and_say_what_they_are():
    assert tuple(guarantees.GUARANTEES) == CLAIMS
    for guarantee in guarantees.GUARANTEES.values():
        assert all((guarantee.title, guarantee.statement, guarantee.words, guarantee.unit))
        assert "stable" not in (guarantee.title + guarantee.words).lower()
    g9 = guarantees.GUARANTEES["G9"]
    assert repr(g9).startswith("G9 Uniform memory bound: if gamma = max alpha sqrt(1 + max lam^2) < 1")
    assert "It needs: no q and no k is longer than 1; every beta lies in [0, 1]; gamma" in repr(g9)
    assert r"\gamma=\alpha_{\max}\sqrt{1+L^2}&lt;1" in g9._repr_html_()
    assert "It needs: nothing." in repr(guarantees.GUARANTEES["G1"])
    sources = {name: g.source for name, g in guarantees.GUARANTEES.items()}
    assert sources["G4"] == "Q-Delta (arXiv 2606.08804), Lemma 3.1"
    assert sources["G5"].startswith("Q-Delta (arXiv 2606.08804), Theorem 3.2")
    assert {sources[name] for name in CLAIMS if name not in ("G4", "G5")} == {"this project"}


# Which claims do not hold on what, and why: by the theory, not by the code.


TYPICAL_ONLY = {"G9": "gamma < 1", "G11": "beta < 2 mu / lambda_max"}
SOURCES = {
    "isotropic": (lambda: generators.isotropic(), TYPICAL_ONLY),
    "isotropic, decaying": (lambda: generators.isotropic(alpha=0.8), {"G11": "beta < 2 mu / lambda_max"}),
    "isotropic, decaying, many": (lambda: generators.isotropic(T=4096, alpha=0.8), {}),
    "isotropic, no feedback": (lambda: generators.isotropic(T=4096, alpha=0.99, lam=0.0), {}),
    "cone": (lambda: generators.cone(), TYPICAL_ONLY),
    "cone, many": (lambda: generators.cone(T=4096, alpha=0.85, cos=-0.3), {}),
    "repeated keys": (
        lambda: generators.repeated_keys(T=1024),
        {"G9": "gamma < 1", "G10": "uniform directions", "G11": "mu > 0"},
    ),
    "two-token cycle": (
        lambda: generators.two_token_cycle(T=256),
        {"G9": "gamma < 1", "G10": "uniform directions", "G11": "mu > 0"},
    ),
    "two-token cycle, paid for": (
        lambda: generators.two_token_cycle(T=256, alpha=0.7),
        {"G10": "uniform directions", "G11": "mu > 0"},
    ),
    "nothing written": (lambda: generators.isotropic(beta=0.0, alpha=0.5), dict.fromkeys(["G4", "G5", "G11"], "")),
    "q = k, full gates": (
        lambda: generators.cone(cos=1.0, beta=1.0, lam=1.0).to(torch.float64),
        dict.fromkeys(["G4", "G5", "G9", "G11"], ""),
    ),
}


@pytest.mark.parametrize("source", SOURCES)
def test_generators(source):
    make, expected = SOURCES[source]
    report = guarantees.check(make())
    assert {name for name, verdict in report.verdicts.items() if verdict != HOLDS} == set(expected)
    assert VIOLATED not in report.verdicts.values()
    for name, hypothesis in expected.items():
        assert not hypothesis or hypothesis in unmet(report[name])
    assert report.ok is (not expected)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_the_trained_trace(layer):
    x = load_trained()[layer]
    report, dataset = guarantees.check(x), trace(x, snapshots=0)
    assert {name for name, verdict in report.verdicts.items() if verdict != HOLDS} == {"G9", "G10", "G11"}
    assert VIOLATED not in report.verdicts.values()
    assert "gamma < 1" in unmet(report["G9"])
    assert "uniform directions" in unmet(report["G10"])
    assert "mu > 0" in unmet(report["G11"])
    per_head = lambda name: dataset[name].max(("batch", "time")).values
    np.testing.assert_allclose(report["G3"].numbers["largest_norm"], per_head("operator_norm"), rtol=1e-5)
    np.testing.assert_allclose(report["G5"].numbers["largest_error"], per_head("error_after"), rtol=1e-5)
    gamma = x.alpha.amax((0, 1)) * (1 + x.lam.amax((0, 1)) ** 2).sqrt()
    np.testing.assert_allclose(report["G9"].numbers["gamma"], gamma, rtol=1e-6)
    np.testing.assert_allclose(report["G9"].numbers["threshold"], 1 / (1 + x.lam.amax((0, 1)) ** 2).sqrt(), rtol=1e-6)
    # The class of tokens can grow; these very ones shrink.
    assert all(np.array(report["G8"].numbers["gamma"]) > 1)
    assert all(np.array(report["G8"].numbers["observed"]) < 1)
    worst = report["G4"]
    factor = 1 - (1 - dataset.beta_alignment[worst.batch, worst.token, worst.head].item())
    assert worst.margin == pytest.approx(factor, rel=1e-5)


def test_along_the_cycle_the_error_contracts_perfectly_and_the_memory_doubles_every_two_tokens():
    report = guarantees.check(generators.two_token_cycle(T=64))
    assert report["G4"].verdict == report["G5"].verdict == HOLDS
    assert report["G4"].margin == pytest.approx(1, abs=1e-15)
    assert report["G5"].numbers["rho"][0] < 1e-15
    assert report["G7"].margin == pytest.approx(0, abs=1e-14)
    assert report["G8"].verdict == HOLDS
    assert report["G8"].margin == pytest.approx(0, abs=1e-14)
    assert report["G8"].numbers["observed"][0] == pytest.approx(math.sqrt(2), abs=1e-12)
    assert report["G9"].verdict == UNMET
    assert report["G9"].numbers["largest_memory"][0] > 2**31
    # |T_ij| grows like 2^((i - j) / 2)
    assert 2**30 < report["G12"].numbers["largest_inverse"][0] < 2**32
    assert report["G14"].numbers["mean_price"][0] == pytest.approx(math.log(2) / 2, abs=1e-14)


@pytest.mark.parametrize("L", [0.25, 0.5, 1.0, 2.0])
def test_the_threshold_of_the_memory_bound_is_sharp(L):
    threshold = 1 / math.sqrt(1 + L * L)
    below = generators.two_token_cycle(T=512, K=2, V=2, lam=L, alpha=0.999 * threshold)
    above = generators.two_token_cycle(T=8192, K=2, V=2, lam=L, alpha=1.005 * threshold)
    assert guarantees.GUARANTEES["G9"].check(below).verdict == HOLDS
    check = guarantees.GUARANTEES["G9"].check(above)
    assert (check.verdict, unmet(check)) == (UNMET, {"gamma < 1"})
    assert not check.conclusion_holds
    assert check.margin < 0


WITH_EXAMPLE = [name for name, g in guarantees.GUARANTEES.items() if g.dropped]


@pytest.mark.parametrize("claim", WITH_EXAMPLE)
def test_without_a_hypothesis_the_conclusion_fails(claim):
    guarantee = guarantees.GUARANTEES[claim]
    example = guarantee.counterexample()
    check = guarantee.check(example)
    assert check.verdict == UNMET
    assert guarantee.dropped in unmet(check)
    assert check.margin < 0
    assert not check.conclusion_holds
    assert claim in example.metadata["counterexample"]


def test_only_a_claim_without_hypotheses_has_no_counterexample():
    assert set(CLAIMS) - set(WITH_EXAMPLE) == {"G1"}
    with pytest.raises(ValueError, match="G1 has no hypothesis that can fail"):
        guarantees.GUARANTEES["G1"].counterexample()


def test_doubled_gates_leave_the_box():
    x = generators.cone(cos=0.9)
    report = guarantees.check(x.with_beta(1.9).with_lam(1.8))
    assert report["G6"].verdict == UNMET
    assert unmet(report["G6"]) == {"beta <= 1", "lam <= 1"}
    assert report["G6"].margin == pytest.approx(2 - 1.9 * (1 + 1.8 * 0.9), abs=1e-5)
    assert not report["G6"].conclusion_holds
    assert {report[name].verdict for name in ("G1", "G3", "G13", "G14")} == {HOLDS}
    assert {report[name].verdict for name in ("G2", "G4", "G5", "G7", "G8", "G9", "G12")} == {UNMET}


def test_worst_token_and_head_are_where_the_margin_is():
    x = inputs(T=200, B=3, H=2, HV=4)
    check = guarantees.GUARANTEES["G6"].check(x)
    t = x.transition()
    ba = (t.beta * t.alignment).double()
    margin = torch.minimum(ba, 2 - ba)
    assert check.margin == pytest.approx(margin.min().item(), abs=1e-12)
    assert margin[check.batch, check.token, check.head] == margin.min()
    np.testing.assert_allclose(check.margins, margin.amin((0, 1)), atol=1e-12)


def test_proofs_come_from_the_symbolic_part():
    symbolic = pytest.importorskip("qdelta_analysis.symbolic")
    assert guarantees.GUARANTEES["G1"].prove() is symbolic.prove("G1")


def test_a_check_is_reproducible():
    x = inputs(T=150)
    assert guarantees.check(x, seed=3).to_json() == guarantees.check(x, seed=3).to_json()
