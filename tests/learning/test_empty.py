"""Nothing to read is read as nothing, and one row's trouble stays in its row."""

import pytest
import torch

from qdelta_analysis.learning import Packing, QDeltaForCausalLM, ShortConvolution
from tests.helpers import relative_error

from .sizes import VARIANTS, model, noise, tokens

NAMES = ["q-delta", "linear-attention", "q-delta, grouped", "q-delta, no convolution"]


def same(found, expected) -> bool:
    return all(torch.equal(a, b) for x, y in zip(found, expected, strict=True) for a, b in zip(x, y, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_no_token_changes_no_state_and_has_no_logits(name):
    net, ids = model(VARIANTS[name]), tokens(2, 6)
    nothing, padding = ids[:, :0], torch.zeros(2, 6, dtype=torch.long)
    _, state = net(ids, state=net.fresh_state(2))
    for before in (net.fresh_state(2), state):
        for arguments in (
            (nothing,),
            (nothing, padding[:, :0]),
            (nothing, torch.ones(2, 6)),  # a mask of what came before
            (nothing, torch.tensor([[0] * 5 + [1], [1] * 6])),
            (ids, padding),
            (nothing[:1], None, torch.tensor([0, 0, 0])),
        ):
            logits, after = net(*arguments, state=before)
            assert logits.shape == (*arguments[0].shape, 50)
            assert same(after, before)
            assert net(*arguments).shape == logits.shape
    for arguments in ((nothing,), (ids, padding), (ids[:1], padding[:1])):
        net.zero_grad()
        net(*arguments).sum().backward()
        assert all(p.grad is None or not p.grad.any() for p in net.parameters())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_row_of_padding_leaves_the_others_as_they_are(name, checkpointing):
    net, ids = model(VARIANTS[name]).train(), tokens(3, 8)
    net.gradient_checkpointing = checkpointing
    mask = torch.tensor([[1] * 8, [0] * 8, [0] * 3 + [1] * 5])
    logits, alone = net(ids, mask), [net(ids[:1])[0], net(ids[2:, 3:])[0]]
    found = [logits[0], logits[2, 3:]]
    for ours, reference in zip(found, alone, strict=True):
        assert relative_error(ours, reference) < 2e-5
    slopes = [torch.autograd.grad(sum(y.square().sum() for y in ys), list(net.parameters())) for ys in (found, alone)]
    for ours, reference in zip(*slopes, strict=True):
        assert relative_error(ours, reference) < 1e-4


@pytest.mark.usefixtures("as_users_call")
def test_the_hub_model_reads_nothing_and_a_prompt_of_nothing_is_refused():
    hub, ids = QDeltaForCausalLM.from_model(model().eval(), pad_token_id=0), tokens(2, 6)
    nothing = ids[:, :0]
    assert hub(nothing, use_cache=False).logits.shape == (2, 0, 50)
    assert hub(inputs_embeds=torch.zeros(2, 0, 24)).logits.shape == (2, 0, 50)
    out = hub(nothing)
    assert out.past_key_values.get_seq_length() == 0
    assert torch.equal(hub(ids, past_key_values=out.past_key_values).logits, hub(ids).logits)
    twice = hub(ids, past_key_values=hub(nothing, past_key_values=hub(ids).past_key_values).past_key_values)
    assert torch.equal(twice.logits, hub(ids, past_key_values=hub(ids).past_key_values).logits)
    for prompt in ({"inputs": nothing}, {"input_ids": nothing}, {"inputs_embeds": torch.zeros(2, 0, 24)}):
        with pytest.raises(ValueError, match=r"the prompt has shape \[2, 0.*\]; expected at least one token in each"):
            hub.generate(**prompt, max_new_tokens=2)
    mask = torch.ones(2, 6, dtype=torch.long)
    mask[1] = 0
    padded = ids.clone()
    padded[1] = 0  # of which transformers makes a mask itself
    unaware = QDeltaForCausalLM.from_model(model().eval())  # told of the padding when it generates
    given = ({"inputs": ids, "attention_mask": mask}, {"inputs": padded}, {"input_ids": padded, "num_beams": 2})
    for net, prompts in ((hub, given), (unaware, ({"inputs": padded, "pad_token_id": 0},))):
        for prompt in prompts:
            with pytest.raises(ValueError, match="the prompt has a row that is all padding; expected at least one"):
                net.generate(**prompt, max_new_tokens=2)
    assert hub.generate(bos_token_id=3, max_new_tokens=2, do_sample=False)[0, 0] == 3


def test_a_loss_of_nothing_is_zero_and_so_are_its_gradients():
    hub, ids = QDeltaForCausalLM.from_model(model().train()), tokens(2, 6)
    ignored = torch.full_like(ids, -100)
    for given, labels in ((ids[:, :0], ids[:, :0]), (ids[:, :1], ids[:, :1]), (ids, ignored)):
        for options in ({}, {"num_items_in_batch": 0}, {"num_items_in_batch": torch.tensor(0)}):
            hub.zero_grad()
            loss = hub(given, labels=labels, **options).loss
            loss.backward()
            assert loss == 0
            assert all(p.grad is None or not p.grad.any() for p in hub.parameters())
    some = torch.where(torch.arange(6) < 3, ids, ignored)
    logits = hub(ids).logits[:, :2].flatten(0, 1)
    mean = torch.nn.functional.cross_entropy(logits, ids[:, 1:3].flatten())
    torch.testing.assert_close(hub(ids, labels=some).loss, mean)
    torch.testing.assert_close(hub(ids, labels=some, num_items_in_batch=8).loss, mean / 2)
    shifted = torch.nn.functional.pad(some[:, 1:], (0, 1), value=-100)
    torch.testing.assert_close(hub(ids, labels=some, shift_labels=shifted).loss, mean)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, 3e38])
def test_a_convolution_keeps_trouble_in_its_sequence(bad):
    convolution = ShortConvolution(6, 4)
    with torch.no_grad():
        convolution.weight.copy_(noise(6, 1, 4))
    x, tails = noise(3, 5, 6, seed=1), noise(3, 3, 6, seed=2)
    spoilt, row = x.clone(), torch.arange(4) * 5
    spoilt[1, 2:] = bad
    tails.requires_grad_()
    for packing in (None, Packing(row, 4)):
        laid = (lambda y: y) if packing is None else (lambda y: y.flatten(0, 1)[None])
        clean, dirty = laid(x).requires_grad_(), laid(spoilt).requires_grad_()
        found, expected = (convolution(y, tails, packing).view(3, 5, 6) for y in (dirty, clean))
        slopes = (torch.autograd.grad(y.square().sum(), (z, tails)) for y, z in ((found, dirty), (expected, clean)))
        for ours, reference in zip((found, *next(slopes)), (expected, *next(slopes)), strict=True):
            ours, reference = ours.reshape(3, -1, 6), reference.reshape(3, -1, 6)
            assert torch.equal(ours[[0, 2]], reference[[0, 2]])
        assert torch.equal(found[1, :2], expected[1, :2])


def test_what_stands_at_padding_is_never_read():
    net, ids = model(), tokens(2, 8)
    mask = torch.tensor([[0] * 3 + [1] * 5, [1] * 8])
    x = net.embed(ids).detach()
    spoilt = torch.where(mask.bool()[..., None], x, torch.nan).requires_grad_()
    plain = x.clone().requires_grad_()
    found, expected = (net.hidden(y, mask)[0] for y in (spoilt, plain))
    assert torch.equal(found, expected)
    ours, reference = torch.autograd.grad(found.sum(), spoilt)[0], torch.autograd.grad(expected.sum(), plain)[0]
    assert torch.equal(ours, reference)
    assert not ours[0, :3].any()
