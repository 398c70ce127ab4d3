"""The operation under torch.compile: with every option, whatever the backend, it gives the eager values."""

import itertools

import numpy as np
import pytest
import torch

from qdelta_analysis.learning.linear_attention import linear_attention
from qdelta_kernels import chunk_qdelta_rule, qdelta_rule, qdelta_rule_reference, recurrent_qdelta_rule
from tests.helpers import Tokens, cases, relative_error, tokens

# torch.compile traces what is called; the shape checker is no part of that.
pytestmark = pytest.mark.usefixtures("as_users_call")
FORMS = [qdelta_rule, chunk_qdelta_rule, recurrent_qdelta_rule, qdelta_rule_reference]


def only_adds(q, k, v, g, beta, lam, **options):
    return linear_attention(q, k, v, g, **options)


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled(function, compiler="eager"):
    return torch.compile(lambda *x, **options: function(*x, **options), backend=compiler)


def assert_eager_values(function, x: Tokens, call=None, **options):
    """Outputs, final state and every gradient."""
    plain, traced = x.requiring_grad(), x.requiring_grad()
    expected = plain.call(function, **options)
    found = traced.call(call or compiled(function), **options)
    for ours, reference in zip(found, expected, strict=True):
        assert relative_error(ours, reference) <= 1e-13
    size = lambda y: y[0].square().sum() + y[1].square().sum()
    pairs = (torch.autograd.grad(size(y), z, allow_unused=True) for y, z in ((found, traced), (expected, plain)))
    for name, ours, reference in zip(Tokens._fields, *pairs, strict=True):
        assert (ours is None) == (reference is None), name
        assert ours is None or relative_error(ours, reference) <= 1e-13, name


def test_two_sequences_of_one_token():
    ones = torch.ones(1, 2, 1, 1)
    half, none = torch.full((1, 2, 1), 0.5), torch.zeros(1, 2, 1)
    call = compiled(qdelta_rule)
    o, state = call(
        ones, ones, ones, none, half, none, scale=1.0, output_final_state=True, cu_seqlens=torch.tensor([0, 1, 2])
    )
    assert o.flatten().tolist() == [0.5, 0.5]
    assert state.flatten().tolist() == [0.5, 0.5]


@pytest.mark.parametrize("function", [*FORMS, only_adds])
def test_one_graph_for_sequences_that_end_elsewhere(function):
    call = compiled(function)
    for bounds in ([0, 3, 9], [0, 4, 9], [0, 0, 9], [0, 9, 9], [0, 2, 5]):
        x = tokens(T=bounds[-1], H=1, HV=2, K=4, V=3, N=2)
        assert_eager_values(function, x, call=call, cu_seqlens=torch.tensor(bounds))


@pytest.mark.parametrize("compiler", ["eager", "aot_eager", "inductor"])
def test_packed_sequences_on_every_compiler(compiler):
    x = tokens(T=20, H=1, HV=2, K=4, V=3, N=3)
    assert_eager_values(qdelta_rule, x, compiled(qdelta_rule, compiler), cu_seqlens=torch.tensor([0, 7, 7, 20]))


def test_a_whole_graph_of_packed_sequences_is_refused():
    x = tokens(T=4, N=2)
    call = torch.compile(
        lambda *y, cu_seqlens: qdelta_rule(*y[:6], cu_seqlens=cu_seqlens), fullgraph=True, backend="eager"
    )
    with pytest.raises(torch._dynamo.exc.Unsupported, match="cu_seqlens decides what is computed"):
        call(*x, cu_seqlens=torch.tensor([0, 1, 4]))


@pytest.mark.parametrize("function", [*FORMS, qdelta_rule_reference])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_packed_sequences_are_not_exported_as_one(function, as_users_call):
    x = tokens(T=4, N=2)
    forward = lambda _, *y, cu_seqlens: function(*y, cu_seqlens=cu_seqlens)[0]
    call = type("Call", (torch.nn.Module,), {"forward": forward})
    with pytest.raises(RuntimeError, match=r"cu_seqlens is given where torch.export traces a graph, .*; expected"):
        torch.export.export(call(), tuple(x[:6]), {"cu_seqlens": torch.tensor([0, 1, 4])}, strict=False)


@pytest.mark.parametrize("function", FORMS)
@pytest.mark.parametrize("options", [{"scale": 2.0}, {"l2norm_qk": True}, {"scale": 0.5, "l2norm_qk": True}], ids=str)
def test_every_option(function, options):
    assert_eager_values(function, tokens(T=9, H=1, HV=2, K=4, V=3), **options)


@pytest.mark.parametrize(
    "options", [{"chunk_size": 1}, {"chunk_size": 4}, {"intra": "released", "chunk_size": 4}], ids=str
)
def test_every_option_of_the_chunk_form(options):
    assert_eager_values(chunk_qdelta_rule, tokens(T=9, H=1, HV=2, K=4, V=3), **options)


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_every_backend_of_ours(backend):
    call = compiled(qdelta_rule)
    for T in (0, 1, 2, 9):
        x = tokens(T=T, H=1, HV=2, K=4, V=3)
        assert_eager_values(qdelta_rule, x, call=call, backend=backend)


@pytest.mark.cases
def test_random_calls_of_one_compiled_operation():
    """Options, lengths, bounds and optional arguments change from call to call, as they do in use."""
    draw = np.random.default_rng(0)
    call = compiled(qdelta_rule)
    for case in range(cases(25)):
        T, packed = int(draw.integers(0, 12)), bool(draw.integers(2))
        N = int(draw.integers(1, 4)) if packed else 1
        x = tokens(T=T, H=1, HV=int(draw.integers(1, 3)), K=4, V=3, N=N, seed=case)
        options = {"output_final_state": bool(draw.integers(2)), "l2norm_qk": bool(draw.integers(2))}
        if packed:
            inner = sorted(draw.integers(0, T + 1, N - 1).tolist())
            options["cu_seqlens"] = torch.tensor([0, *inner, T])
        g, lam = (None if draw.integers(4) == 0 else y for y in (x.g, x.lam))
        state = None if draw.integers(2) else x.state
        arguments = (x.q, x.k, x.v, g, x.beta, lam)
        for ours, reference in zip(
            call(*arguments, initial_state=state, **options),
            qdelta_rule(*arguments, initial_state=state, **options),
            strict=True,
        ):
            assert (ours is None) == (reference is None), options
            assert ours is None or relative_error(ours, reference) <= 1e-13, options


def test_bounds_that_are_none_are_refused_under_compilation_too():
    x = tokens(T=6, N=2)
    for ends in ([0, 4, 5], [0, 7, 6], [1, 3, 6]):
        with pytest.raises(ValueError, match=r"cu_seqlens is .*; expected"):
            x.call(compiled(qdelta_rule), cu_seqlens=torch.tensor(ends))


def test_kernels_read_the_bounds_when_they_run():
    pytest.importorskip("triton")
    if torch.cuda.is_available():
        pytest.skip("in the interpreter only")
    x = tokens(T=40, H=1, K=16, V=16, N=3).to(torch.float32)
    call = compiled(qdelta_rule, "aot_eager")
    for bounds in ([0, 10, 10, 40], [0, 1, 33, 40]):
        cu_seqlens = torch.tensor(bounds)
        found = x.call(call, backend="triton", cu_seqlens=cu_seqlens)
        for n, (start, end) in enumerate(itertools.pairwise(bounds)):
            alone = Tokens(*(y[:, start:end] for y in x[:6]), x.state[n : n + 1]).to(torch.float64)
            o, state = alone.call(qdelta_rule_reference)
            assert relative_error(found[0][:, start:end], o) <= 1e-6
            assert relative_error(found[1][n : n + 1], state) <= 1e-6
    for ends in ([0, 50, 60, 40], [0, 1, 2, 90]):
        with pytest.raises(ValueError, match=r"cu_seqlens is .*; expected"):
            x.call(call, backend="triton", cu_seqlens=torch.tensor(ends))
