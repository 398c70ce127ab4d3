"""capture() on flash-linear-attention itself, where it is installed: in a process of its own."""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch

# Without a GPU Triton interprets the kernels. Its autotuner asks for a GPU all the same, so the first choice is
# taken; and the interpreter cannot run the chunk kernels of this library, so sequences stay short.
CODE = """
import torch
cuda = torch.cuda.is_available()
if not cuda:
    from triton.runtime.autotuner import Autotuner
    Autotuner.run = lambda self, *a, **k: self.fn.run(*a, **{**k, **self.configs[0].all_kwargs()})
torch.set_grad_enabled(False)
torch.manual_seed(0)
from fla.layers import GatedDeltaNet
from qdelta_analysis import capture, patch
from qdelta_analysis.capturing import record
device = "cuda" if cuda else "cpu"
for T in (20, 200) if cuda else (20,):
    options = dict(hidden_size=32, head_dim=16, num_heads=2, num_v_heads=4, expand_v=1.5, allow_neg_eigval=True)
    layer = GatedDeltaNet(**options, layer_idx=3).eval().to(device)
    x = torch.randn(2, T, 32, device=device)
    before = [list(layer.__dict__), layer.forward.__globals__["chunk_gated_delta_rule"]]
    (inputs,) = capture(layer, x).values()
    print(T, inputs, inputs.metadata["replay_error"])
    assert inputs.H == 4 and inputs.q.shape[2] == 2 and inputs.beta.max() > 1
    assert before == [list(layer.__dict__), layer.forward.__globals__["chunk_gated_delta_rule"]]
    mask = torch.ones(2, T, dtype=torch.long, device=device)
    mask[0, :6] = 0
    (padded,) = capture(layer, x, attention_mask=mask).values()
    # Beyond the convolution's reach of what was left out, the row's values are as before.
    assert torch.allclose(padded.v[0, 3 : T - 6], inputs.v[0, 9:], atol=1e-5)
    plain = layer(x)[0]
    with patch(layer, lam=0.0):
        same = layer(x)[0]
    with patch(layer, lam=0.5):
        other = layer(x)[0]
    assert (same - plain).norm() < (2e-2 if cuda else 1e-5) * plain.norm()
    assert (other - plain).norm() > 3e-2 * plain.norm()
"""


@pytest.mark.skipif(importlib.util.find_spec("fla") is None, reason="flash-linear-attention is not installed")
def test_layers_of_flash_linear_attention():
    interpreted = {} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1"}
    run = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, env=os.environ | interpreted)
    assert run.returncode == 0, run.stderr
