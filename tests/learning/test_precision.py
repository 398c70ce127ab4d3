"""Quantised and half-precision models: states in the activations' dtype, rates of forgetting in float32."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModelForCausalLM

from qdelta_analysis.learning import LanguageModel, QDeltaConfig, QDeltaForCausalLM
from tests.helpers import relative_error

from .sizes import VARIANTS, model, noise, tokens

RULES = ["q-delta", "q-delta, norm-compensated", "deltanet", "linear-attention, decay", "q-delta, grouped"]
DECAYING = ["q-delta", "linear-attention, decay"]


class Packed(nn.Module):
    """A linear layer as bitsandbytes stores it: integers in `weight`, several to a byte, dequantised in forward."""

    def __init__(self, linear: nn.Linear, bits: int):
        super().__init__()
        top = 2 ** (bits - 1) - 1
        scale = linear.weight.detach().abs().amax(1, keepdim=True) / top
        codes = (linear.weight.detach() / scale).round().to(torch.int16) + top
        packed = codes if bits == 8 else codes[:, ::2] * 16 + codes[:, 1::2]
        self.weight = nn.Parameter(packed.to(torch.uint8), requires_grad=False)
        self.register_buffer("scale", scale)
        self.bits, self.top = bits, top

    def forward(self, x):
        codes = self.weight if self.bits == 8 else torch.stack([self.weight // 16, self.weight % 16], -1).flatten(1)
        return F.linear(x, (codes.to(x.dtype) - self.top) * self.scale.to(x.dtype))


def quantised(net: LanguageModel, how: str) -> LanguageModel:
    """Every linear layer in few bits, as bitsandbytes or torch.ao do it."""
    if how == "torch.ao":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is to be replaced by torchao
            return torch.ao.quantization.quantize_dynamic(net, {nn.Linear})
    net = copy.deepcopy(net)
    for module in list(net.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                setattr(module, name, Packed(child, int(how)))
    return net


def decoded(hub: QDeltaForCausalLM, ids: torch.Tensor, prompt: int = 7) -> torch.Tensor:
    """Logits by a prompt and then token by token, from the cache."""
    out = hub(ids[:, :prompt])
    logits = [out.logits]
    for token in ids[:, prompt:].split(1, dim=1):
        out = hub(token, past_key_values=out.past_key_values)
        logits.append(out.logits)
    return torch.cat(logits, 1)


# torch.ao scales the activations of each call by their largest, so that calls differ in their eighth bit.
@pytest.mark.parametrize(("how", "close"), [("4", 2e-5), ("8", 2e-5), ("torch.ao", 0.1)])
@pytest.mark.parametrize("name", RULES)
def test_a_quantised_model_goes_on_from_its_cache(name, how, close):
    plain = model(VARIANTS[name]).eval()
    hub, ids = QDeltaForCausalLM.from_model(quantised(plain, how)), tokens(2, 16)
    full = hub(ids, use_cache=False).logits
    assert relative_error(decoded(hub, ids), full) < close
    if how != "torch.ao":  # the same by the model itself
        first, state = hub.model(ids[:, :9], state=hub.model.fresh_state(2))
        rest, state = hub.model(ids[:, 9:], state=state)
        assert relative_error(torch.cat([first, rest], 1), full) < close
        assert {x.dtype for layer in state for x in layer} == {torch.float32}
    # The state enters: without it the logits would be others.
    assert relative_error(hub(ids[:, 9:]).logits, full[:, 9:]) > 2 * close
    hub.generate(ids, max_new_tokens=2, do_sample=False, pad_token_id=0)


def test_packed_and_padded_rows_of_a_quantised_model_keep_their_states():
    net = quantised(model(), "4")
    ids, mask = tokens(2, 12), torch.ones(2, 12, dtype=torch.long)
    mask[0, :5] = 0
    whole, _ = net(ids, mask, state=net.fresh_state(2))
    first, state = net(ids[:, :8], mask[:, :8], state=net.fresh_state(2))
    rest, _ = net(ids[:, 8:], mask, state=state)
    found = torch.cat([first, rest], 1)[mask.bool()]
    assert relative_error(found, whole[mask.bool()]) < 2e-5


def test_states_take_dtype_and_device_of_the_activations():
    net = model().bfloat16()
    x = net.embed(tokens(2, 5))
    for like, dtypes in (
        (None, (torch.bfloat16, torch.float32)),
        (x, (torch.bfloat16, torch.float32)),
        (x.double(), (torch.float64, torch.float64)),
        (x.to("meta"), (torch.bfloat16, torch.float32)),
    ):
        state = net.fresh_state(2, like)[0]
        assert (state.conv.dtype, state.memory.dtype) == dtypes
        assert state.conv.is_meta == state.memory.is_meta == (like is not None and like.is_meta)
    _, after = net(tokens(2, 5), state=net.fresh_state(2, x.double()))  # what was fresh imposes nothing
    assert after[0].conv.dtype == torch.bfloat16
    exact = model().double()
    _, state = exact(tokens(2, 3), state=model().fresh_state(2))
    rest, _ = exact(tokens(2, 4, seed=1), state=state)
    expected = exact(torch.cat([tokens(2, 3), tokens(2, 4, seed=1)], 1))[:, 3:]
    assert relative_error(rest, expected) < 1e-12


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", DECAYING)
def test_rates_of_forgetting_stay_in_float32(name, dtype, tmp_path):
    exact = QDeltaForCausalLM.from_model(model(VARIANTS[name], seed=3).eval())
    with torch.no_grad():
        for layer in (block.mixer for block in exact.model.mixer_blocks()):
            layer.A_log.add_(noise(*layer.A_log.shape, seed=1) / 10)
    exact.save_pretrained(tmp_path / "exact")
    cast = copy.deepcopy(exact.model).to(dtype)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "exact", dtype=dtype)
    loaded.save_pretrained(tmp_path / "half")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "half", dtype=dtype)
    for half in (cast, loaded.model, again.model, loaded.to(dtype).model, copy.deepcopy(exact).to(dtype=dtype).model):
        assert half.head.weight.dtype == half.embedding.weight.dtype == dtype
        for ours, theirs in zip(half.mixer_blocks(), exact.model.mixer_blocks(), strict=True):
            assert torch.equal(ours.mixer.A_log, theirs.mixer.A_log)
            assert torch.equal(ours.mixer.dt_bias, theirs.mixer.dt_bias)
    for half in (cast, again.model):
        x = noise(1, 9, 24).to(dtype)
        g = half.mixer_blocks()[0].mixer.rule_inputs(x).g
        rate = exact.model.mixer_blocks()[0].mixer
        expected = -rate.A_log.exp() * F.softplus(half.mixer_blocks()[0].mixer.a_proj(x).float() + rate.dt_bias)
        assert torch.equal(g, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_new_model_of_any_dtype_has_the_same_rates(dtype):
    config = QDeltaConfig.of(model().config)
    plain, other = AutoModelForCausalLM.from_config(config), AutoModelForCausalLM.from_config(config, dtype=dtype)
    assert other.dtype == dtype
    for ours, theirs in zip(other.model.mixer_blocks(), plain.model.mixer_blocks(), strict=True):
        assert ours.mixer.A_log.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert torch.equal(ours.mixer.A_log.float(), theirs.mixer.A_log)
        assert torch.equal(ours.mixer.dt_bias.float(), theirs.mixer.dt_bias)


def test_a_cast_moves_devices_and_gradients_and_widens():
    layer = model().mixer_blocks()[0].mixer
    layer.A_log.grad, layer.a_proj.weight.grad = torch.ones(2), torch.ones(2, 24)
    layer.bfloat16()
    assert (layer.A_log.grad.dtype, layer.a_proj.weight.grad.dtype) == (torch.float32, torch.bfloat16)
    assert layer.double().A_log.dtype == torch.float64
    assert layer.to("meta", torch.float16).A_log.is_meta
    assert layer.A_log.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", RULES)
def test_half_precision_decodes_what_it_reads_at_once(name, dtype):
    hub, ids = QDeltaForCausalLM.from_model(model(VARIANTS[name]).eval()).to(dtype), tokens(2, 16)
    exact = model(VARIANTS[name]).eval()(ids)
    full = hub(ids, use_cache=False).logits
    ulp = torch.finfo(dtype).eps
    assert relative_error(full, exact) < 8 * ulp
    assert relative_error(decoded(hub, ids), full) < 4 * ulp
