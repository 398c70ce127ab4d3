"""The claims on data: verdicts that agree with the theory, false claims rejected, broken numbers noticed."""

import dataclasses
import json
import math
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from qdelta_analysis import QDeltaInputs, Transition, generators, guarantees, load_trained, trace
from qdelta_analysis.guarantees import facts as facts_module
from qdelta_analysis.guarantees import stretches as stretches_module
from qdelta_kernels import chunk_qdelta_rule
from tests.helpers import tokens

CLAIMS = tuple(f"G{i}" for i in range(1, 15))
HOLDS, UNMET, VIOLATED = "holds", "hypotheses not met", "violated"


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def inputs(**options) -> QDeltaInputs:
    x = tokens(**options)
    return QDeltaInputs(*x[:6], initial_state=x.state, metadata={"source": "test"})


def not_holding(x: QDeltaInputs) -> dict[str, str]:
    return {name: verdict for name, verdict in guarantees.check(x).verdicts.items() if verdict != HOLDS}


def unmet(check) -> set[str]:
    return {condition.name for condition in check.unmet}


def test_all_claims_are_there_in_order_and_say_what_they_are():
    assert tuple(guarantees.GUARANTEES) == CLAIMS
    for guarantee in guarantees.GUARANTEES.values():
        assert all((guarantee.title, guarantee.statement, guarantee.words, guarantee.unit))
        assert "stable" not in (guarantee.title + guarantee.words).lower()
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


def false_claim(hypotheses, words, measure):
    return dataclasses.replace(
        guarantees.GUARANTEES["G3"], id="F", title=words, words=words, hypotheses=hypotheses, measure=measure
    )


def measured(words, worst):
    return guarantees.Measured((guarantees.Finding(words, worst),), words)


OPEN = guarantees.GUARANTEES["G4"].hypotheses[0]
UNIT = guarantees.GUARANTEES["G6"].hypotheses[0]
FALSE = {
    "||A|| <= 1": lambda f: f.worst(f.gates.alpha * f.geometry.norm - 1, 1e-12),
    "||A|| <= alpha sqrt(1 + lam^2 / 2)": lambda f: f.worst(
        f.gates.alpha * (f.geometry.norm - (1 + f.gates.lam**2 / 2).sqrt()), 1e-12
    ),
    "JSR <= 1 when beta a is in (0, 2)": lambda f: f.everywhere(
        (next(reversed(f.stretches.growth.values())) ** (1 / max(f.stretches.growth)) - 1).amax(0), 1e-9
    ),
    "||S_t|| <= ||S_0|| + sup ||v||": lambda f: f.worst(f.trace.state_norm - f.value_length.max(), 1e-9),
    "|T_ij| <= 1": lambda f: f.everywhere(f.stretches.inverse_largest.amax((0, 1)) - 1, 1e-9),
}


@pytest.mark.parametrize("words", FALSE)
def test_false_claims_are_rejected(words):
    claim = false_claim((UNIT, OPEN), words, lambda facts: measured(words, FALSE[words](facts)))
    check = claim.check(generators.two_token_cycle(T=64))
    assert check.verdict == VIOLATED
    assert check.margin < 0
    assert unmet(check) == set()


def test_the_released_form_is_not_the_recurrence(monkeypatch):
    released = lambda *a, **options: chunk_qdelta_rule(*a, **options, intra="released")
    monkeypatch.setattr(stretches_module, "chunk_qdelta_rule", released)
    check = guarantees.GUARANTEES["G12"].check(generators.isotropic())
    assert check.verdict == VIOLATED
    assert guarantees.GUARANTEES["G12"].check(generators.isotropic(lam=0.0)).verdict == HOLDS


WRONG = {"alignment": {"G1", "G2", "G3"}, "operator_norm": {"G3", "G7", "G14"}}


@pytest.mark.parametrize("method", WRONG)
def test_a_wrong_closed_form_is_noticed(method, monkeypatch):
    right = getattr(Transition, method)
    if isinstance(right, property):
        monkeypatch.setattr(Transition, method, property(lambda self: 1.001 * right.fget(self)))
    else:
        monkeypatch.setattr(Transition, method, lambda self: 1.001 * right(self))
    found = guarantees.check(generators.isotropic(beta=1.0, lam=1.0)).verdicts
    assert {name for name, verdict in found.items() if verdict == VIOLATED} >= WRONG[method] - {"G2", "G7"}


@pytest.mark.parametrize("field", ["error_before", "error_after", "state_norm"])
def test_a_wrong_trace_is_noticed(field, monkeypatch):
    right = facts_module.chunk_qdelta_diagnostics

    def wrong(*arguments, **options):
        found = right(*arguments, **options)
        return dataclasses.replace(found, **{field: 1.0001 * getattr(found, field)})

    monkeypatch.setattr(facts_module, "chunk_qdelta_diagnostics", wrong)
    found = guarantees.check(load_trained()[0])
    assert found["G4"].verdict == found["G12"].verdict == VIOLATED


def planted(name: str, token: int, head: int, value) -> QDeltaInputs:
    x = generators.isotropic(T=200, H=3, alpha=0.8)
    changed = getattr(x, name).clone()
    changed[0, token, head] = value * changed[0, token, head] if name in "qk" else value
    return dataclasses.replace(x, **{name: changed})


@pytest.mark.parametrize(
    ("name", "value", "hypothesis", "claims"),
    [
        ("k", 1.1, "unit q, k", ("G6", "G7", "G8", "G9", "G10", "G12")),
        ("q", 0.9, "unit q, k", ("G6", "G7", "G8", "G9", "G10", "G12")),
        ("beta", 1.5, "beta <= 1", ("G6", "G7", "G8", "G9", "G12")),
        ("lam", 1.5, "lam <= 1", ("G6",)),
        ("beta", 0.0, "beta a in (0, 2)", ("G4",)),
        ("g", 0.0, "gamma < 1", ("G9",)),
    ],
)
def test_one_bad_token_is_found_and_only_its_head_is_concerned(name, value, hypothesis, claims):
    report = guarantees.check(planted(name, 37, 1, value))
    for claim in claims:
        check = report[claim]
        assert check.verdicts == (HOLDS, UNMET, HOLDS)
        (condition,) = check.unmet
        assert condition.name == hypothesis
        assert condition.met == (True, False, True)
        if hypothesis != "gamma < 1":
            assert (condition.excess.token[1], condition.excess.batch[1]) == (37, 0)
        assert "[holds in 0, 2; hypotheses not met in 1]" in str(report)
        assert check.head == 1


def test_worst_token_and_head_are_where_the_margin_is():
    x = inputs(T=200, B=3, H=2, HV=4)
    check = guarantees.GUARANTEES["G6"].check(x)
    t = x.transition()
    ba = (t.beta * t.alignment).double()
    margin = torch.minimum(ba, 2 - ba)
    assert check.margin == pytest.approx(margin.min().item(), abs=1e-12)
    assert margin[check.batch, check.token, check.head] == margin.min()
    np.testing.assert_allclose(check.margins, margin.amin((0, 1)), atol=1e-12)


DEGENERATE = {
    "one token": inputs(T=1),
    "two tokens": inputs(T=2),
    "one dimension": inputs(K=1, T=40),
    "one value": inputs(V=1, T=40),
    "zero vectors": QDeltaInputs(*torch.zeros(3, 1, 30, 2, 4), None, torch.full((1, 30, 2), 0.5), None),
    "zero values": dataclasses.replace(inputs(T=40), v=torch.zeros(1, 40, 2, 6).double(), initial_state=None),
    "x = 0": generators.cone(cos=-1.0, beta=1.0, lam=1.0),
    "decay to nothing": dataclasses.replace(inputs(T=40), g=torch.full((1, 40, 2), -2000.0).double()),
    "x of rounding alone": generators.cone(T=128, K=2, cos=-1.0, beta=1.0, lam=1.0).to(torch.float64),
    "reflections": generators.cone(T=900, K=2, V=1, cos=1.0, beta=1.0, lam=1.0),
    "memory erased at once": dataclasses.replace(
        inputs(T=150, K=1, HV=4), initial_state=torch.full((1, 4, 1, 6), 1e6).double()
    ).to(torch.float32),
    "few repeated keys": generators.repeated_keys(T=547, K=2, V=3, H=3, beta=0.199, lam=0.947, alpha=0.5, seed=911268),
    "past float64": generators.two_token_cycle(T=4096, K=3, V=2),
    "past float32": generators.two_token_cycle(T=400, K=3, V=2).to(torch.float32),
    "bfloat16": inputs(T=100).to(torch.bfloat16),
    "float16": inputs(T=100).to(torch.float16),
}


@pytest.mark.parametrize("case", DEGENERATE)
def test_degenerate_inputs_violate_nothing(case):
    report = guarantees.check(DEGENERATE[case])
    assert VIOLATED not in report.verdicts.values()
    assert report["G1"].verdict == HOLDS
    json.loads(report.to_json())
    assert str(report)


def test_what_degenerate_inputs_are_said_to_be():
    verdict = lambda case, claim: guarantees.GUARANTEES[claim].check(DEGENERATE[case])
    for claim in ("G2", "G3", "G8", "G13", "G14"):
        assert unmet(verdict("one dimension", claim)) >= {"d >= 2"}
    for claim in ("G6", "G7", "G9", "G12"):
        assert unmet(verdict("zero vectors", claim)) >= {"unit q, k"}
    for claim in ("G4", "G5", "G12"):
        assert unmet(verdict("past float64", claim)) == {"finite memory"}
        assert unmet(verdict("past float32", claim)) == {"finite memory"}
    for claim in ("G10", "G11"):
        assert "independent tokens" in unmet(verdict("one token", claim))
    assert verdict("zero values", "G5").verdict == HOLDS


def test_no_tokens():
    empty = QDeltaInputs(*torch.zeros(3, 1, 0, 2, 4), None, torch.zeros(1, 0, 2), None)
    report = guarantees.check(empty)
    assert set(report.verdicts.values()) == {UNMET}
    assert not report.ok
    assert "there is at least one token" in str(report)
    assert json.loads(report.to_json())["claims"]["G1"]["margin"] is None


def test_nan_is_refused_before_any_check(as_users_call):
    x = generators.isotropic(T=5).arguments()
    x["k"] = x["k"].clone()
    x["k"][0, 3, 0, 1] = math.nan
    with pytest.raises(ValueError, match="k holds nan at index"):
        QDeltaInputs(**x)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 999),
    T=st.integers(1, 90),
    K=st.integers(1, 5),
    beta=st.floats(0, 2, width=32),
    lam=st.floats(0, 2, width=32),
    alpha=st.floats(0.125, 1, width=32),
    length=st.sampled_from([1.0, 1.0, 0.5, 2.0]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_no_inputs_violate_a_claim(seed, T, K, beta, lam, alpha, length, dtype):
    x = tokens(T=T, K=K, V=3, seed=seed)
    scale = lambda gate, top: gate / gate.max().clamp(min=1e-9) * top
    x = QDeltaInputs(
        x.q, length * x.k, x.v, math.log(alpha) + 0 * x.g, scale(x.beta, beta), scale(x.lam, lam), x.state
    ).to(dtype)
    report = guarantees.check(x)
    assert VIOLATED not in report.verdicts.values(), str(report)
    json.loads(report.to_json())


def test_claimed_inverse_is_the_product_of_the_steps():
    """T_ij = -beta_i alpha_i k_j^T A_{j+1} ... A_{i-1} x_i, by dense products."""
    x = inputs(T=12, H=1)
    t = x.transition()
    A, beta = t.matrix()[0, :, 0], t.beta[0, :, 0] * t.alpha[0, :, 0]
    k, mixed = t.k[0, :, 0], t.x[0, :, 0]
    largest = torch.zeros(12).double()
    for i in range(12):
        for j in range(i):
            product = torch.eye(x.K).double()
            for m in range(j + 1, i):
                product = product @ A[m]
            largest[i] = max(largest[i], abs(float(beta[i] * k[j] @ product @ mixed[i])))
    found = guarantees.Facts(x).stretches
    np.testing.assert_allclose(found.inverse_largest[0, :, 0], largest, atol=1e-13)


def test_blocks_leave_no_seam(monkeypatch):
    x = inputs(T=101, B=2, H=2, HV=4)
    whole, cut = guarantees.Facts(x), guarantees.Facts(x)
    for name in ("geometry", "value_length", "trace"):
        getattr(whole, name)
    monkeypatch.setattr(facts_module, "_BLOCK_ELEMENTS", 7 * 2 * 4 * 8)
    assert len(list(cut.blocks())) == 15
    t = x.transition()
    for facts in (whole, cut):
        np.testing.assert_allclose(facts.geometry.norm * facts.gates.alpha, t.operator_norm(), atol=1e-14)
        np.testing.assert_allclose(facts.geometry.xk, t.alignment, atol=1e-14)
        np.testing.assert_allclose(facts.value_length, x.v.norm(dim=-1), atol=1e-14)
    np.testing.assert_allclose(whole.trace.drift, cut.trace.drift, atol=1e-14)


def test_the_drift_is_that_of_the_states():
    x = inputs(T=9, H=1)
    t, S = x.transition(), x.initial_state[0, 0].mT
    after, drift = None, [0.0]
    for i in range(9):
        alpha, mixed, k, v = t.alpha[0, i, 0], t.x[0, i, 0], t.k[0, i, 0], x.v[0, i, 0]
        before = v - alpha * S @ mixed
        if after is not None:
            drift.append(float((before - after).norm()))
        S = alpha * S + t.beta[0, i, 0] * torch.outer(before, k)
        after = v - S @ mixed
    np.testing.assert_allclose(guarantees.Facts(x).trace.drift[0, :, 0], drift, atol=1e-13)


def test_statistics_know_dependence_and_preferred_directions():
    facts = guarantees.Facts(generators.isotropic(T=2048))
    assert facts.tokens.dependence.max() < 5
    assert facts.tokens.anisotropy.max() < 5
    make = torch.Generator().manual_seed(0)
    walk = normalize(torch.randn(1, 2048, 1, 8, generator=make).cumsum(1), dim=-1)
    x = generators.isotropic(T=2048, K=8)
    drifting = dataclasses.replace(x, k=walk)
    assert guarantees.Facts(drifting).tokens.dependence.min() > 6
    bent = normalize(x.k * torch.linspace(1, 1.5, 8), dim=-1)
    assert guarantees.Facts(dataclasses.replace(x, k=bent)).tokens.anisotropy.min() > 6


def test_report_formats():
    report = guarantees.check(load_trained()[2])
    plain = json.loads(report.to_json(indent=2))
    assert plain["ok"] is report.ok is False
    assert set(plain["claims"]) == set(CLAIMS)
    assert plain["inputs"]["H"] == 4
    assert "text" not in plain["inputs"]
    for name, claim in plain["claims"].items():
        assert claim["verdict"] == report[name].verdict
        assert len(claim["verdicts"]) == len(claim["margins"]) == 4
        assert len(claim["tests"]) == len(report[name].findings)
    html = report._repr_html_()
    text = report.to_text(details=True)
    for name, guarantee in guarantees.GUARANTEES.items():
        assert f"<b>{name}</b> {guarantee.title}" in html
        assert f"\n{name} " in text or f"\n{name}:" in text
    assert "✓ holds" in html
    assert "– hypotheses not met" in html
    assert "tolerance 7.6e-06" in text
    assert len(text) > len(str(report))
    dataset = report.to_xarray()
    assert dataset.verdict.dims == dataset.margin.dims == dataset.hypotheses_met.dims == ("claim", "head")
    assert dataset.sizes == {"claim": 14, "head": 4}
    assert dataset.overall.sel(claim="G9") == UNMET
    assert not dataset.hypotheses_met.sel(claim="G9").any()
    assert float(dataset.margin.sel(claim="G6").min()) == report["G6"].margin
    assert repr(report).startswith("Report(trained q-delta")


def test_html_shows_no_markup_of_the_inputs():
    x = generators.isotropic(T=70).with_metadata(source="<script>alert(1)</script>")
    assert "<script>" not in guarantees.check(x)._repr_html_()


def test_words_at_a_token_are_the_checks_there():
    x = inputs(T=60, H=2, B=2)
    report = guarantees.check(x)
    margins = {}
    for batch in range(2):
        for head in range(2):
            for token in range(60):
                for statement in guarantees.at_token(report, token, head, batch):
                    margins.setdefault(statement.id, []).append(statement.margin)
                    assert statement.verdict == report[statement.id].verdicts[head]
    for name in ("G2", "G3", "G4", "G6", "G7"):
        assert min(margins[name]) == pytest.approx(report[name].margin, abs=1e-12)
    assert guarantees.at_token(guarantees.Facts(x), 5) == guarantees.at_token(report, 5)
    with pytest.raises(IndexError, match="token is 60; expected 0 to 59"):
        guarantees.at_token(report, 60)


def test_words_at_a_token_come_at_once():
    x = load_trained()[0].heads(2).to(torch.float64)
    facts = guarantees.Facts(x)
    guarantees.at_token(facts, 0)
    seconds = []
    for token in range(20):
        begin = time.perf_counter()
        guarantees.at_token(facts, token)
        seconds.append(time.perf_counter() - begin)
    assert min(seconds) < 5e-3


def test_proofs_come_from_the_symbolic_part():
    symbolic = pytest.importorskip("qdelta_analysis.symbolic")
    assert guarantees.GUARANTEES["G1"].prove() is symbolic.prove("G1")


def test_a_check_is_reproducible():
    x = inputs(T=150)
    assert guarantees.check(x, seed=3).to_json() == guarantees.check(x, seed=3).to_json()
