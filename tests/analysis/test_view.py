"""The explorer's numbers and words without a browser."""

import dataclasses

import numpy as np
import pytest
import torch

from qdelta_analysis import generators, guarantees, trace
from qdelta_analysis.view import SOURCES, Gate, Settings, gated_deltanet_outputs, outputs, view
from qdelta_kernels import qdelta_rule_reference
from tests.helpers import relative_error

FIXED = {"lam": Gate(0.5), "beta": Gate(0.5), "alpha": Gate(0.99)}


def settings_of(source: str) -> Settings:
    return Settings() if source == SOURCES[0] else Settings(source=source, **FIXED)


@pytest.mark.parametrize("source", SOURCES)
def test_a_view_is_the_trace(source):
    inputs = settings_of(source).inputs()
    v, dataset = view(inputs), trace(inputs, snapshots=[0, inputs.T // 3, inputs.T - 1])
    for name in ("error_before", "error_after", "state_norm", "operator_norm", "beta_alignment"):
        np.testing.assert_allclose(getattr(v, name), dataset[name][0, :, 0], rtol=1e-9, atol=1e-9)
    for token in dataset.snapshot.values.tolist():
        exact = dataset.state.sel(snapshot=token)[0, 0]
        np.testing.assert_allclose(v.state(token), exact, atol=1e-9 * np.abs(exact).max())
        np.testing.assert_allclose(
            v.singular_values(token), dataset.singular_values.sel(snapshot=token)[0, 0], atol=1e-9 * np.abs(exact).max()
        )
    moved = np.linalg.eigvals(inputs.transition().matrix()[0, 5, 0])
    np.testing.assert_allclose(sorted({*v.eigenvalues(5)}), [moved.real.min(), moved.real.max()], atol=1e-7)


CHANGES = [
    {},
    {"lam": Gate(0.25), "layer": 2, "head": 1},
    {"lam": Gate(1.5, scales=True), "beta": Gate(0.8, scales=True), "alpha": Gate(2.0, scales=True)},
    {"beta": Gate(0.3), "alpha": Gate(0.9)},
    {"source": "cone", "cos": -0.25, **FIXED},
    {"source": "two-token cycle", **FIXED},
    {"source": "isotropic", **FIXED},
    {"source": "repeated keys", **FIXED},
]


@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_copied_code_makes_the_same_trace(changes):
    settings = dataclasses.replace(Settings(), **changes)
    names: dict = {}
    exec(settings.code(), names)
    v = view(settings.inputs())
    for name in ("error_before", "state_norm"):
        value = names["dataset"][name].values[0, : v.T, 0]
        np.testing.assert_allclose(value, getattr(v, name), rtol=2e-3, atol=1e-4)
    for name in ("q", "k", "beta", "lam", "g"):
        assert relative_error(getattr(names["inputs"], name), getattr(settings.inputs(), name)) < 1e-5


@pytest.mark.parametrize("source", SOURCES)
def test_without_feedback_the_outputs_are_gated_deltanet_s(source):
    settings = dataclasses.replace(settings_of(source), lam=Gate(0.0, scales=source == SOURCES[0]))
    inputs = settings.inputs()
    gated = gated_deltanet_outputs(inputs)
    assert relative_error(outputs(inputs), gated) < 1e-12
    reference = qdelta_rule_reference(**{**inputs.tokens(0, min(100, inputs.T)).arguments(), "lam": None})[0]
    assert relative_error(gated[:, :100], reference) < 1e-12
    assert relative_error(outputs(settings_of(source).inputs()), gated) > 1e-3


def test_a_memory_that_outgrows_float32_is_shown_up_to_there():
    v = view(generators.two_token_cycle(T=400, lam=1.0, K=4, V=4))
    assert 190 < v.T < 210  # sqrt(2) a token reaches 1e30 after about 199 tokens
    assert v.asked == 400
    assert np.isfinite(v.state(v.T - 1)).all()
    assert v.state_norm.max() < 1e30 < v.state_norm.max() * 1.5


def words(inputs, token=0) -> dict[str, guarantees.TokenStatement]:
    return {s.id: s for s in guarantees.at_token(view(inputs).facts, token)}


def unmet(inputs) -> set[str]:
    found = words(inputs)
    assert {s.verdict for s in found.values()} <= {"holds", "hypotheses not met"}  # nothing proved is violated
    return {name for name, s in found.items() if s.verdict != "holds"}


def test_the_words_name_what_holds_and_what_does_not():
    cycle = words(generators.two_token_cycle(lam=1.0))
    assert {name for name, s in cycle.items() if s.verdict != "holds"} == {"G9"}
    assert "‖A‖ = 1.414, 1.414 times α = 1.000: some memories grow in this step" in cycle["G3"].sentence
    assert "grows by γ a token" in cycle["G9"].sentence
    assert cycle["G9"].margin == pytest.approx(1 - 2**0.5)
    assert unmet(generators.two_token_cycle(lam=1.0, alpha=0.7)) == set()
    gated = generators.isotropic(lam=0.0, alpha=0.99)
    assert unmet(gated) == set()
    assert "no memory grows in this step" in words(gated)["G3"].sentence
    assert unmet(generators.isotropic(beta=0.0, alpha=0.5)) == {"G4"}
    beyond = generators.cone(cos=1.0, beta=1.5, lam=1.0)
    assert unmet(beyond) == {"G2", "G4", "G6", "G7", "G9"}
    assert "βa = 3 is outside (0, 2)" in words(beyond)["G4"].sentence
    assert "inside at 0 of the head's 256 tokens" in words(beyond)["G4"].sentence
    x = generators.isotropic()
    longer = words(dataclasses.replace(x, k=2 * x.k))
    assert longer["G6"].verdict == "hypotheses not met"
    assert "q or k is longer than 1" in longer["G6"].sentence


def test_margins_at_a_token_are_those_of_the_trace():
    inputs = Settings().inputs()
    v, dataset = view(inputs), trace(inputs, 0)
    for token in (0, 366, 1023):
        at = {name: float(dataset[name][0, token, 0]) for name in ("beta_alignment", "operator_norm")}
        found = {s.id: s.margin for s in guarantees.at_token(v.facts, token)}
        assert found["G4"] == pytest.approx(1 - abs(1 - at["beta_alignment"]))
        assert found["G3"] == pytest.approx(at["operator_norm"] / v.alpha[token] - 1, abs=1e-12)
        assert found["G14"] == pytest.approx(np.log(at["operator_norm"] / v.alpha[token]), abs=1e-12)
        envelope = v.alpha[token] * np.sqrt(1 + v.lam[token] ** 2)
        assert found["G7"] == pytest.approx(envelope - at["operator_norm"], abs=1e-12)
        q, k = inputs.q[0, token, 0].numpy(), inputs.k[0, token, 0].numpy()
        assert v.cos[token] == pytest.approx(q @ k / np.linalg.norm(q) / np.linalg.norm(k))


def test_words_agree_with_the_memory():
    """Where the bound is said to hold, the memory never leaves it."""
    for source in SOURCES[1:]:
        settings = dataclasses.replace(settings_of(source), alpha=Gate(0.8))
        inputs = settings.inputs()
        v = view(inputs)
        assert words(inputs)["G9"].verdict == "holds"
        gamma = 0.8 * (1 + 0.5**2) ** 0.5
        assert words(inputs)["G9"].margin == pytest.approx(1 - gamma)
        assert v.state_norm.max() <= inputs.beta.max() * inputs.v.norm(dim=-1).max() / (1 - gamma) + 1e-12


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"source": "nothing"}, "source is 'nothing'; expected one of trained model, isotropic"),
        ({"layer": 7}, "layer is 7; expected 0 to 2"),
        ({"head": 4}, "head is 4; expected 0 to 3"),
        ({"lam": Gate(9.0)}, r"lam has values in \[9, 9\]"),
        ({"alpha": Gate(0.0)}, "alpha is as low as 0"),
    ],
)
def test_settings_that_are_not_there(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        dataclasses.replace(Settings(), **changes).inputs()


def test_more_than_one_head_is_no_view():
    with pytest.raises(ValueError, match="inputs have B = 1 and 2 heads; expected one sequence and one head"):
        view(generators.isotropic(T=5, H=2))


def test_one_thread_is_given_back():
    threads = torch.get_num_threads()
    view(generators.isotropic(T=5))
    assert torch.get_num_threads() == threads
