"""Gates from no decay to a reset: what lies before one cannot touch what lies after it."""

import math

import pytest
import torch

from qdelta_analysis.learning.linear_attention import linear_attention
from qdelta_kernels import (
    chunk_qdelta_diagnostics,
    chunk_qdelta_rule,
    qdelta_rule,
    qdelta_rule_reference,
    recurrent_qdelta_rule,
)
from tests.helpers import Tokens, cases, gradients, relative_error, tokens

RESETS = [-1.0, -50.0, -104.0, -110.0, -746.0, -1e4, -1e8, -1e12, -1e14, -1e16, -1e30, -3.4e38, float("-inf")]
FORMS = [qdelta_rule, chunk_qdelta_rule, recurrent_qdelta_rule, qdelta_rule_reference]


def triton(*arguments, **options):
    return qdelta_rule(*arguments, backend="triton", **options)


def in_interpreter(dtype):
    pytest.importorskip("triton")
    if torch.cuda.is_available() or dtype == torch.float64:
        pytest.skip("the kernels compute in float32; on a GPU test_triton_gpu.py tests them")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("function", [*FORMS, triton])
@pytest.mark.parametrize("reset", RESETS)
def test_the_token_after_a_reset(function, reset, dtype):
    if function is triton:
        in_interpreter(dtype)
    column = lambda *values: torch.tensor(values, dtype=dtype)[None, :, None]
    ones, v = torch.ones(1, 3, 1, 1, dtype=dtype), column(1.0, 1, 0)[..., None]
    o, state = function(
        ones, ones, v, column(0, reset, -1), column(1.0, 1, 0), None, scale=1.0, output_final_state=True
    )
    assert o[0, 2, 0, 0].item() == pytest.approx(0.36787944117144233, rel=4 * torch.finfo(dtype).eps)
    assert state.item() == pytest.approx(0.36787944117144233, rel=4 * torch.finfo(dtype).eps)


def with_resets(seed, T, dtype, among=RESETS, share=0.2) -> Tokens:
    x = tokens(T=T, H=1, HV=2, K=4, V=3, seed=seed)
    make = torch.Generator().manual_seed(seed)
    at = torch.rand(x.g.shape, generator=make) < share
    values = torch.tensor(among, dtype=torch.float64)[torch.randint(len(among), x.g.shape, generator=make)]
    return x._replace(g=torch.where(at, values, x.g)).to(dtype)


def error(ours: torch.Tensor, reference: torch.Tensor) -> float:
    """The relative error, or 0 where all of what was expected is below what the dtype holds to its full precision."""
    lost = reference.abs().max() < torch.finfo(ours.dtype).tiny and ours.abs().max() < torch.finfo(ours.dtype).tiny
    return 0.0 if lost else relative_error(ours, reference)


@pytest.mark.cases
@pytest.mark.parametrize("function", [chunk_qdelta_rule, recurrent_qdelta_rule])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 5e-6), (torch.float64, 1e-12)], ids=str)
def test_many_resets_at_every_chunk_size(function, dtype, bound):
    for seed in range(cases(20)):
        x = with_resets(seed, 3 + seed % 30, dtype)
        options = {} if function is recurrent_qdelta_rule else {"chunk_size": 1 + 7 * seed % 40}
        exact = x.to(torch.float64)
        for ours, reference in zip(x.call(function, **options), exact.call(qdelta_rule_reference), strict=True):
            assert error(ours, reference) <= bound, seed
        found, expected = gradients(x, function, **options), gradients(exact, qdelta_rule_reference)
        for name, ours, reference in zip(Tokens._fields, found, expected, strict=True):
            assert error(ours, reference) <= 10 * bound, (seed, name)


@pytest.mark.cases
def test_many_resets_in_the_kernels():
    in_interpreter(torch.float32)
    for seed in range(cases(3)):
        x = with_resets(seed, 20, torch.float32)
        exact = x.to(torch.float64)
        for ours, reference in zip(x.call(triton), exact.call(qdelta_rule_reference), strict=True):
            assert error(ours, reference) <= 5e-6
        for ours, reference in zip(gradients(x, triton), gradients(exact, qdelta_rule_reference), strict=True):
            assert error(ours, reference) <= 5e-5


@pytest.mark.parametrize("reset", [-1e6, -1e16, -3e38])
@pytest.mark.parametrize("function", [*FORMS, triton])
def test_a_gate_that_leaves_nothing_has_no_slope(function, reset):
    """What rounding leaves of one is multiplied by g itself where g is a factor times something: A_log's gradient."""
    if function is triton:
        in_interpreter(torch.float32)
    x = tokens(T=6, H=1, K=4, V=3).to(torch.float32)
    g = x.g.clone()
    g[:, 2] = reset
    assert gradients(x._replace(g=g), function)[3][0, 2, 0].item() == 0.0


@pytest.mark.parametrize("reset", RESETS)
def test_the_trace_after_a_reset(reset):
    x = tokens(T=9, H=1, K=4, V=3)
    g = x.g.clone()
    g[:, 4] = reset
    x = x._replace(g=g)
    whole = chunk_qdelta_diagnostics(*x[:6], initial_state=x.state)
    state = Tokens(*(y[:, :5] for y in x[:6]), x.state).call(qdelta_rule_reference)[1]
    rest = chunk_qdelta_diagnostics(*(y[:, 5:] for y in x[:6]), initial_state=state)
    for name in ("error_before", "error_after", "key_retrieval", "query_prediction", "cosine", "state_norm"):
        assert relative_error(getattr(whole, name)[:, 5:], getattr(rest, name)) <= 1e-13, name


@pytest.mark.parametrize("reset", RESETS)
def test_linear_attention_after_a_reset(reset):
    x = tokens(T=9, H=1, K=4, V=3)
    g = x.g.clone()
    g[:, 4] = reset
    q, k, v, g = (y.requires_grad_() for y in (x.q, x.k, x.v, g))
    o, state = linear_attention(q, k, v, g, initial_state=x.state, output_final_state=True)
    S, outputs = x.state, []
    for t in range(9):
        S = g[:, t].exp()[..., None, None] * S + k[:, t, :, :, None] * v[:, t, :, None, :]
        outputs.append(2**-1 * (q[:, t, :, None] @ S)[..., 0, :])
    assert relative_error(o, torch.stack(outputs, 1)) <= 1e-13
    assert relative_error(state, S) <= 1e-13
    slopes = (torch.autograd.grad(y.sum(), (q, k, v, g), retain_graph=True) for y in (o, torch.stack(outputs, 1)))
    for ours, reference in zip(*slopes, strict=True):
        assert relative_error(ours, reference) <= 1e-12


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_other_gates_that_are_no_number_are_refused(bad):
    x = tokens(T=5)
    g = x.g.clone()
    g[0, 3, 1] = bad
    with pytest.raises(
        ValueError, match=r"g holds (nan|inf) at index \[0, 3, 1\]; expected finite values only \(or -inf"
    ):
        qdelta_rule(*x._replace(g=g)[:6])


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("g", [-1.0, -16.0, -20.0, -40.0, -80.0])
def test_what_is_read_of_a_memory_that_a_gate_left_little_of(backend, g):
    """It is far less than what the token writes; S_0 = I, so the cosine is that of q and k."""
    if backend == "triton":
        in_interpreter(torch.float32)
    vector = lambda *values: torch.tensor(values).view(1, 1, 1, 2)
    gate = lambda value: torch.full((1, 1, 1), value)
    gates = (gate(g), gate(0.5), gate(0.5))
    q, k, v = vector(0.6, 0.8), vector(1.0, 0.0), vector(0.3, 0.7)
    found = chunk_qdelta_diagnostics(q, k, v, *gates, initial_state=torch.eye(2)[None, None], backend=backend)
    for name, value in (("cosine", 0.6), ("key_retrieval", math.exp(g)), ("query_prediction", math.exp(g))):
        assert getattr(found, name).item() == pytest.approx(value, rel=1e-6, abs=0), name


def test_what_is_too_large_for_a_product_stays_behind_a_reset_and_in_its_future():
    pair = lambda *values: torch.tensor(values).view(1, 2, 1, 1)
    gates = lambda *values: torch.tensor(values).view(1, 2, 1)
    ones = pair(1.0, 1.0)
    reset = (pair(1.0, 1e20), pair(1e20, 1.0), ones, gates(0.0, -torch.inf), gates(1.0, 1.0), None)
    later = (pair(1e20, 1.0), pair(1.0, 1e20), ones, None, gates(1.0, 0.0), None)
    for arguments, expected in ((reset, [1e20, 1e20]), (later, [1e20, 1.0])):
        for function in (qdelta_rule, chunk_qdelta_rule, recurrent_qdelta_rule):
            x = [y if y is None else y.clone().requires_grad_() for y in arguments]
            o, _ = function(*x, scale=1.0)
            assert o.flatten().tolist() == pytest.approx(expected), function
            o[:, 0].sum().backward()
            assert all(torch.isfinite(y.grad).all() for y in x[:3]), function
    in_interpreter(torch.float32)
    assert triton(*later, scale=1.0)[0].flatten().tolist() == pytest.approx([1e20, 1.0])


@pytest.mark.parametrize("C", [1, 2, 64])
def test_what_overflows_stays_behind_a_reset_at_every_chunk_size(C):
    pair = lambda *values: torch.tensor(values).view(1, 2, 1, 1)
    gates = lambda *values: torch.tensor(values).view(1, 2, 1)
    x = (pair(1.0, 1e20), pair(1e20, 1.0), pair(1.0, 1.0), gates(0.0, -torch.inf), gates(1.0, 1.0), None)
    o, state = chunk_qdelta_rule(*x, scale=1.0, output_final_state=True, chunk_size=C)
    assert o.flatten().tolist() == pytest.approx([1e20, 1e20])
    assert state.item() == 1
    found = chunk_qdelta_diagnostics(*x, at=[0, 1], chunk_size=C)
    assert found.state_norm.flatten().tolist() == pytest.approx([1e20, 1.0])
    assert found.states.flatten().tolist() == pytest.approx([1e20, 1.0])
    assert linear_attention(*x[:4], scale=1.0, chunk_size=C)[0].flatten().tolist() == pytest.approx([1e20, 1e20])
    # What enters is too large to be read, and is forgotten before it is.
    large = torch.full((1, 1, 1, 1), 1e30)
    y = (pair(1e10, 1.0), pair(1e10, 1.0), pair(1.0, 1.0), gates(-torch.inf, 0.0), gates(1e-20, 1.0), None)
    leaves = [z if z is None else z.requires_grad_() for z in y]
    o, _ = chunk_qdelta_rule(*leaves, scale=1.0, initial_state=large, chunk_size=C)
    assert o.flatten().tolist() == pytest.approx([1.0, 1.0])
    assert all(z.isfinite().all() for z in torch.autograd.grad(o.sum(), [z for z in leaves if z is not None]))


def test_a_memory_that_left_the_range_is_forgotten_where_a_chunk_ends():
    pair = lambda *values: torch.tensor(values).view(1, 2, 1, 1)
    gates = lambda *values: torch.tensor(values).view(1, 2, 1)
    x = (pair(1.0, 1.0), pair(1.0, 1.0), pair(3e38, 1.0), gates(0.0, -torch.inf), gates(2.0, 1.0), None)
    o, state = chunk_qdelta_rule(*x, scale=1.0, output_final_state=True, chunk_size=1)
    assert o.flatten().tolist() == [torch.inf, 1.0]
    assert state.item() == 1
    assert chunk_qdelta_diagnostics(*x, chunk_size=1).state_norm.flatten().tolist() == [torch.inf, 1.0]
