"""The layer, the language model and the training loop."""

import math

import pytest
import torch
import torch.nn.functional as F

from qdelta_analysis.learning import (
    RULES,
    Corpus,
    LanguageModel,
    LayerConfig,
    ModelConfig,
    QDeltaLayer,
    TrainingConfig,
    evaluate,
    train,
)
from qdelta_analysis.learning.corpus import split_text, to_tokens
from qdelta_analysis.learning.model import Block
from qdelta_analysis.learning.training import first_nonfinite, round_to_half

SHARED = {
    "q_proj.weight", "k_proj.weight", "v_proj.weight", "b_proj.weight", "g_proj.weight", "o_proj.weight",
    "q_conv1d.weight", "k_conv1d.weight", "v_conv1d.weight", "o_norm.weight",
}  # fmt: skip
DECAY = {"a_proj.weight", "A_log", "dt_bias"}
NAMES = {
    "q-delta": SHARED | DECAY | {"lamb_proj.weight"},
    "gated-deltanet": SHARED | DECAY,
    "deltanet": SHARED,
    "linear-attention": SHARED - {"b_proj.weight"},
}
SMALL = LayerConfig(hidden_size=24, heads=2, key_dim=8, value_dim=12, chunk_size=16)


def small(rule="q-delta") -> LayerConfig:
    return LayerConfig(**{**vars(SMALL), "rule": rule})


def tiny_model(rule="q-delta", seed=0) -> LanguageModel:
    return LanguageModel(ModelConfig(small(rule), layers=2, mlp_size=32), seed)


def noise(*shape, seed=0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(autouse=True)
def one_thread():
    """Tensors this small gain nothing from a second thread, and lose much where another process has the core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    text = b"the key is read before the value is written; " * 60
    return Corpus(to_tokens(text[:2000]), to_tokens(text[2000:]))


@pytest.mark.parametrize("rule", RULES)
def test_layer_has_the_papers_parameters(rule):
    assert {name for name, _ in QDeltaLayer(small(rule)).named_parameters()} == NAMES[rule]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("length", [1, 3, 63, 100])
def test_layer_keeps_the_shape_and_feeds_the_rule_what_theory_needs(rule, length):
    layer = QDeltaLayer(small(rule))
    x = noise(2, length, 24)
    inputs = layer.rule_inputs(x)
    assert layer(x).shape == x.shape
    assert inputs.q.shape == inputs.k.shape == (2, length, 2, 8)
    assert inputs.v.shape == (2, length, 2, 12)
    for unit in (inputs.q, inputs.k):
        assert torch.allclose(unit.norm(dim=-1), torch.ones(2, length, 2), atol=1e-6, rtol=0)
    assert (inputs.beta is None) == (rule == "linear-attention")
    assert (inputs.lam is None) == (rule != "q-delta")
    assert (inputs.g is None) == (rule in ("deltanet", "linear-attention"))
    if inputs.beta is not None:
        assert 0 < inputs.beta.min() <= inputs.beta.max() < 1
    if inputs.g is not None:
        assert inputs.g.max() < 0


def test_gates_follow_their_equations():
    layer, x = QDeltaLayer(SMALL), noise(1, 40, 24)
    inputs = layer.rule_inputs(x)
    rate = layer.A_log.exp() * F.softplus(x @ layer.a_proj.weight.T + layer.dt_bias)
    torch.testing.assert_close(inputs.g, -rate)
    torch.testing.assert_close(inputs.beta, torch.sigmoid(x @ layer.b_proj.weight.T))
    torch.testing.assert_close(inputs.lam, torch.sigmoid(x @ layer.lamb_proj.weight.T - 0.9))
    with torch.no_grad():
        layer.lamb_proj.weight.zero_()
    start = layer.rule_inputs(x).lam
    assert start is not None
    assert math.isclose(start.mean().item(), 0.289, abs_tol=1e-3)


def test_short_convolution_is_the_sum_over_the_last_tokens():
    conv, x = QDeltaLayer(SMALL).v_conv1d, noise(2, 9, 24)
    padded = F.pad(x, (0, 0, 3, 0))
    expected = sum(padded[:, i : i + 9] * conv.weight[:, 0, i] for i in range(4))
    torch.testing.assert_close(conv(x), F.silu(torch.as_tensor(expected)))


def test_layer_is_the_recurrence_token_by_token():
    layer, x = QDeltaLayer(SMALL).double(), noise(1, 50, 24).double()
    q, k, v, g, beta, lam = layer.rule_inputs(x)
    assert g is not None
    assert lam is not None
    S = torch.zeros(2, 12, 8, dtype=torch.float64)
    reads = []
    for t in range(50):
        mixed = k[0, t] + lam[0, t, :, None] * q[0, t]
        S = g[0, t].exp()[:, None, None] * S
        error = v[0, t] - torch.einsum("hvk,hk->hv", S, mixed)
        S = S + torch.einsum("h,hv,hk->hvk", beta[0, t], error, k[0, t])
        reads.append(torch.einsum("hvk,hk->hv", S, q[0, t]) * 8**-0.5)
    o = torch.stack(reads)[None]
    o = o * torch.rsqrt(o.square().mean(-1, keepdim=True) + 1e-5) * layer.o_norm.weight
    gate = F.silu(layer.g_proj(x)).unflatten(-1, (2, 12))
    torch.testing.assert_close(layer(x), layer.o_proj((o * gate).flatten(-2)), rtol=1e-10, atol=1e-12)


def test_without_query_feedback_it_is_gated_deltanet():
    feedback, plain, x = QDeltaLayer(SMALL), QDeltaLayer(small("gated-deltanet")), noise(2, 70, 24)
    for name, value in plain.named_parameters():
        assert torch.equal(value, feedback.get_parameter(name)), name
    assert not torch.allclose(feedback(x), plain(x), atol=1e-4)
    feedback.config = LayerConfig(**{**vars(SMALL), "lam_offset": 1e4})  # lam = sigmoid(-1e4) = 0
    assert torch.equal(feedback(x), plain(x))


def test_without_decay_too_it_is_deltanet():
    decaying, plain, x = (
        QDeltaLayer(small("gated-deltanet")),
        QDeltaLayer(small("deltanet")),
        noise(2, 70, 24),
    )
    with torch.no_grad():
        decaying.A_log.fill_(-torch.inf)
    assert torch.equal(decaying(x), plain(x))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("changed", [0, 17, 63, 64, 99])
def test_a_token_changes_nothing_before_itself(rule, changed):
    model = tiny_model(rule)
    tokens = to_tokens(bytes(range(100)))[None]
    other = tokens.clone()
    other[0, changed] = 200
    before, after = model(tokens)[0], model(other)[0]
    assert torch.equal(before[:changed], after[:changed])
    assert not torch.equal(before[changed], after[changed])


def test_capture_gives_what_each_layer_fed_to_the_rule():
    model = tiny_model()
    tokens = to_tokens(b"a small model reads a small text")[None]
    seen = []
    for block in model.blocks:
        assert isinstance(block, Block)
        block.mixer.register_forward_pre_hook(lambda layer, args: seen.append((layer, args[0])))
    model(tokens)
    fed = [layer.rule_inputs(x) for layer, x in seen]
    captured = model.capture(tokens, {"seed": "0"})
    assert len(captured) == len(fed) == 2
    for number, (inputs, expected) in enumerate(zip(captured, fed, strict=True)):
        for name, value in expected._asdict().items():
            assert torch.equal(getattr(inputs, name), value), name
        assert inputs.metadata["layer"] == str(number)
        assert (inputs.metadata["rule"], inputs.metadata["seed"]) == ("q-delta", "0")


@pytest.mark.parametrize("rule", RULES)
def test_training_learns_and_repeats_bit_for_bit(rule, corpus):
    config = TrainingConfig(steps=20, batch=4, length=64, learning_rate=1e-2, warmup=5)
    models = [tiny_model(rule, seed=3) for _ in range(2)]
    losses = [train(model, config, corpus, seed=3, progress=False) for model in models]
    assert losses[0] == losses[1]
    for (name, a), b in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        assert torch.equal(a, b), name
    assert losses[0][0] > 7
    assert losses[0][-1] < 0.6 * losses[0][0]


def test_another_seed_gives_another_run(corpus):
    config = TrainingConfig(steps=1, batch=2, length=32)
    first, second = (train(tiny_model(seed=s), config, corpus, s, progress=False) for s in (0, 1))
    assert first != second


def test_a_text_shorter_than_a_window_is_refused(corpus):
    with pytest.raises(ValueError, match=r"corpus\.training has 2000 bytes; expected more than a window, 2000"):
        train(tiny_model(), TrainingConfig(length=2000), corpus, seed=0, progress=False)


def test_learning_rate_warms_up_and_falls_to_zero():
    config = TrainingConfig(steps=100, learning_rate=1.0, warmup=10)
    rates = [config.rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == pytest.approx(1.0)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 1e-3


@pytest.mark.parametrize("name", ["blocks.1.mixer.k_proj.weight", "head.weight", "blocks.0.mixer.A_log"])
def test_a_nan_stops_training_with_step_and_name(name, corpus):
    model = tiny_model()
    with torch.no_grad():
        model.get_parameter(name).view(-1)[0] = torch.nan
    with pytest.raises(FloatingPointError, match=f"step 0: the parameter {name} is not finite"):
        train(model, TrainingConfig(steps=2, batch=2, length=32), corpus, seed=0, progress=False)


def test_a_value_that_overflows_is_named_where_it_arises(corpus):
    model = tiny_model()
    with torch.no_grad():
        model.get_parameter("blocks.1.mlp.gate_up.weight").fill_(3e38)
    tokens = corpus.training[None, :20]
    assert first_nonfinite(model, tokens) == "the output of blocks.1.mlp.gate_up"
    with pytest.raises(FloatingPointError, match=r"the output of blocks\.1\.mlp\.gate_up"):
        train(model, TrainingConfig(steps=1, batch=2, length=32), corpus, seed=0, progress=False)


@pytest.mark.parametrize("length", [2, 9, 16, 17, 24, 31, 40, 41, 100])
def test_evaluate_scores_every_byte_but_the_first_once(length):
    model, tokens, window = tiny_model(), to_tokens(bytes(range(1, 101)))[:length], 16
    expected = 0.0
    for t in range(1, length):
        start = 0 if t < window else (t - window // 2) // (window // 2) * (window // 2)
        logits = model(tokens[None, start:t])[0, -1].double()
        expected -= torch.log_softmax(logits, -1)[tokens[t]].item() / math.log(2)
    assert evaluate(model, tokens, window, batch=2) == pytest.approx(expected / (length - 1), rel=1e-5)


def test_evaluate_refuses_what_it_cannot_measure():
    model = tiny_model()
    with pytest.raises(ValueError, match="window is 15; expected an even number"):
        evaluate(model, to_tokens(b"text"), window=15)
    with pytest.raises(ValueError, match=r"tokens has shape \[1\]; expected a vector of at least 2 bytes"):
        evaluate(model, to_tokens(b"t"))


def test_round_to_half_leaves_float16_values():
    model = tiny_model()
    round_to_half(model)
    assert all(torch.equal(p, p.half().float()) for p in model.parameters())


def test_the_split_measures_no_paragraph_that_was_learnt():
    text = b"\n\n".join(b"paragraph %d" % (i % 45) for i in range(50)) + b"\n\n"
    training, held_out = split_text(text)
    assert held_out == text[-len(held_out) :]
    assert 0.05 < len(held_out) / len(text) <= 0.1
    assert not set(training.split(b"\n\n")) & (set(held_out.split(b"\n\n")) - {b""})
    assert b"paragraph 30" in training


@pytest.mark.usefixtures("as_users_call")
def test_bad_settings_are_refused_by_name():
    with pytest.raises(ValueError, match="rule is 'mamba'; expected one of 'q-delta', 'gated-deltanet', 'deltanet'"):
        LayerConfig(rule="mamba")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="heads is 0; expected a whole number of at least 1"):
        LayerConfig(heads=0)
