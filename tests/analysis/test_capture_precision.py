"""What capture allows is what rounding makes in the precision that a layer computes in, and not more."""

import copy
import sys

import pytest
import torch
from torch import nn

from qdelta_analysis import capture, patch
from qdelta_analysis.capturing import CaptureMismatchError, recording
from qdelta_analysis.learning.layer import QDeltaLayer
from qdelta_analysis.threads import one_thread
from tests.learning.sizes import model, tokens

from . import stand_ins
from .stand_ins import AttributeLayer, FlaLayer
from .test_capture import CLASSES, peer
from .test_capture_interrupted import tower

DTYPES = {"float64": torch.float64, "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# The share of an output's norm by which it may differ unnoticed: of sums in float64 and float32, of one rounding to
# half precision after sums in float32, of sums in half precision.
SUMS = {"float64": 1e-9, "float32": 1e-4, "float16": 6e-3, "bfloat16": 5e-2}
WRITTEN = {"float64": 1e-4, "float32": 1e-4, "float16": 3e-3, "bfloat16": 2e-2}


@pytest.fixture(autouse=True)
def _one_thread():
    with one_thread():
        yield


def made(kind: str) -> tuple[nn.Module, torch.Tensor]:
    if kind == "own":
        return model(), tokens(2, 80)
    if kind in ("fla", "attributes"):
        return tower({"fla": FlaLayer, "attributes": AttributeLayer}[kind], 2)
    return peer(kind), tokens(2, 80)


@pytest.fixture(scope="module", params=["own", "fla", "attributes", *CLASSES])
def kind_and_model(request):
    return request.param, *made(request.param)


def off_by(share: float, kind: str, monkeypatch) -> None:
    """Make a kind's rule write outputs of which the second head is wrong by a share of its norm."""

    def wrong(rule):
        def broken(*args, **kwargs):
            o, state = rule(*args, **kwargs)
            # A copy in float32: half precision has no such small differences.
            return o + o * (share * (torch.arange(o.shape[2]) == 1))[:, None].to(o.dtype), state

        broken.__wrapped__ = rule
        return broken

    if kind == "own":
        monkeypatch.setattr(QDeltaLayer, "recurrence", wrong(QDeltaLayer.recurrence))
    elif kind == "fla":
        monkeypatch.setattr(stand_ins, "chunk_gated_delta_rule", wrong(stand_ins.chunk_gated_delta_rule))
    elif kind != "attributes":
        module = sys.modules[CLASSES[kind][1].__module__]
        rule = module.torch_chunk_gated_delta_rule
        monkeypatch.setattr(module, "torch_chunk_gated_delta_rule", wrong(rule))


@pytest.mark.parametrize("name", DTYPES)
def test_every_precision_is_captured_and_a_wrong_replay_refused(kind_and_model, name, monkeypatch):
    kind, net, x = kind_and_model
    net = copy.deepcopy(net).to(DTYPES[name])
    x = x.to(DTYPES[name]) if x.is_floating_point() else x
    found = capture(net, x)
    for inputs in found.values():
        assert inputs.v.dtype == (torch.float64 if name == "float64" else torch.float32)
    with patch(net, 0.7):  # then it is this project's rule that computes
        assert list(capture(net, x)) == list(found)
    if kind == "attributes":
        return
    least = SUMS if kind == "fla" or (kind, name) == ("own", "float64") else WRITTEN
    off_by(least[name], kind, monkeypatch)
    with pytest.raises(CaptureMismatchError, match=r"layer 0, head 1, .*its sums being in"):
        capture(net, x)
    assert list(capture(net, x, tolerance=0.1)) == list(found)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_is_known(kind_and_model, dtype, monkeypatch):
    kind, net, x = kind_and_model
    with torch.autocast("cpu", dtype):
        assert len(capture(net, x)) == 2
        with patch(net, 0.7), patch(net, 0.4, norm_compensation=True):
            assert len(capture(net, x)) == 2
        if kind != "attributes":
            off_by(0.1, kind, monkeypatch)
            with pytest.raises(CaptureMismatchError):
                capture(net, x)


def test_compensation_under_autocast_is_as_exact_as_without():
    net, x = model(), tokens(1, 30)
    for autocast in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            plain = capture(net, x)[0].to(torch.float64)
            with patch(net, 0.8, norm_compensation=True):
                inputs = capture(net, x)[0].to(torch.float64)
        norm = inputs.transition().operator_norm()
        torch.testing.assert_close(norm, plain.alpha, rtol=1e-5, atol=0)


def test_products_that_are_rounded_are_allowed_for():
    o = torch.randn(1, 3, 2, 4)
    assert recording._precision(o, True) == "float32"
    assert recording._precision(o.double(), True) == "float32"
    assert recording._precision(o.double() / 3, True) == "float64"
    assert recording._precision(o.half(), True) == "float32"
    assert recording._precision(o.half(), False) == "float16"
    products = torch.backends.mkldnn.matmul
    before = products.fp32_precision
    try:
        for setting, expected in (("bf16", "bfloat16"), ("tf32", "tf32"), ("ieee", "float32")):
            products.fp32_precision = setting
            assert recording._precision(o, True) == expected
    finally:
        products.fp32_precision = before
    # As on an accelerator, where kernels may sum in what they are given.
    assert recording._precision(o.to("meta", torch.bfloat16), True) == "bfloat16"


def test_outputs_below_half_precision_s_range_are_compared_as_that():
    net, x = tower(FlaLayer, 1)
    layer = net.layers[0]
    with torch.no_grad():
        for scale in (1e-4, 1e-7, 0.0):
            layer.v_proj.weight.mul_(scale)
            layer.v_proj.bias.mul_(scale)
            assert list(capture(copy.deepcopy(net).half(), x.half())) == [0]
