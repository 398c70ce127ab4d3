"""capture() and record(): what real models' layers feed to the recurrence, and that nothing else changes."""

import copy
import gc
import sys
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import (
    OlmoHybridConfig,
    OlmoHybridForCausalLM,
    Qwen3_5ForCausalLM,
    Qwen3_5TextConfig,
    Qwen3NextConfig,
    Qwen3NextForCausalLM,
)

from qdelta_analysis import QDeltaInputs, capture
from qdelta_analysis.capturing import CaptureMismatchError, find_layers, record
from qdelta_analysis.learning import PAPER, LanguageModel, QDeltaForCausalLM
from qdelta_analysis.threads import one_thread
from qdelta_kernels import qdelta_rule_reference
from tests.helpers import relative_error
from tests.learning.sizes import VARIANTS, model, tokens

from . import stand_ins
from .stand_ins import AttributeLayer, FlaLayer, VectorDecayLayer

SIZES = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "intermediate_size": 48,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 12,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": None,
}
CLASSES = {
    "qwen3_next": (Qwen3NextConfig, Qwen3NextForCausalLM, {"num_experts": 0}),
    "qwen3_5": (Qwen3_5TextConfig, Qwen3_5ForCausalLM, {}),
    "olmo_hybrid": (OlmoHybridConfig, OlmoHybridForCausalLM, {"linear_allow_neg_eigval": True}),
}
NAMES = ("torch_chunk_gated_delta_rule", "torch_recurrent_gated_delta_rule")


@pytest.fixture(autouse=True)
def _one_thread():
    with one_thread():
        yield


def peer(kind: str) -> nn.Module:
    config, model_class, options = CLASSES[kind]
    torch.manual_seed(0)
    made = model_class(config(**SIZES, **options)).eval()
    with torch.no_grad():  # wide enough that gates and directions differ from token to token
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return made


@pytest.fixture(scope="module", params=CLASSES)
def hub(request) -> nn.Module:
    return peer(request.param)


def linear_layers(hub: nn.Module) -> list[nn.Module]:
    return [layer.linear_attn for layer in hub.model.layers if hasattr(layer, "linear_attn")]


def everything(hub: nn.Module) -> list:
    """What capture might leave changed: functions, hooks, attributes, weights."""
    module = sys.modules[type(hub).__module__]
    found = [getattr(module, name, None) for name in NAMES]
    for layer in hub.modules():
        found += [len(layer._forward_hooks), len(layer._forward_pre_hooks), sorted(layer.__dict__)]
    return [*found, hub.training]


def test_what_is_captured_is_what_the_layer_computes(hub):
    """Against the layer's own weights: projections, convolution, norms and gates, once more, by hand."""
    ids, seen = tokens(2, 70), {}
    hooks = [
        layer.register_forward_pre_hook(
            lambda module, args, kwargs, n=n: seen.__setitem__(n, kwargs["hidden_states"]), with_kwargs=True
        )
        for n, layer in zip((0, 2), linear_layers(hub), strict=True)
    ]
    captured = capture(hub, ids)
    for hook in hooks:
        hook.remove()
    assert list(captured) == [0, 2]
    for n, layer in zip((0, 2), linear_layers(hub), strict=True):
        x, inputs = seen[n], captured[n]
        if hasattr(layer, "in_proj_qkvz"):
            q, k, v, _, b, a = layer.fix_query_key_value_ordering(layer.in_proj_qkvz(x), layer.in_proj_ba(x))
            mixed = torch.cat([y.reshape(2, 70, -1) for y in (q, k, v)], -1)
        elif hasattr(layer, "in_proj_qkv"):
            mixed, b, a = layer.in_proj_qkv(x), layer.in_proj_b(x), layer.in_proj_a(x)
        else:
            mixed = torch.cat([layer.q_proj(x), layer.k_proj(x), layer.v_proj(x)], -1)
            b, a = layer.b_proj(x), layer.a_proj(x)
        padded = F.pad(mixed, (0, 0, 3, 0))
        mixed = F.silu(sum(padded[:, i : i + 70] * layer.conv1d.weight[:, 0, i] for i in range(4)))
        q, k, v = mixed.split([16, 16, 48], -1)
        for name, y in (("q", q), ("k", k)):
            y = y.unflatten(-1, (2, 8))
            unit = y / (y.square().sum(-1, keepdim=True) + 1e-6).sqrt()
            torch.testing.assert_close(getattr(inputs, name), unit, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(inputs.v, v.unflatten(-1, (4, 12)), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(inputs.g, -layer.A_log.exp() * F.softplus(a + layer.dt_bias), rtol=1e-5, atol=1e-6)
        largest = 2 if "Olmo" in type(hub).__name__ else 1
        torch.testing.assert_close(inputs.beta, largest * b.sigmoid(), rtol=1e-5, atol=1e-6)
        assert not inputs.lam.any()
        assert inputs.metadata["source"] == type(hub).__name__
        assert (inputs.metadata["layer"], inputs.metadata["rule"]) == (str(n), "gated-deltanet")
        assert float(inputs.metadata["replay_error"]) < 1e-5


def test_the_recurrence_on_what_is_captured_is_the_layers_output(hub):
    ids, outputs = tokens(1, 66), []
    (layer, *_) = linear_layers(hub)
    norm = layer.o_norm if hasattr(layer, "o_norm") else layer.norm
    hook = norm.register_forward_pre_hook(lambda module, args: outputs.append(args[0]))
    inputs = capture(hub, ids, layers=0)[0].to(torch.float64)
    hook.remove()
    o, _ = qdelta_rule_reference(**inputs.arguments())
    assert relative_error(o.flatten(0, 2), outputs[0]) < 1e-5


def test_a_model_is_left_as_it_was_also_after_an_exception(hub):
    ids = tokens(2, 20)
    before, logits = everything(hub), hub(ids).logits
    capture(hub, ids)
    assert everything(hub) == before
    with pytest.raises(IndexError):
        capture(hub, ids + 50)  # the embedding has no such tokens
    assert everything(hub) == before
    with pytest.raises(CaptureMismatchError):
        capture(hub, ids, tolerance=0.0)
    assert everything(hub) == before
    with pytest.raises(IndexError), record(hub):
        hub(ids + 50)
    assert everything(hub) == before
    assert torch.equal(hub(ids).logits, logits)


@pytest.mark.parametrize("wrong", ["scaled", "heads swapped", "one token", "not a number"])
def test_an_output_that_the_inputs_do_not_give_is_an_error(hub, wrong, monkeypatch):
    module = sys.modules[type(hub).__module__]
    right = getattr(module, NAMES[0])

    def broken(*args, **kwargs):
        o, state = right(*args, **kwargs)
        o = o.clone()
        if wrong == "scaled":
            o[:, :, 2] *= 1.001
        elif wrong == "heads swapped":
            o = o[:, :, [0, 1, 3, 2]]
        elif wrong == "one token":
            o[0, 50, 2] += o[0, :, 2].norm() * 0.01
        else:
            o[0, 3, 2, 1] = torch.nan
        return o, state

    broken.__wrapped__ = right
    monkeypatch.setattr(module, NAMES[0], broken)
    with pytest.raises(CaptureMismatchError, match=r"layer 0, head [23], .*differs from the model's own output"):
        capture(hub, tokens(2, 60))
    assert getattr(module, NAMES[0]) is broken


def test_inputs_read_wrongly_are_an_error(hub, monkeypatch):
    from qdelta_analysis.capturing import sites

    def forgetful(function, args, kwargs):
        call = right(function, args, kwargs)
        object.__setattr__(call, "l2norm_qk", False)
        return call

    right = sites.read_call
    monkeypatch.setattr(sites, "read_call", forgetful)
    with pytest.raises(CaptureMismatchError, match="layer 0, head"):
        capture(hub, tokens(1, 30))


def test_layers_heads_and_tokens_are_chosen(hub):
    ids = tokens(2, 50)
    whole = capture(hub, ids)
    some = capture(hub, ids, layers=[2], heads=[3, 1], tokens=slice(20, 30), metadata={"text": "none"})
    assert list(some) == [2]
    part = some[2]
    assert (part.B, part.T, part.H) == (2, 10, 2)
    assert part.metadata["text"] == "none"
    expected = whole[2].heads([3, 1])
    assert torch.equal(part.v, expected.v[:, 20:30])
    o, _ = qdelta_rule_reference(**part.arguments())
    assert relative_error(o, qdelta_rule_reference(**expected.arguments())[0][:, 20:30]) < 1e-5
    assert capture(hub, ids, layers=0, heads=2, tokens=range(5))[0].v.shape == (2, 5, 1, 12)
    assert capture(hub, ids, layers=0, heads=slice(1, 3))[0].H == 2


def test_decoding_is_recorded_step_by_step_with_its_states(hub):
    ids = tokens(2, 9)
    with record(hub, layers=2) as recording:
        full = hub.generate(ids, max_new_tokens=5, do_sample=False)
    calls = recording.calls[2]
    assert [call.q.shape[1] for call, _ in calls] == [9, 1, 1, 1, 1]
    whole = capture(hub, full[:, :-1], layers=2)[2]
    state = None
    for number, (_, o) in enumerate(calls):
        inputs = recording.inputs(2, number)
        assert (inputs.initial_state is None) == (state is None)
        if state is not None:
            assert relative_error(inputs.initial_state, state) < 1e-5
        expected, state = qdelta_rule_reference(**inputs.arguments(), output_final_state=True)
        assert relative_error(o, expected) < 1e-5
    together = torch.cat([recording.inputs(2, n).v for n in range(5)], 1)
    assert relative_error(together, whole.v) < 1e-5


def test_only_the_chosen_model_is_recorded(hub):
    other = peer(next(kind for kind, (_, made, _) in CLASSES.items() if made is type(hub)))
    with record(hub, layers=[0]) as recording:
        other(tokens(1, 8))
        assert recording.calls == {}
        hub(tokens(1, 8))
        with record(other) as inner:
            other(tokens(1, 5))
            hub(tokens(1, 6))
    assert {n: [c.q.shape[1] for c, _ in calls] for n, calls in recording.calls.items()} == {0: [8, 6]}
    assert {n: [c.q.shape[1] for c, _ in calls] for n, calls in inner.calls.items()} == {0: [5], 2: [5]}


def test_a_copy_made_while_recording_is_another_model():
    made = model()
    with record(made) as recording:
        copy.deepcopy(made)(tokens(1, 5))
        assert recording.calls == {}
        made(tokens(1, 5))
    assert set(recording.calls) == {0, 1}


def test_a_captured_model_is_freed_at_once():
    made = model()
    capture(made, tokens(1, 5))
    gone = weakref.ref(made)
    gc.disable()
    try:
        del made
        assert gone() is None
    finally:
        gc.enable()


def test_padding_is_captured_as_the_layer_has_it(hub):
    mask = torch.ones(2, 12, dtype=torch.long)
    mask[0, :5] = 0
    inputs = capture(hub, tokens(2, 12), layers=0, attention_mask=mask)[0]
    assert not inputs.v[0, :5].any()
    alone = capture(hub, tokens(2, 12)[:1, 5:], layers=0)[0]
    assert relative_error(inputs.v[:1, 5:], alone.v) < 1e-5


def test_half_precision_is_compared_as_that():
    hub = peer("qwen3_5").bfloat16()
    inputs = capture(hub, tokens(1, 100))[0]
    assert inputs.v.dtype == torch.float32
    assert 1e-5 < float(inputs.metadata["replay_error"]) < 3e-2


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_models_of_this_project(config):
    net, ids = model(config), tokens(2, 40)
    before = everything(net)
    if config.rule == "linear-attention":
        with pytest.raises(ValueError, match="the layer's rule is 'linear-attention'; expected a delta rule"):
            capture(net, ids)
    else:
        for wrapped in (net, QDeltaForCausalLM.from_model(net)):
            captured = capture(wrapped, ids, tolerance=1e-5)
            assert list(captured) == [0, 1]
            for n, inputs in captured.items():
                assert isinstance(inputs, QDeltaInputs)
                assert inputs.metadata["rule"] == config.rule
                assert relative_error(inputs.beta, net.capture(ids)[n].beta) == 0
    assert everything(net) == before


def test_padded_rows_of_this_projects_models_end_in_tokens_that_change_nothing():
    net, ids = model(), tokens(2, 10)
    mask = torch.tensor([[0] * 4 + [1] * 6, [1] * 8 + [0] * 2])
    inputs = capture(net, ids, mask=mask)[1]
    assert inputs.v.shape[:2] == (2, 8)
    for row, part in enumerate((ids[:1, 4:], ids[1:, :8])):
        alone, T = capture(net, part)[1], part.shape[1]
        assert relative_error(inputs.v[row : row + 1, :T], alone.v) < 1e-5
        assert not inputs.beta[row, T:].any()
        assert not inputs.g[row, T:].any()


@pytest.mark.parametrize("mode", ["chunk", "fused_recurrent"])
@pytest.mark.parametrize("padded", [False, True])
def test_layers_that_leave_gates_norms_and_layout_to_the_kernel(mode, padded):
    torch.manual_seed(0)
    layer, x = FlaLayer(layer_idx=7), torch.randn(2, 15, 16)
    layer.mode = mode
    mask = torch.tensor([[0] * 3 + [1] * 12, [1] * 15]) if padded else None
    before = everything(layer), stand_ins.chunk_gated_delta_rule, stand_ins.fused_recurrent_gated_delta_rule
    (inputs,) = capture(layer, x, attention_mask=mask).values()
    assert find_layers(layer)[7].layer is layer
    assert (inputs.metadata["layer"], inputs.H, inputs.q.shape[2]) == ("7", 4, 2)
    assert before == (everything(layer), stand_ins.chunk_gated_delta_rule, stand_ins.fused_recurrent_gated_delta_rule)
    real = x[0, 3:] if padded else x[0]
    g = -layer.A_log.exp() * F.softplus(layer.a_proj(real) + layer.dt_bias)
    torch.testing.assert_close(inputs.g[0, : len(real)], g, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(inputs.beta[0, : len(real)], 2 * layer.b_proj(real).sigmoid(), rtol=1e-5, atol=1e-6)
    assert inputs.beta.max() > 1
    with record(layer) as recording:
        _, state = layer(x[:, :9], use_cache=True)
        layer(x[:, 9:], state=state, use_cache=True)
    later = recording.inputs(7, 1)
    assert later.initial_state.shape == (2, 4, 8, 6)
    torch.testing.assert_close(later.initial_state, state.mT)
    o, _ = qdelta_rule_reference(**later.arguments())
    whole, _ = layer(x, use_cache=True)
    torch.testing.assert_close(layer.o_proj(o.flatten(-2)), whole[:, 9:], rtol=1e-4, atol=1e-5)


def test_functions_that_are_the_layers_attributes():
    torch.manual_seed(0)
    net, x = nn.Sequential(AttributeLayer(1), nn.Identity(), AttributeLayer(4)), torch.randn(2, 15, 16)
    before = everything(net)
    captured = capture(net, x)
    assert list(captured) == [1, 4]
    assert everything(net) == before
    assert net[0].chunk_gated_delta_rule is stand_ins.chunk_gated_delta_rule
    _, _, v, g, _ = net[0].proj(x).unflatten(-1, (4, -1)).split([8, 8, 6, 1, 1], -1)
    torch.testing.assert_close(captured[1].g, F.logsigmoid(g[..., 0]))
    torch.testing.assert_close(captured[1].v, v)
    same = nn.Sequential(AttributeLayer(3), AttributeLayer(3))  # two towers: numbered in their order
    assert list(capture(same, x)) == [0, 1]


@pytest.mark.usefixtures("as_users_call")
def test_what_cannot_be_captured_is_refused():
    hub, ids = model(), tokens(1, 8)
    with pytest.raises(TypeError, match=r"model is a str; expected a torch\.nn\.Module"):
        capture("qwen", ids)
    with pytest.raises(ValueError, match="model is a Linear without a layer whose rule can be reached"):
        capture(nn.Linear(2, 2), ids)
    with pytest.raises(ValueError, match=r"layers has 5; expected some of the delta-rule layers, \[0, 1\]"):
        capture(hub, ids, layers=[0, 5])
    with pytest.raises(ValueError, match=r"heads is \[2\]; expected value heads from 0 to 1"):
        capture(hub, ids, heads=[2])
    with pytest.raises(ValueError, match=r"tokens is slice\(0, 8, 2\); expected slice\(start, stop\)"):
        capture(hub, ids, tokens=slice(0, 8, 2))
    with pytest.raises(ValueError, match=r"tokens is slice\(8, 9, None\); expected some of the tokens 0 to 7"):
        capture(hub, ids, tokens=slice(8, 9))
    twice = FlaLayer()
    twice.forward = lambda x: FlaLayer.forward(twice, x) + FlaLayer.forward(twice, x)
    with pytest.raises(ValueError, match=r"layer 0 \(FlaLayer\) called its rule more than once; expected once, by"):
        capture(twice, torch.randn(1, 3, 16))
    with pytest.raises(ValueError, match="the layer's rule is called with gk; expected one decay for each head"):
        capture(VectorDecayLayer(), torch.randn(1, 3, 16))


def test_large_models_are_found_without_weights():
    with torch.device("meta"):
        assert list(find_layers(LanguageModel(PAPER["1.3B"]))) == list(range(21))
