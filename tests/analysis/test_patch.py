"""patch(): models run with query feedback that they were not trained with."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from qdelta_analysis import capture, patch
from qdelta_analysis.capturing import lam_effect
from qdelta_analysis.data import load_model
from qdelta_analysis.threads import one_thread
from qdelta_kernels import qdelta_rule_reference
from tests.helpers import relative_error
from tests.learning.sizes import BASE, VARIANTS, model, tokens

from .stand_ins import AttributeLayer, FlaLayer
from .test_capture import CLASSES, everything, linear_layers, peer


@pytest.fixture(autouse=True)
def _one_thread():
    with one_thread():
        yield


@pytest.fixture(scope="module", params=CLASSES)
def hub(request) -> nn.Module:
    return peer(request.param)


def test_no_feedback_is_the_model_itself(hub):
    ids = tokens(2, 70)
    logits = hub(ids).logits
    with patch(hub, lam=0):
        assert relative_error(hub(ids).logits, logits) < 1e-5
    assert torch.equal(hub(ids).logits, logits)


def test_feedback_is_the_paper_s_recurrence(hub):
    """The layer's own output, as its norm receives it, against the definition on what was captured."""
    ids, outputs = tokens(2, 40), []
    layer = linear_layers(hub)[1]
    norm = layer.o_norm if hasattr(layer, "o_norm") else layer.norm
    hook = norm.register_forward_pre_hook(lambda module, args: outputs.append(args[0]))
    with patch(hub, lam=0.4):
        logits = hub(ids).logits
        inputs = capture(hub, ids, layers=2)[2]
    hook.remove()
    assert torch.equal(inputs.lam, torch.full_like(inputs.lam, 0.4))
    o, _ = qdelta_rule_reference(**inputs.to(torch.float64).arguments())
    for found in outputs:
        assert relative_error(found, o.flatten(0, 2)) < 1e-5
    plain = hub(ids).logits
    assert relative_error(logits, plain) > 1e-4
    with patch(hub, lam=0.4, layers=[2]):
        assert relative_error(hub(ids).logits, plain) > 1e-5
        assert not capture(hub, ids)[0].lam.any()
        assert capture(hub, ids)[2].lam.all()


def test_decoding_goes_on_as_the_whole_sequence_would(hub):
    ids = tokens(1, 8)
    with patch(hub, lam=0.7):
        written = hub.generate(ids, max_new_tokens=6, do_sample=False)
        again = hub.generate(ids, max_new_tokens=6, do_sample=False, use_cache=False)
    assert torch.equal(written, again)


def test_lam_may_differ_by_layer_head_and_token(hub):
    ids = tokens(2, 9)
    by_head, by_token = torch.tensor([0.0, 0.1, 0.2, 0.3]), torch.rand(2, 9, 4)
    with patch(hub, lam={0: by_head, 2: by_token}):
        captured = capture(hub, ids)
    assert torch.equal(captured[0].lam, by_head.expand(2, 9, 4))
    assert torch.equal(captured[2].lam, by_token)
    with patch(hub, lam={2: 0.5}):
        captured = capture(hub, ids)
    assert not captured[0].lam.any()
    assert torch.equal(captured[2].lam, torch.full((2, 9, 4), 0.5))


def test_compensation_keeps_every_step_s_norm_at_its_decay(hub):
    ids = tokens(1, 20)
    plain = capture(hub, ids, layers=0)[0]
    with patch(hub, lam=0.8, norm_compensation=True):
        inputs = capture(hub, ids, layers=0)[0]
    t = inputs.to(torch.float64).transition()
    # OLMo's beta reaches 2, where a step of Gated DeltaNet itself has its decay's norm at most.
    torch.testing.assert_close(t.operator_norm(), plain.alpha.double(), rtol=1e-5, atol=1e-7)
    assert (inputs.g <= plain.g).all()


def test_gradients_reach_lam(hub):
    lam = torch.full((4,), 0.3, requires_grad=True)
    with patch(hub, lam=lam):
        hub(tokens(1, 12)).logits.square().sum().backward()
    assert lam.grad is not None
    assert lam.grad.isfinite().all()
    assert lam.grad.all()
    hub.zero_grad()


def test_a_patched_model_is_left_as_it_was_also_after_an_exception(hub):
    ids = tokens(1, 10)
    before, logits = everything(hub), hub(ids).logits
    with pytest.raises(IndexError), patch(hub, lam=0.5), patch(hub, lam=0.1, layers=[2]):
        hub(ids + 50)
    assert everything(hub) == before
    assert torch.equal(hub(ids).logits, logits)


def test_models_of_this_project_take_another_lam():
    ids = tokens(2, 50)
    learned = model(VARIANTS["q-delta"])
    for name, lam in (("q-delta, lam = 0.5", 0.5), ("gated-deltanet", 0)):
        other = model(VARIANTS[name])  # starts from the same weights
        assert relative_error(learned(ids), other(ids)) > 1e-3
        with patch(learned, lam=lam):
            assert relative_error(learned(ids), other(ids)) < 1e-6
    plain, compensated = model(VARIANTS["q-delta"]), model(VARIANTS["q-delta, norm-compensated"])
    gates = {n: x.lam for n, x in capture(compensated, ids).items()}
    with patch(plain, lam=gates, norm_compensation=True):
        assert relative_error(plain(ids), compensated(ids)) < 1e-5
    trained, prompt = load_model(), tokens(1, 60, vocabulary=128)
    logits, own = trained(prompt), {n: x.lam for n, x in capture(trained, prompt).items()}
    with patch(trained, lam=own):
        assert relative_error(trained(prompt), logits) < 1e-5


def test_half_precision_takes_the_lam_that_was_given(hub):
    ids, seen = tokens(2, 20), []
    half = copy.deepcopy(hub).to(torch.bfloat16)
    with patch(half, 0.3):
        seen += [x.lam for x in capture(half, ids).values()]
    assert all((x == torch.tensor(0.3)).all() for x in seen)


@pytest.mark.parametrize("kind", [AttributeLayer, FlaLayer])
def test_a_shallow_copy_of_a_layer_can_be_patched_too(kind):
    torch.manual_seed(0)
    layer, x = kind(0), torch.randn(2, 9, 16)
    plain = layer(x)
    with patch(layer, 0.9):
        expected, other = layer(x), copy.copy(layer)
    with patch(other, 0.9):
        assert torch.equal(other(x), expected)
        assert torch.equal(layer(x), plain)
    assert torch.equal(other(x), plain)


@pytest.mark.parametrize("mode", ["chunk", "fused_recurrent"])
def test_states_keep_the_caller_s_layout(mode):
    torch.manual_seed(0)
    layer, x = FlaLayer(), torch.randn(2, 11, 16)
    layer.mode = mode
    whole, last = layer(x, use_cache=True)
    for lam in (0.0, 0.6):
        with patch(layer, lam=lam):
            together, state = layer(x, use_cache=True)
            first, middle = layer(x[:, :5], use_cache=True)
            second, end = layer(x[:, 5:], state=middle, use_cache=True)
        assert end.shape == last.shape == (2, 4, 6, 8)
        assert relative_error(torch.cat([first, second], 1), together) < 1e-5
        assert relative_error(end, state) < 1e-5
        assert (relative_error(together, whole) < 1e-5) == (lam == 0)
    mask = torch.tensor([[0] * 4 + [1] * 7, [1] * 11])
    with patch(layer, lam=0.6):
        padded, alone = layer(x, attention_mask=mask), layer(x[:1, 4:])
    assert relative_error(padded[:1, 4:], alone) < 1e-5
    net = nn.Sequential(AttributeLayer())
    with patch(net, lam=0):
        found = net(x)
    assert relative_error(found, net(x)) < 1e-5


@pytest.mark.usefixtures("as_users_call")
def test_feedback_that_there_is_not_is_refused(hub):
    ids = tokens(1, 5)
    for lam, sentence in (
        (2.5, r"lam is 2\.5 in layer 0; expected values in \[0, 2\]"),
        (torch.tensor([0.1, torch.nan]), "lam is tensor.* in layer 0; expected values in"),
        ({1: 0.5}, r"layers has 1; expected some of the delta-rule layers, \[0, 2\]"),
    ):
        with pytest.raises(ValueError, match=sentence), patch(hub, lam=lam):
            pass
    too_wide = pytest.raises(ValueError, match=r"lam has shape \[3\]; expected one .* \[1, 5, 4\] of layer 0")
    with too_wide, patch(hub, lam=torch.zeros(3)):
        hub(ids)
    with pytest.raises(ValueError, match="without a layer whose rule can be reached"), patch(nn.Linear(2, 2), lam=0.5):
        pass


def test_the_effect_on_predictions_is_their_divergence():
    net, ids = model(), tokens(2, 12)
    before = net(ids).detach().double()
    found = lam_effect(net, ids, [0.0, 0.7], norm_compensation=True)
    assert found.divergence.shape == (2, 2, 12)
    with patch(net, 0.7, norm_compensation=True):
        after = net(ids).detach().double()
    p, other = before.softmax(-1).numpy(), after.softmax(-1).numpy()
    expected = stats.entropy(p, other, axis=-1)
    np.testing.assert_allclose(found.divergence.sel(lam=0.7), expected, rtol=1e-5, atol=1e-10)
    assert (found.divergence.sel(lam=0.7) > 1e-6).any()
    assert (found.changed.sel(lam=0.7) == (p.argmax(-1) != other.argmax(-1))).all()
    plain = model(replace(BASE, rule="gated-deltanet"))
    none = lam_effect(plain, ids, [0.0])  # which is what that model does anyway
    assert abs(none.divergence).max() < 1e-9
    assert not none.changed.any()
    assert torch.equal(net(ids).detach().double(), before)
