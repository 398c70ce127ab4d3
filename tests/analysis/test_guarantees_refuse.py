"""False claims are rejected, broken numbers noticed, and one bad token found."""

import dataclasses

import pytest

from qdelta_analysis import QDeltaInputs, Transition, generators, guarantees, load_trained
from qdelta_analysis.guarantees import facts as facts_module
from qdelta_analysis.guarantees import memory as memory_module
from qdelta_analysis.guarantees import samples as samples_module
from qdelta_analysis.guarantees import stretches as stretches_module
from qdelta_kernels import chunk_qdelta_rule

from .claims import HOLDS, UNMET, VIOLATED, unmet


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


WRONG = {
    (Transition, "alignment"): {"G1", "G3"},
    (Transition, "x"): {"G1"},
    (Transition, "matrix"): {"G1"},
    (Transition, "eigenvalues"): {"G1"},
    (Transition, "spectral_radius"): {"G2"},
    (Transition, "singular_values"): {"G3"},
    (Transition, "operator_norm"): {"G3", "G14"},
    (Transition, "norm_envelope"): {"G7"},
    (Transition, "cos"): {"G6"},
    (samples_module, "mean_square_growth"): {"G10"},
    (samples_module, "critical_beta"): {"G10"},
    (samples_module, "critical_lam"): {"G10"},
    (memory_module, "worst_growth"): {"G8"},
}


@pytest.mark.parametrize(("owner", "name"), WRONG, ids=lambda x: x if isinstance(x, str) else "")
@pytest.mark.parametrize("factor", [1.001, 0.999])
def test_a_wrong_closed_form_is_noticed(owner, name, factor, monkeypatch):
    right = getattr(owner, name)
    if isinstance(right, property):
        wrong = property(lambda self: factor * right.fget(self))
    else:
        wrong = lambda *arguments, **options: factor * right(*arguments, **options)
    x = generators.isotropic(beta=0.9, lam=0.8, K=8)
    assert VIOLATED not in guarantees.check(x).verdicts.values()
    monkeypatch.setattr(owner, name, wrong)
    found = guarantees.check(x).verdicts
    assert {claim for claim, verdict in found.items() if verdict == VIOLATED} >= WRONG[owner, name]


@pytest.mark.parametrize(
    "field", ["error_before", "error_after", "key_retrieval", "query_prediction", "cosine", "state_norm"]
)
def test_a_wrong_trace_is_noticed(field, monkeypatch):
    right = facts_module.chunk_qdelta_diagnostics

    def wrong(*arguments, **options):
        found = right(*arguments, **options)
        return dataclasses.replace(found, **{field: (1.01 if field == "cosine" else 1.0001) * getattr(found, field)})

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
        ("k", 1.1, "q, k in the unit ball", ("G6", "G7", "G8", "G9", "G12")),
        ("q", 1.1, "q, k in the unit ball", ("G6", "G7", "G8", "G9", "G12")),
        ("k", 1.1, "unit q, k", ("G10",)),
        ("q", 0.9, "unit q, k", ("G10",)),
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
