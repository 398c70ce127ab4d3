"""The Triton kernels, in Triton's interpreter on the CPU, against the definition in float64."""

import itertools
import subprocess
import sys

import pytest
import torch

from qdelta_kernels import chunk_qdelta_diagnostics, qdelta_rule, qdelta_rule_reference
from qdelta_kernels.gpu import decode_qdelta_rule
from tests.helpers import Tokens, gradients, relative_error, tokens

pytest.importorskip("triton")
pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU, test_triton_gpu.py tests the kernels")

SHAPES = [
    {"T": 1, "K": 8, "V": 6},
    {"T": 63, "B": 2, "K": 16, "V": 16},
    {"T": 100, "H": 1, "HV": 3, "K": 20, "V": 40},
    {"T": 40, "H": 1, "K": 128, "V": 72},
]


def kernels(*arguments, **options):
    return qdelta_rule(*arguments, backend="triton", **options)


def assert_equal_recurrence(x: Tokens, chunk_size=64, **options):
    single = x.to(torch.float32)
    exact = single.to(torch.float64)
    found = single.call(kernels, chunk_size=chunk_size, **options)
    for ours, reference in zip(found, exact.call(qdelta_rule_reference, **options), strict=True):
        assert relative_error(ours, reference) <= 1e-6
    found = gradients(single, kernels, chunk_size=chunk_size, **options)
    expected = gradients(exact, qdelta_rule_reference, **options)
    for name, ours, reference in zip(Tokens._fields, found, expected, strict=True):
        assert relative_error(ours, reference) <= 5e-6, name


@pytest.fixture(params=[1, 3], ids=["spans of a chunk", "spans of several"])
def in_spans(monkeypatch, request):
    """Cut long sequences into spans, as for few heads on a large chip."""
    from qdelta_kernels.triton import chunk, plan

    monkeypatch.setattr(plan, "SHORTEST_SPAN", request.param)
    monkeypatch.setattr(chunk, "processors", lambda device: 64)
    lengths, cut = [], chunk.cut
    monkeypatch.setattr(chunk, "cut", lambda *arguments: lengths.append(arguments[2]) or cut(*arguments))
    plan.plan.cache_clear()
    yield
    plan.plan.cache_clear()
    assert request.param in lengths or request.param + 1 in lengths


@pytest.fixture
def upright(monkeypatch):
    """Hold the state the other way round, as for K = 256 on Hopper."""
    from dataclasses import replace

    from qdelta_kernels.triton import chunk

    rows = chunk.launches(torch.float32, 64, torch.device("cpu"))
    turn = lambda launch: replace(launch, upright=True, stages=2)
    turned = replace(rows, forward={width: turn(launch) for width, launch in rows.forward.items()})
    monkeypatch.setattr(chunk, "launches", lambda *_: turned)


@pytest.mark.slow
@pytest.mark.parametrize("l2norm_qk", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_outputs_state_and_gradients(shape, l2norm_qk):
    assert_equal_recurrence(tokens(**shape), l2norm_qk=l2norm_qk)


@pytest.mark.parametrize("chunk_size", [1, 16, 50, 64])
def test_every_chunk_size_gives_the_recurrence(chunk_size):
    assert_equal_recurrence(tokens(T=100, H=1, K=16, V=16), chunk_size=chunk_size)


def test_chunks_of_64_tokens_as_half_precision_has_them(monkeypatch):
    from qdelta_kernels.triton import ops

    monkeypatch.setattr(ops, "chunk_limit", lambda dtype: 64)
    assert_equal_recurrence(tokens(T=150, H=1, K=16, V=16))


@pytest.mark.slow
@pytest.mark.parametrize("l2norm_qk", [False, True])
def test_blocks_of_K(monkeypatch, l2norm_qk):
    """As for K = 256: the gradients of the tokens are computed for a part of K at a time."""
    from dataclasses import replace

    from qdelta_kernels.triton import chunk

    rows = chunk.launches(torch.float32, 64, torch.device("cpu"))
    small = replace(rows, token_gradient=replace(rows.token_gradient, BK=16, BV=16))
    monkeypatch.setattr(chunk, "launches", lambda *_: small)
    assert_equal_recurrence(tokens(T=40, H=1, K=40, V=20), l2norm_qk=l2norm_qk)


@pytest.mark.parametrize("missing", ["g", "lam"])
def test_without_decay_or_query_feedback(missing):
    x = tokens(T=70, H=1, K=16, V=16)
    single = x.to(torch.float32)
    without = [None if name == missing else y for name, y in zip(Tokens._fields[:6], single[:6], strict=True)]
    exact = [None if y is None else y.double() for y in without]
    ours, state = qdelta_rule(*without, backend="triton", output_final_state=True)
    reference, last = qdelta_rule_reference(*exact, output_final_state=True)
    assert relative_error(ours, reference) <= 1e-6
    assert relative_error(state, last) <= 1e-6


@pytest.mark.slow
@pytest.mark.parametrize(("g", "beta", "lam"), [(-50.0, 2.0, 2.0), (0.0, 1.0, 1.0), (-1.0, 0.0, 1.0), (0.0, 1.0, 0.0)])
def test_extreme_gates(g, beta, lam):
    x = tokens(T=40, H=1, K=16, V=16)
    x = x._replace(g=torch.full_like(x.g, g), beta=torch.full_like(x.beta, beta), lam=torch.full_like(x.lam, lam))
    single = x.to(torch.float32)
    exact = single.to(torch.float64)
    for ours, reference in zip(single.call(kernels), exact.call(qdelta_rule_reference), strict=True):
        assert relative_error(ours, reference) <= 5e-6
    for ours in gradients(single, kernels):
        assert torch.isfinite(ours).all()


def test_decay_between_gates_of_minus_fifty_keeps_its_accuracy():
    x = tokens(T=64, H=1, K=16, V=16)
    g = torch.where(torch.arange(64) % 8 == 7, -0.1, -50.0).double()
    x = x._replace(g=g.view(1, 64, 1)).to(torch.float32)
    ours, exact = x.call(kernels)[0], x.to(torch.float64).call(qdelta_rule_reference)[0]
    assert relative_error(ours[:, 7::8], exact[:, 7::8]) <= 2e-6


def test_the_doubling_cycle_in_which_the_error_contracts_perfectly():
    r = 0.5**0.5
    q = torch.tensor([[0.0, 1.0], [-r, r]], dtype=torch.float64).repeat(32, 1)[None, :, None]
    k = torch.tensor([[1.0, 0.0], [-r, -r]], dtype=torch.float64).repeat(32, 1)[None, :, None]
    ones = torch.ones(1, 64, 1, dtype=torch.float64)
    x = Tokens(q, k, torch.zeros_like(q), 0 * ones, ones, ones, torch.eye(2, dtype=torch.float64)[None, None])
    single = x.to(torch.float32)
    o, state = single.to(torch.float64).call(qdelta_rule_reference)
    assert float(torch.linalg.matrix_norm(state, 2)) >= 2.0**31
    for chunk_size in (16, 64):
        for ours, reference in zip(single.call(kernels, chunk_size=chunk_size), (o, state), strict=True):
            assert relative_error(ours, reference) <= 1e-5


@pytest.mark.slow
def test_packed_sequences_equal_separate_ones():
    bounds = [0, 3, 3, 40, 41, 90]
    x = tokens(T=90, H=1, HV=2, K=16, V=16, N=5).to(torch.float32)
    cu_seqlens = torch.tensor(bounds)
    o, state = x.call(kernels, cu_seqlens=cu_seqlens)
    for n, (start, end) in enumerate(itertools.pairwise(bounds)):
        alone = Tokens(*(y[:, start:end] for y in x[:6]), x.state[n : n + 1])
        o_alone, state_alone = alone.call(kernels)
        assert relative_error(o[:, start:end], o_alone) <= 1e-6
        assert relative_error(state[n : n + 1], state_alone) <= 1e-6
    assert_equal_recurrence(tokens(T=90, H=1, HV=2, K=16, V=16, N=5), cu_seqlens=cu_seqlens)


@pytest.mark.slow
@pytest.mark.usefixtures("in_spans")
def test_spans_with_transfer_matrices_equal_the_recurrence():
    assert_equal_recurrence(tokens(T=150, H=1, K=20, V=24), chunk_size=16)
    cu_seqlens = torch.tensor([0, 130, 130, 140, 150])  # several spans, none, and one beside them
    assert_equal_recurrence(tokens(T=150, H=1, K=16, V=16, N=4), chunk_size=16, cu_seqlens=cu_seqlens)


@pytest.mark.slow
@pytest.mark.usefixtures("upright")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_state_held_upright(shape):
    assert_equal_recurrence(tokens(**shape))


@pytest.mark.slow
@pytest.mark.usefixtures("upright", "in_spans")
def test_spans_of_a_state_held_upright():
    assert_equal_recurrence(tokens(T=150, B=1, H=1, K=20, V=40), chunk_size=16)


@pytest.mark.slow
@pytest.mark.usefixtures("in_spans")
def test_spans_keep_a_history_that_grows():
    """Without decay and at lam = 1 nothing may be cut off: the last token sees the first."""
    x = tokens(T=200, H=1, K=16, V=16)
    ones = torch.ones_like(x.g)
    assert_equal_recurrence(x._replace(g=0 * ones, lam=ones), chunk_size=16)


def test_half_precision():
    """Float16: the interpreter multiplies bfloat16 as if it were integers, so that is left to test_triton_gpu.py."""
    dtype = torch.float16
    x = tokens(T=70, H=1, K=16, V=16)
    half = Tokens(*(y.to(dtype) for y in x[:3]), *(y.float() for y in x[3:]))
    exact = half.to(torch.float64)
    bound = 4 * torch.finfo(dtype).eps
    for ours, reference in zip(half.call(kernels), exact.call(qdelta_rule_reference), strict=True):
        assert relative_error(ours, reference) <= bound
    o, state = half.call(kernels)
    assert (o.dtype, state.dtype) == (dtype, torch.float32)
    for ours, reference in zip(gradients(half, kernels), gradients(exact, qdelta_rule_reference), strict=True):
        assert relative_error(ours, reference) <= 2 * bound


@pytest.mark.slow
@pytest.mark.parametrize("prefill", [0, 1, 17, 39])
def test_decoding_continues_a_prefill(prefill):
    x = tokens(T=40, H=1, HV=2, K=16, V=16).to(torch.float32)
    expected, last = x.to(torch.float64).call(qdelta_rule_reference)
    with torch.no_grad():
        o, state = Tokens(*(y[:, :prefill] for y in x[:6]), x.state).call(kernels)
        parts = [o]
        for t in range(prefill, 40):
            before = state.clone()
            token = [y[:, t : t + 1] for y in x[:6]]
            o, state = Tokens(*token, state).call(kernels)
            assert torch.equal(decode_qdelta_rule(*token, before), o)
            assert torch.equal(before, state)
            parts.append(o)
    assert relative_error(torch.cat(parts, 1), expected) <= 1e-6
    assert relative_error(state, last) <= 1e-6


def test_decoding_a_few_tokens_of_packed_sequences():
    x = tokens(T=9, H=1, HV=2, K=20, V=24, N=4).to(torch.float32)
    options = {"cu_seqlens": torch.tensor([0, 2, 2, 6, 9]), "l2norm_qk": True}
    expected = x.to(torch.float64).call(qdelta_rule_reference, **options)
    with torch.no_grad():
        for ours, reference in zip(x.call(kernels, **options), expected, strict=True):
            assert relative_error(ours, reference) <= 1e-6


def test_no_tokens_leave_the_state_alone():
    x = tokens(T=0).to(torch.float32)
    o, state = x.call(kernels)
    assert o.shape == x.v.shape
    assert torch.equal(state, x.state)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "at"),
    [({"T": 70, "K": 8, "V": 6}, (0, 5, 15, 16, 69)), ({"T": 90, "H": 1, "HV": 2, "K": 20, "V": 40, "B": 2}, (3, 89))],
)
def test_traces(shape, at):
    x = tokens(**shape)
    single = x.to(torch.float32)
    ours, reference = (
        chunk_qdelta_diagnostics(*y[:6], initial_state=y.state, at=at, keep_updates=True, backend=backend)
        for y, backend in ((single, "triton"), (single.to(torch.float64), "torch"))
    )
    for name in ours.__dataclass_fields__:
        assert relative_error(getattr(ours, name), getattr(reference, name)) <= 2e-6, name


@pytest.mark.slow
@pytest.mark.parametrize("held", ["across", "upright"])
def test_traces_in_spans(held, in_spans, request):
    if held == "upright":
        request.getfixturevalue("upright")
    x = tokens(T=130, H=1, K=16, V=16).to(torch.float32)
    ours, reference = (
        chunk_qdelta_diagnostics(*y[:6], initial_state=y.state, at=(70, 100), chunk_size=16, backend=backend)
        for y, backend in ((x, "triton"), (x.to(torch.float64), "torch"))
    )
    for name in ("error_before", "cosine", "state_norm", "states"):
        assert relative_error(getattr(ours, name), getattr(reference, name)) <= 2e-6, name


@pytest.mark.slow
def test_the_operators_pass_pytorch_s_own_checks():
    from qdelta_kernels.triton import ops

    x = tokens(T=20, H=1, K=16, V=16).to(torch.float32)
    arguments = (None, 0.25, False)
    leaves = x.requiring_grad()
    torch.library.opcheck(ops.chunk_forward_op, (*leaves, *arguments, 16))
    torch.library.opcheck(ops.decode_op, (*x, *arguments))
    torch.library.opcheck(ops.decode_in_place_op, (*x, *arguments))
    cu_seqlens = torch.tensor([0, 5, 20])
    packed = (*tokens(T=20, H=1, K=16, V=16, N=2).to(torch.float32).requiring_grad(), cu_seqlens, 0.25, True, 16)
    # Dynamic shapes would need the number of sequences as a symbol; the rest is checked.
    torch.library.opcheck(ops.chunk_forward_op, packed, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.slow
@pytest.mark.usefixtures("as_users_call")
def test_a_compiled_graph_is_whole_and_has_the_same_gradients():
    x = tokens(T=20, H=1, K=16, V=16).to(torch.float32)
    function = lambda *y: qdelta_rule(*y[:6], initial_state=y[6], backend="triton")[0]
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    found = []
    for f in (function, compiled):
        leaves = x.requiring_grad()
        found.append(torch.autograd.grad(f(*leaves).square().sum(), leaves))
    for ours, reference in zip(found[1], found[0], strict=True):
        assert torch.equal(ours, reference)


def test_autocast_casts_q_k_and_v_but_no_gates():
    x = tokens(T=20, H=1, K=16, V=16).to(torch.float32)
    for backend in ("triton", "torch"):
        with torch.autocast("cpu", torch.float16):
            o, state = x.call(qdelta_rule, backend=backend)
        assert (o.dtype, state.dtype) == (torch.float16, torch.float32)
        assert relative_error(o, x.to(torch.float64).call(qdelta_rule_reference)[0]) <= 2e-2


@pytest.mark.usefixtures("as_users_call")
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"dtype": torch.float64}, "q has dtype torch.float64; expected float16, bfloat16 or float32"),
        ({"K": 300}, "q has K = 300 and v has V = 6; expected at most K = 256 and V = 512"),
    ],
)
def test_what_the_kernels_cannot_take(change, sentence):
    x = tokens(T=5, **{"dtype": torch.float32} | change)
    with pytest.raises(ValueError, match=sentence):
        x.call(kernels)


@pytest.mark.usefixtures("as_users_call")
def test_a_state_that_cannot_be_overwritten():
    x = tokens(T=1, H=1, K=16, V=16).to(torch.float32)
    for state, found in ((None, "None"), (x.state.double(), "torch.float64"), (x.state.mT, "not contiguous")):
        with pytest.raises(ValueError, match=f"state is .*{found}.*; expected a contiguous float32"):
            decode_qdelta_rule(*x[:6], state)


@pytest.mark.slow
def test_a_machine_without_triton_lacks_only_the_backend():
    code = """
import sys
sys.modules["triton"] = None  # importing it fails
import torch, qdelta_kernels.gpu as gpu
from qdelta_kernels import qdelta_rule
gpu.HAS_TRITON = False
x = torch.randn(4, 1, 5, 2, 8).unbind()
gates = torch.rand(1, 5, 2)
print(qdelta_rule(*x[:3], -gates, gates, gates)[0].shape)
try:
    qdelta_rule(*x[:3], -gates, gates, gates, backend="triton")
except RuntimeError as error:
    print(error)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "[1, 5, 2, 8]" in found
    assert "Triton is not installed" in found


@pytest.mark.slow
def test_on_a_cpu_auto_is_torch_and_triton_asks_for_a_device():
    code = """
import torch
from qdelta_kernels import qdelta_rule
x = torch.randn(4, 1, 5, 2, 8).unbind()
gates = torch.rand(1, 5, 2)
auto, plain = (qdelta_rule(*x[:3], -gates, gates, gates, backend=name)[0] for name in ("auto", "torch"))
print(torch.equal(auto, plain))
try:
    qdelta_rule(*x[:3], -gates, gates, gates, backend="triton")
except ValueError as error:
    print(error)
"""
    environment = {"PATH": "", "CUDA_VISIBLE_DEVICES": ""}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert run.stdout.startswith("True\nq is on device cpu; expected a CUDA device for backend 'triton'")


@pytest.mark.parametrize("every_product", [False, True])
@pytest.mark.parametrize(
    ("heads", "V", "longest"), [(1, 64, 20_000), (4, 256, 2048), (8, 128, 16_384), (16, 128, 640), (2, 96, 4096)]
)
def test_few_heads_are_cut_into_spans_that_run_side_by_side(heads, V, longest, every_product):
    from qdelta_kernels.triton.launch import table
    from qdelta_kernels.triton.plan import SHORTEST_SPAN, Widths, block_rows, plan

    K, processors = 128, 132
    widths = Widths(**table()["sm_90", 16, K].forward, V=V, processors=processors)
    found = plan(widths, heads, K, longest, every_product=every_product)
    spans = -(-longest // found.length)
    assert spans > 1
    assert found.length >= SHORTEST_SPAN
    assert heads * spans * -(-V // block_rows(found.launch, V, transfer=False)) <= processors
    wide = block_rows(found.products, V, transfer=True)
    assert V % wide == 0
    assert heads * (spans - (not every_product)) * (-(-(V + K) // wide)) <= processors


@pytest.mark.parametrize(("heads", "longest", "BV"), [(128, 64, 128), (1, 40, 64), (16, 64, 64), (100, 10_000, 128)])
def test_many_heads_or_short_sequences_are_one_span(heads, longest, BV):
    from qdelta_kernels.triton.launch import table
    from qdelta_kernels.triton.plan import Widths, plan

    widths = Widths(**table()["sm_90", 16, 128].forward, V=128, processors=132)
    found = plan(widths, heads, 128, longest, every_product=False)
    assert (found.length, found.launch.BV) == (longest, BV)
