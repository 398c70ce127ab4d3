"""A patch holds until the backward pass, where activation checkpointing computes a layer again."""

from functools import partial

import pytest
import torch
import torch.utils.checkpoint as checkpointing
from torch import nn

from qdelta_analysis import patch
from qdelta_analysis.capturing import record
from qdelta_analysis.threads import one_thread
from tests.helpers import relative_error
from tests.learning.sizes import model, tokens

from .stand_ins import AttributeLayer, FlaLayer
from .test_capture import CLASSES, peer
from .test_capture_interrupted import tower


@pytest.fixture(autouse=True)
def _one_thread():
    with one_thread():
        yield


def switch(net: nn.Module, reentrant: bool | None) -> None:
    """Let a model of this project or of transformers checkpoint its layers in this way, or not at all."""
    func = partial(checkpointing.checkpoint, use_reentrant=bool(reentrant))
    for module in net.modules():
        if hasattr(module, "gradient_checkpointing"):
            module.gradient_checkpointing = reentrant is not None
            module._gradient_checkpointing_func = func


def by_hand(net: nn.Module, x: torch.Tensor, reentrant: bool | None) -> torch.Tensor:
    x = x.clone().requires_grad_()
    return net(x) if reentrant is None else checkpointing.checkpoint(partial(net), x, use_reentrant=reentrant)


@pytest.fixture(scope="module", params=["own", "by hand", *CLASSES])
def run(request):
    """A model, and how to run it with its layers checkpointed in one way or the other, or not."""
    if request.param == "by hand":
        net, x = tower(FlaLayer, 2)
        return net, partial(by_hand, net, x)
    net, ids = (model() if request.param == "own" else peer(request.param)).train(), tokens(2, 20)
    if request.param != "own":  # what enters the first layer has to require a gradient
        net.enable_input_require_grads()

    def forward(reentrant):
        switch(net, reentrant)
        out = net(ids) if request.param == "own" else net(ids, use_cache=False).logits
        switch(net, None)
        return out

    return net, forward


def gradients(net: nn.Module, backward) -> dict[str, torch.Tensor]:
    net.zero_grad()
    backward()
    return {name: p.grad for name, p in net.named_parameters() if p.grad is not None}


def differ(one: dict, other: dict) -> float:
    assert set(one) == set(other)
    return max(relative_error(one[name], x) for name, x in other.items())


@pytest.mark.parametrize("reentrant", [True, False])
def test_the_backward_pass_is_that_of_the_forward_pass(run, reentrant):
    net, forward = run
    loss = lambda checkpointed: forward(checkpointed).square().sum()

    def outside(checkpointed, lam=0.9):
        with patch(net, lam):
            found = loss(checkpointed)
        found.backward()

    def inside(checkpointed):
        with patch(net, 0.9):
            loss(checkpointed).backward()

    def in_another(checkpointed):
        with patch(net, 0.9):
            found = loss(checkpointed)
        with patch(net, 0.1), record(net) as recording:
            found.backward()
        assert not recording.calls

    def twice(checkpointed):
        with patch(net, 0.9):
            found = loss(checkpointed)
        with patch(net, 0.2, layers=[0]), patch(net, 0.6):
            found = found + loss(checkpointed)
        (found + loss(checkpointed)).backward()

    def plain_in_a_patch(checkpointed):
        found = loss(checkpointed)
        with patch(net, 0.9):
            found.backward()

    expected = gradients(net, lambda: outside(None))
    plain = gradients(net, lambda: loss(None).backward())
    assert any(relative_error(plain[name], x) > 1e-2 for name, x in expected.items() if name in plain)
    for way in (outside, inside, in_another):
        assert differ(gradients(net, lambda way=way: way(reentrant)), expected) < 1e-4
    assert differ(gradients(net, lambda: plain_in_a_patch(reentrant)), plain) < 1e-4
    assert differ(gradients(net, lambda: twice(reentrant)), gradients(net, lambda: twice(None))) < 1e-4
    assert isinstance(checkpointing.CheckpointFunction, type)
    assert isinstance(checkpointing._CheckpointFrame, type)


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradients_reach_a_lam_that_is_learned(run, reentrant):
    net, forward = run
    found = []
    for checkpointed in (None, reentrant):
        lam = torch.tensor(0.4, requires_grad=True)
        with patch(net, lam, norm_compensation=True):
            loss = forward(checkpointed).square().sum()
        loss.backward()
        found.append(lam.grad)
    assert found[0].abs() > 0
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-6)


class OwnCheckpoint(torch.autograd.Function):
    """Activation checkpointing as some training libraries have it: a function of their own."""

    @staticmethod
    def forward(ctx, net, x):
        ctx.net = net
        ctx.save_for_backward(x)
        with torch.no_grad():
            return net(x)

    @staticmethod
    def backward(ctx, *grads):
        x = ctx.saved_tensors[0].detach().requires_grad_()
        with torch.enable_grad():
            torch.autograd.backward(ctx.net(x), grads)
        return None, x.grad


@pytest.mark.parametrize("layer", [FlaLayer, AttributeLayer])
def test_in_checkpointing_that_is_not_torchs_nothing_is_patched_in_the_forward_pass_only(layer):
    net, x = tower(layer, 2)
    x = x.clone().requires_grad_()
    plain = gradients(net, lambda: net(x).square().sum().backward())
    with patch(net, 0.9):
        patched = net(x).detach()
        with pytest.raises(RuntimeError, match=r"^layer 0 runs in the forward pass of OwnCheckpoint, .* expected"):
            OwnCheckpoint.apply(net, x)
        torch.testing.assert_close(OwnCheckpoint.apply(net, x.detach()), patched)  # nothing is differentiated
    loss = OwnCheckpoint.apply(net, x).square().sum()
    with patch(net, 0.9):
        assert differ(gradients(net, loss.backward), plain) < 1e-4
    with record(net) as recording:  # which looks at the forward pass alone
        OwnCheckpoint.apply(net, x).square().sum().backward()
    assert len(recording.calls) == 2
