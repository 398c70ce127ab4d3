"""Every public function on a CUDA device: the same answers there, in every dtype."""

import numpy as np
import pytest
import torch

from qdelta_analysis import capture, patch, recall
from tests.learning.sizes import model, tokens

from .public_functions import DTYPES, FUNCTIONS, IN_THEIR_DTYPE, KINDS, OF_PRECISION, arrays, make

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.usefixtures("as_users_call")
def test_the_answers_are_those_of_the_cpu_in_float64(name, dtype):
    within = 1e-9 if dtype == "float64" else 1e-1 if name in IN_THEIR_DTYPE and "16" in dtype else 5e-3
    if name == "trace" and "16" in dtype:  # the kernels multiply in that precision
        within = 8 * torch.finfo(DTYPES[dtype]).eps
    for kind in ("plain", "sequences", "heads that share keys", "one token", "no decay and no feedback", "gradients"):
        inputs = make(DTYPES[dtype], **KINDS[kind])
        found = arrays(FUNCTIONS[name](inputs.to("cuda")))
        expected = arrays(FUNCTIONS[name](inputs.to(torch.float64)))
        assert set(found) == set(expected)
        for variable in set(found) - set(OF_PRECISION.get(name, ())):
            if "angle" in variable:  # in degrees, and of short vectors
                continue
            size = np.nanmax(np.abs(expected[variable]), initial=1.0, where=np.isfinite(expected[variable]))
            np.testing.assert_allclose(
                found[variable], expected[variable], rtol=0, atol=within * size, err_msg=f"{kind} {variable}"
            )


@pytest.mark.parametrize("dtype", DTYPES.values())
def test_models_are_captured_and_patched(dtype):
    net, ids = model().to("cuda", dtype), tokens(2, 70).cuda()
    assert list(capture(net, ids)) == [0, 1]
    with patch(net, 0.6):
        assert list(capture(net, ids)) == [0, 1]
    net.train().gradient_checkpointing = True  # recomputed by a thread of the autograd engine
    grads = []
    for checkpointed in (True, False):
        net.gradient_checkpointing = checkpointed
        net.zero_grad()
        with patch(net, 0.9):
            loss = net(ids).float().square().sum()
        loss.backward()
        grads.append(net.blocks[0].mixer.v_proj.weight.grad.double().cpu())
    torch.testing.assert_close(*grads, rtol=1e-3, atol=1e-3 * float(grads[1].abs().max()))


def test_recall_is_computed_as_before():
    assert recall.measure(pairs=4, d=8, seeds=2).error.notnull().all()
