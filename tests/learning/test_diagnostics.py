"""What is watched while a model trains: the numbers are those of the definitions, and watching changes nothing."""

import math

import pytest
import torch

from qdelta_analysis import QDeltaInputs, capture, generators, trace
from qdelta_analysis.guarantees import GUARANTEES
from qdelta_analysis.learning import Corpus, LayerDiagnostics, TrainingConfig, diagnose, train
from qdelta_analysis.learning.diagnostics import diagnose_inputs, scalars

from .sizes import VARIANTS, model, tokens


def test_the_numbers_are_those_of_the_trace():
    net, ids = model(), tokens(2, 60)
    found = diagnose(net, ids)
    assert list(found) == [0, 1]
    for number, inputs in capture(net, ids).items():
        layer, followed = found[number], trace(inputs, snapshots=0)
        assert layer.beta_a == pytest.approx(float(followed.beta_alignment.mean()))
        assert layer.beta_a_min == pytest.approx(float(followed.beta_alignment.min()))
        assert layer.cosine == pytest.approx(float(followed.cosine.mean()))
        assert layer.state_norm_max == pytest.approx(float(followed.state_norm.max()))
        assert layer.lam == pytest.approx(float(inputs.lam.mean()))
        assert set(layer.outside) == set(GUARANTEES)
    flat = scalars(found)
    assert flat["layer1/outside/G6"] == found[1].outside["G6"]
    assert len(flat) == 2 * (9 + len(GUARANTEES))
    assert all(math.isfinite(value) for value in flat.values())


def by_hand(q, k, v, g, beta, lam) -> LayerDiagnostics:
    return diagnose_inputs(QDeltaInputs(q, k, v, g, beta, lam))


def test_shares_count_the_tokens_at_which_a_hypothesis_fails():
    inputs = generators.isotropic(T=10, K=4, V=4, H=2)
    beta = inputs.beta.clone().clamp(max=0.9)
    beta[0, :3, 0] = 1.5  # three of twenty leave the box
    q = inputs.q.clone()
    q[0, 2:6, 0] *= 1.1  # four are no unit vectors, one of them a token of those three
    found = by_hand(q, inputs.k, inputs.v, inputs.g, beta, inputs.lam)
    assert found.outside["G6"] == pytest.approx(6 / 20)
    assert found.outside["G7"] == pytest.approx(6 / 20)
    assert found.outside["G1"] == 0
    # A decay that outweighs sqrt(1 + lam^2) in one head bounds that head's memory, and leaves the other's open.
    g = torch.full_like(inputs.g, -0.01)
    g[..., 1] = -1.0
    bounded = by_hand(inputs.q, inputs.k, inputs.v, g, inputs.beta.clamp(max=1), inputs.lam.clamp(max=1))
    assert bounded.outside["G9"] == 0.5
    assert bounded.outside["G11"] == 1  # ten tokens are too few to say


def test_the_two_token_cycle_shows_as_growth():
    found = diagnose_inputs(generators.two_token_cycle(lam=1.0))
    assert found.beta_a == pytest.approx(1)
    assert found.operator_norm_max == pytest.approx(2**0.5)
    assert found.state_norm_max > 1e3
    assert found.outside["G4"] == 0
    assert found.outside["G9"] == 1


def test_a_watched_run_trains_to_the_same_weights():
    text = tokens(2000, vocabulary=256)
    corpus = Corpus(text, text[:200])
    config = TrainingConfig(steps=3, batch=2, length=32)
    nets = [model(vocabulary=256) for _ in range(2)]
    diagnose(nets[1].train(), text[None, :50])
    state = torch.random.get_rng_state()
    diagnose(nets[1], text[None, :50], layers=[1])
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(p.grad is None for p in nets[1].parameters())
    assert nets[1].training
    losses = [train(net, config, corpus, 0, progress=False) for net in nets]
    assert losses[0] == losses[1]


def test_what_cannot_be_watched_is_refused():
    with pytest.raises(ValueError, match="the layer's rule is 'linear-attention'"):
        diagnose(model(VARIANTS["linear-attention"]), tokens(1, 5))
    empty = generators.isotropic(T=1).tokens(0, 0)
    with pytest.raises(ValueError, match="inputs has no tokens; expected at least one"):
        diagnose_inputs(empty)
