"""Going on from a state, sequences packed in a row, padding: each gives what the plain forward pass gives."""

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from qdelta_analysis.learning import LanguageModel, Packing, QDeltaLayer
from qdelta_analysis.learning.packing import real_tokens, sequence_starts
from tests.helpers import relative_error

from .sizes import BASE, VARIANTS, model, noise, tokens

CLOSE = 2e-5  # float32, sums in another order


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("cuts", [[1] * 12, [5, 1, 1, 30, 2], [2, 2, 40]])
def test_a_layer_goes_on_from_its_state(config, cuts):
    layer, x = QDeltaLayer(config), noise(2, sum(cuts), 24)
    state, outputs = layer.fresh_state(2), []
    for part in x.split(cuts, dim=1):
        y, state = layer(part, state)
        outputs.append(y)
    whole, last = layer(x, layer.fresh_state(2))
    assert relative_error(torch.cat(outputs, 1), layer(x)) < CLOSE
    assert relative_error(whole, layer(x)) < CLOSE
    for found, expected in zip(state, last, strict=True):
        assert relative_error(found, expected) < CLOSE


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_packed_sequences_do_not_see_each_other(config):
    layer, x = QDeltaLayer(config), noise(1, 40, 24)
    lengths = [7, 1, 0, 2, 30]
    packing = Packing(torch.tensor([0, 7, 8, 8, 10, 40]), config.conv_width)
    parts = x.split(lengths, dim=1)
    expected = torch.cat([layer(part) for part in parts if part.shape[1]], dim=1)
    assert relative_error(layer(x, None, packing), expected) < CLOSE
    y, state = layer(x, layer.fresh_state(5), packing)
    assert relative_error(y, expected) < CLOSE
    again, after = layer(x, state, packing)
    for n, part in enumerate(parts):
        if not part.shape[1]:
            assert torch.equal(after.memory[n], state.memory[n])
            assert torch.equal(after.conv[n], state.conv[n])
            continue
        whole = layer(torch.cat([part, part], dim=1))
        start = sum(lengths[:n])
        assert relative_error(again[:, start : start + part.shape[1]], whole[:, part.shape[1] :]) < CLOSE


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_padding_anywhere_changes_nothing(config):
    net = model(config)
    sequences = [tokens(n, seed=n) for n in (12, 5, 1, 20)]
    mask = torch.zeros(4, 20, dtype=torch.long)
    mask[0, 8:] = mask[1, 3:8] = mask[2, 19:] = mask[3, :] = 1  # left, both sides, all but one, none
    batch = torch.full((4, 20), 7)
    batch[mask.bool()] = torch.cat(sequences)
    logits = net(batch, mask)
    assert logits.shape == (4, 20, 50)
    for row, sequence in enumerate(sequences):
        assert relative_error(logits[row, mask[row].bool()], net(sequence[None])[0]) < CLOSE
    scattered = torch.ones(1, 20, dtype=torch.bool)
    scattered[0, [3, 4, 11]] = False
    holes = torch.full((1, 20), 9)
    holes[scattered] = tokens(17)
    assert relative_error(net(holes, scattered)[scattered], net(tokens(1, 17))[0]) < CLOSE


def test_padding_on_either_side_leaves_the_same_state():
    net, sequences = model(), [tokens(n, seed=n) for n in (3, 9, 14)]
    lengths = torch.tensor([[3], [9], [14]])
    right = pad_sequence(sequences, batch_first=True)
    left = pad_sequence([s.flip(0) for s in sequences], batch_first=True).flip(1)
    at = torch.arange(14)
    after = tokens(3, 2, seed=99)
    for batch, mask in ((right, at < lengths), (left, at >= 14 - lengths)):
        _, state = net(batch, mask, state=net.fresh_state(3))
        logits, _ = net(after, torch.cat([mask, torch.ones(3, 2, dtype=torch.bool)], 1), state=state)
        for row, sequence in enumerate(sequences):
            whole = net(torch.cat([sequence, after[row]])[None])[0, -2:]
            assert relative_error(logits[row], whole) < CLOSE


def test_rows_may_hold_packed_sequences_and_padding_at_once():
    net = model()
    positions = torch.tensor([[0, 0, 1, 2, 0, 1], [0, 1, 2, 3, 0, 0]])
    mask = torch.tensor([[0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0]])
    bounds = sequence_starts(positions, real_tokens(mask, 2, 6))
    assert bounds is not None
    assert bounds.tolist() == [0, 3, 5, 9, 10]
    batch = tokens(2, 6)
    logits = net(batch, mask, bounds)
    for row, start, end in ((0, 1, 4), (0, 4, 6), (1, 0, 4), (1, 4, 5)):
        assert relative_error(logits[row, start:end], net(batch[row : row + 1, start:end])[0]) < CLOSE
    assert sequence_starts(torch.arange(6).expand(2, 6), None) is None
    assert sequence_starts(torch.tensor([[0, 0, 0, 1, 2, 3], [5, 6, 7, 8, 9, 10]]), real_tokens(
        torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]]), 2, 6)) is None  # fmt: skip
    unpadded = net(batch, None, torch.tensor([0, 4, 12]))
    assert relative_error(unpadded.flatten(0, 1)[:4], net(batch[:1, :4])[0]) < CLOSE


def test_gradients_flow_through_packing_and_checkpointing_changes_none():
    def gradients(net: LanguageModel, *options):
        net.zero_grad()
        net(tokens(2, 20), *options).square().mean().backward()
        return [p.grad.clone() for p in net.parameters()]

    net = model().train()
    plain = gradients(net)
    padded = torch.ones(2, 20, dtype=torch.long)
    padded[1, 15:] = 0
    with_padding = gradients(net, padded)
    net.gradient_checkpointing = True
    for found, expected in zip(gradients(net), plain, strict=True):
        assert torch.equal(found, expected)
    for found, expected in zip(gradients(net, padded), with_padding, strict=True):
        assert torch.equal(found, expected)
    assert not torch.equal(with_padding[0], plain[0])


@pytest.mark.usefixtures("as_users_call")
def test_what_does_not_fit_is_refused():
    net, batch = model(), tokens(2, 6)
    with pytest.raises(ValueError, match=r"tokens has values in \[\d+, \d+\]; expected tokens from 0 to 49"):
        net(batch + 40)
    with pytest.raises(ValueError, match=r"mask has shape \[2, 5\]; expected \[B, T\] = \[2, 6\]"):
        net(batch, torch.ones(2, 5))
    with pytest.raises(ValueError, match="mask holds values other than 0 and 1; expected 1 for a token"):
        net(batch, torch.full((2, 6), -1.0))
    with pytest.raises(ValueError, match="state is of 3 sequences; expected one for each of the 2"):
        net(batch, state=net.fresh_state(3))
    with pytest.raises(ValueError, match=r"cu_seqlens is \[0, 6\]; expected it to end at 12, the tokens given"):
        net(batch, None, torch.tensor([0, 6]))
    with pytest.raises(ValueError, match=r"cu_seqlens is \[0, 9{15}\]; expected it to end at 12, the tokens given"):
        net(batch, None, torch.tensor([0, 10**15 - 1]))  # before anything of that size is laid out
    with pytest.raises(ValueError, match=r"cu_seqlens is \[0, 7, 6\]; expected a vector of ascending bounds"):
        net(batch, None, torch.tensor([0, 7, 6]))


def test_the_state_does_not_grow():
    net = model(BASE)
    _, short = net(tokens(1, 3), state=net.fresh_state(1))
    _, long = net(tokens(1, 300), state=net.fresh_state(1))
    assert [x.shape for layer in short for x in layer] == [x.shape for layer in long for x in layer]
