"""Sequences are independent whatever their values: in a batch, packed in a row, and where there are no tokens."""

import itertools

import pytest
import torch

from qdelta_kernels import chunk_qdelta_diagnostics, qdelta_rule
from qdelta_kernels.gpu import HAS_TRITON
from tests.helpers import Tokens, tokens

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU, test_triton_gpu.py tests the kernels")
# The kernels on their own: the call refuses values that are not finite where it can see them, on a CPU.
C = 16


def kernels(x: Tokens, cu_seqlens=None, l2norm=False):
    from qdelta_kernels.triton import ops

    leaves = x.requiring_grad()
    o, state, *_ = ops.chunk_forward_op(*leaves, cu_seqlens, 0.25, l2norm, C)
    return leaves, o, state


def spoilt(x: Tokens, name: str, value: float, part) -> Tokens:
    changed = getattr(x, name).clone()
    changed[part] = value
    return x._replace(**{name: changed})


@pytest.mark.skipif(not HAS_TRITON, reason="needs Triton")
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("l2norm", [False, True])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("name", "value"), [("v", float("nan")), ("q", 3e38), ("k", 3e38), ("beta", float("inf")), ("g", float("nan"))]
)
def test_trouble_stays_in_its_sequence(name, value, packed, l2norm):
    """The middle one of three sequences of 17 tokens, one more than a chunk has: its neighbours are as if alone."""
    lengths = (17, 17, 17)
    x = tokens(B=3, T=17, H=1, HV=2, K=16, V=20).to(torch.float32)
    cu_seqlens, first, last = None, 0, 2
    part = (1,)
    if packed:
        x = Tokens(*(y.flatten(0, 1)[None] for y in x[:6]), x.state)
        cu_seqlens = torch.tensor([0, *itertools.accumulate(lengths)])
        part = (0, slice(17, 34))

    def followed(x):
        leaves, o, state = kernels(x, cu_seqlens, l2norm)
        rows = o[0].unflatten(0, (3, 17)) if packed else o
        found = [rows[[first, last]], state[[first, last]]]
        slopes = torch.autograd.grad(sum(y.sum() for y in found), leaves)
        for slope in slopes[:6]:
            found.append((slope[0].unflatten(0, (3, 17)) if packed else slope)[[first, last]])
        return [*found, slopes[6][[first, last]]]

    for clean, beside in zip(followed(x), followed(spoilt(x, name, value, part)), strict=True):
        assert torch.equal(clean, beside)


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("name", ["q", "k", "v"])
def test_large_values_stay_in_their_sequence(name, backend):
    x = tokens(T=51, H=1, HV=2, K=4, V=3, N=3).to(torch.float32)
    cu_seqlens = torch.tensor([0, 17, 34, 51])
    clean, beside = (
        y.call(qdelta_rule, cu_seqlens=cu_seqlens, backend=backend)
        for y in (x, spoilt(x, name, 3e38, (0, slice(17, 34))))
    )
    for a, b in zip(clean, beside, strict=True):
        kept = [slice(0, 17), slice(34, 51)] if a.shape[0] == 1 else [0, 2]
        for part in kept:
            assert torch.equal(a[:, part] if a.shape[0] == 1 else a[part], b[:, part] if a.shape[0] == 1 else b[part])


@pytest.mark.skipif(not HAS_TRITON, reason="needs Triton")
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_trace_s_trouble_stays_in_its_row():
    from qdelta_kernels.triton.trace import trace

    x = tokens(B=2, T=17, H=1, K=16, V=16).to(torch.float32)
    clean, beside = (trace(*y, [0, 16], True, C) for y in (x, spoilt(x, "v", float("nan"), (1,))))
    for a, b in zip(clean, beside, strict=True):
        assert torch.equal(a[0], b[0])


@pytest.mark.parametrize("backend", ["torch", "reference", "triton"])
@pytest.mark.parametrize("ends", [[0, 0], [0, 0, 0], [0, 0, 5], [0, 5, 5]])
def test_sequences_without_tokens_leave_their_state_alone(ends, backend):
    if backend == "triton":
        pytest.importorskip("triton")
    x = tokens(T=ends[-1], H=1, HV=2, K=4, V=3, N=len(ends) - 1).to(torch.float32).requiring_grad()
    o, state = x.call(qdelta_rule, cu_seqlens=torch.tensor(ends), backend=backend)
    assert o.shape == x.v.shape
    for n, (start, end) in enumerate(itertools.pairwise(ends)):
        if start == end:
            assert torch.equal(state[n], x.state[n])
    slopes = torch.autograd.grad(o.sum() + state.sum(), x, allow_unused=True, materialize_grads=True)
    assert all(torch.isfinite(slope).all() for slope in slopes)


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_a_trace_of_no_tokens(backend):
    if backend == "triton":
        pytest.importorskip("triton")
    x = tokens(T=0, B=2, H=1, K=4, V=3).to(torch.float32)
    found = chunk_qdelta_diagnostics(*x[:6], initial_state=x.state, backend=backend, keep_updates=True)
    assert found.state_norm.shape == (2, 0, 1)
    assert found.states.shape == (2, 0, 1, 4, 3)
    assert found.updates.shape == x.v.shape
