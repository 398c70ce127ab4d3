"""Every path of the recurrence against the definition in float64."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qdelta_kernels import chunk_qdelta_rule, qdelta_rule, qdelta_rule_reference, recurrent_qdelta_rule
from tests.helpers import Tokens, gradients, relative_error, tokens

PATHS = [chunk_qdelta_rule, recurrent_qdelta_rule]
SHAPES = [
    {"T": 1},
    {"T": 63, "B": 2},
    {"T": 100, "H": 2, "HV": 6},
    {"T": 1000, "H": 1, "K": 5, "V": 3},
    {"T": 64, "K": 1, "V": 1},
]


def test_the_definition_is_the_paper_s_equation_in_numpy():
    x = tokens(T=20, H=1, K=5, V=4)
    o, state = x.call(qdelta_rule_reference, scale=1.0)
    q, k, v, g, beta, lam = (np.asarray(y)[0, :, 0] for y in x[:6])
    S = np.asarray(x.state)[0, 0].T
    for t in range(20):
        mixed = k[t] + lam[t] * q[t]
        S = np.exp(g[t]) * S @ (np.eye(5) - beta[t] * np.outer(mixed, k[t])) + beta[t] * np.outer(v[t], k[t])
        np.testing.assert_allclose(o[0, t, 0], S @ q[t], atol=1e-14)
    np.testing.assert_allclose(state[0, 0].T, S, atol=1e-14)


@pytest.mark.parametrize("function", PATHS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_outputs_and_state_in_float64_and_float32(function, shape):
    x = tokens(**shape)
    expected = x.call(qdelta_rule_reference)
    for dtype, bound in ((torch.float64, 1e-12), (torch.float32, 2e-6)):
        rounded = x.to(dtype)
        exact = expected if dtype == torch.float64 else rounded.to(torch.float64).call(qdelta_rule_reference)
        for ours, reference in zip(rounded.call(function), exact, strict=True):
            assert ours.dtype == dtype
            assert relative_error(ours, reference) <= bound


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    x = tokens(T=70)._replace(state=tokens(T=70).state.float())
    half = Tokens(*(y.to(dtype) for y in x[:6]), x.state)
    o, state = half.call(chunk_qdelta_rule)
    exact = Tokens(*(y.double() for y in half)).call(qdelta_rule_reference)
    assert (o.dtype, state.dtype) == (dtype, torch.float32)
    assert relative_error(state, exact[1]) <= 2e-6
    assert relative_error(o, exact[0]) <= torch.finfo(dtype).eps


@pytest.mark.parametrize("chunk_size", [1, 2, 7, 16, 64, 1000])
def test_every_chunk_size_gives_the_recurrence(chunk_size):
    x = tokens(T=100)
    expected = x.call(qdelta_rule_reference)
    for ours, reference in zip(x.call(chunk_qdelta_rule, chunk_size=chunk_size), expected, strict=True):
        assert relative_error(ours, reference) <= 1e-12


@pytest.mark.parametrize("function", [*PATHS, qdelta_rule_reference])
def test_packed_sequences_equal_separate_ones(function):
    bounds = [0, 3, 3, 40, 41, 100]
    x = tokens(T=100, H=2, HV=4, N=5)
    cu_seqlens = torch.tensor(bounds)
    o, state = x.call(function, cu_seqlens=cu_seqlens)
    for n, (start, end) in enumerate(itertools.pairwise(bounds)):
        alone = Tokens(*(y[:, start:end] for y in x[:6]), x.state[n : n + 1])
        o_alone, state_alone = alone.call(qdelta_rule_reference)
        assert relative_error(o[:, start:end], o_alone) <= 1e-12
        assert relative_error(state[n : n + 1], state_alone) <= 1e-12
    packed = gradients(x, function, cu_seqlens=cu_seqlens)
    for ours, reference in zip(packed, gradients(x, qdelta_rule_reference, cu_seqlens=cu_seqlens), strict=True):
        assert relative_error(ours, reference) <= 1e-12


@pytest.mark.slow
def test_many_packed_sequences_in_many_blocks():
    lengths = torch.randint(0, 90, (40,), generator=torch.Generator().manual_seed(1))
    cu_seqlens = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)]).int()
    x = tokens(T=int(cu_seqlens[-1]), H=4, K=64, V=64, N=40)
    for ours, reference in zip(
        x.call(chunk_qdelta_rule, cu_seqlens=cu_seqlens),
        x.call(recurrent_qdelta_rule, cu_seqlens=cu_seqlens),
        strict=True,
    ):
        assert relative_error(ours, reference) <= 1e-12


@pytest.mark.parametrize("function", PATHS)
@pytest.mark.parametrize("shape", [{"T": 1}, {"T": 63, "B": 2}, {"T": 100, "HV": 6}], ids=str)
def test_gradients_equal_the_definition_s(function, shape):
    x = tokens(**shape)
    expected = gradients(x, qdelta_rule_reference)
    for ours, reference in zip(gradients(x, function), expected, strict=True):
        assert relative_error(ours, reference) <= 1e-12
    in_float32 = gradients(x.to(torch.float32), function)
    for ours, reference in zip(in_float32, expected, strict=True):
        assert relative_error(ours, reference) <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("intra", ["recurrence", "released"])
@pytest.mark.parametrize("l2norm_qk", [False, True])
def test_gradcheck(intra, l2norm_qk):
    x = tokens(T=10, H=1, HV=2, K=3, V=2).requiring_grad()
    assert torch.autograd.gradcheck(
        lambda *x: Tokens(*x).call(chunk_qdelta_rule, chunk_size=4, intra=intra, l2norm_qk=l2norm_qk), tuple(x)
    )


def test_gradient_of_the_final_state_alone_and_of_one_input():
    x = tokens(T=70)
    beta = x.beta.clone().requires_grad_()
    ours, expected = (
        torch.autograd.grad(x._replace(beta=beta).call(function)[1].square().sum(), beta)[0]
        for function in (chunk_qdelta_rule, qdelta_rule_reference)
    )
    assert relative_error(ours, expected) <= 1e-12


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    B=st.integers(1, 2),
    T=st.integers(1, 70),
    H=st.integers(1, 2),
    groups=st.integers(1, 3),
    K=st.integers(1, 9),
    V=st.integers(1, 9),
    chunk_size=st.integers(1, 80),
    g=st.sampled_from([None, 0.0, -50.0, "mixed"]),
    beta=st.sampled_from([0.0, 1.0, 2.0, "mixed"]),
    lam=st.sampled_from([None, 0.0, 1.0, 2.0, "mixed"]),
)
def test_any_shape_chunk_size_and_extreme_gate(seed, B, T, H, groups, K, V, chunk_size, g, beta, lam):
    x = tokens(B=B, T=T, H=H, HV=H * groups, K=K, V=V, seed=seed)
    make = torch.Generator().manual_seed(seed)

    def gate(value, extremes):
        if value is None:
            return None
        if value == "mixed":
            return torch.tensor(extremes, dtype=torch.float64)[torch.randint(len(extremes), x.g.shape, generator=make)]
        return torch.full_like(x.g, value)

    x = x._replace(g=gate(g, [0.0, -1e-3, -50.0]), beta=gate(beta, [0.0, 1.0, 2.0]), lam=gate(lam, [0.0, 1.0, 2.0]))
    for ours, reference in zip(
        x.call(chunk_qdelta_rule, chunk_size=chunk_size), x.call(qdelta_rule_reference), strict=True
    ):
        assert relative_error(ours, reference) <= 1e-12
        assert torch.isfinite(ours).all()


def test_decay_between_gates_of_minus_fifty_keeps_its_accuracy_in_float32():
    x = tokens(T=64, H=1, K=8, V=8)
    g = torch.where(torch.arange(64) % 8 == 7, -0.1, -50.0).double()
    x = x._replace(g=g.view(1, 64, 1)).to(torch.float32)
    ours, exact = x.call(chunk_qdelta_rule)[0], x.to(torch.float64).call(qdelta_rule_reference)[0]
    assert relative_error(ours[:, 7::8], exact[:, 7::8]) <= 2e-6


def test_the_doubling_cycle_in_which_the_error_contracts_perfectly():
    """Two tokens at lam = 1, beta = 1, beta a = 1 over which ||S|| doubles: the chunk inverse grows like 2^(T/2)."""
    r = 0.5**0.5
    q = torch.tensor([[0.0, 1.0], [-r, r]], dtype=torch.float64).repeat(32, 1)[None, :, None]
    k = torch.tensor([[1.0, 0.0], [-r, -r]], dtype=torch.float64).repeat(32, 1)[None, :, None]
    ones = torch.ones(1, 64, 1, dtype=torch.float64)
    x = Tokens(q, k, torch.zeros_like(q), 0 * ones, ones, ones, torch.eye(2, dtype=torch.float64)[None, None])
    assert torch.allclose((k * (k + q)).sum(-1), ones)
    o, state = x.call(qdelta_rule_reference)
    assert float(torch.linalg.matrix_norm(state, 2)) >= 2.0**32
    for chunk_size in (1, 16, 64):
        for ours, reference in zip(x.call(chunk_qdelta_rule, chunk_size=chunk_size), (o, state), strict=True):
            assert relative_error(ours, reference) <= 1e-12


def test_backends_and_decoding_agree_at_every_split():
    x = tokens(T=40, H=2, HV=4)
    expected = x.call(qdelta_rule_reference)
    for backend in ("auto", "torch", "reference"):
        for ours, reference in zip(x.call(qdelta_rule, backend=backend), expected, strict=True):
            assert relative_error(ours, reference) <= 1e-12
    for prefill in (0, 1, 17, 39):
        outputs, state = [], x.state
        for part in [slice(0, prefill), *(slice(t, t + 1) for t in range(prefill, 40))]:
            o, state = Tokens(*(y[:, part] for y in x[:6]), state).call(qdelta_rule)
            outputs.append(o)
        assert relative_error(torch.cat(outputs, 1), expected[0]) <= 1e-12
        assert relative_error(state, expected[1]) <= 1e-12


@pytest.mark.parametrize("function", [*PATHS, qdelta_rule_reference])
def test_no_tokens_leave_the_state_alone(function):
    x = tokens(T=0)
    before = x.state.clone()
    o, state = x.call(function)
    assert o.shape == x.v.shape
    assert torch.equal(state, x.state)
    state.zero_()  # it is another tensor
    assert torch.equal(x.state, before)
