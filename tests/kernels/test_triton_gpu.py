"""The Triton kernels on a GPU, at real sizes, against the float64 chunk form (itself tested against the definition)."""

import pytest
import torch
from torch.nn.functional import logsigmoid, normalize

from qdelta_kernels import chunk_qdelta_diagnostics, chunk_qdelta_rule, qdelta_rule
from qdelta_kernels.gpu import decode_qdelta_rule, triton_suits
from tests.helpers import Tokens, gradients, relative_error

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
# Half precision rounds every operand of a product; gradients of gates add up many such roundings.
BOUNDS = {torch.bfloat16: (5e-3, 8e-3), torch.float16: (7e-4, 1.5e-3), torch.float32: (2e-6, 1e-5)}
SIZES = [(64, 64), (64, 128), (128, 128), (128, 256), (256, 512), (256, 72), (100, 72)]


def draw(B, T, H, K, V, dtype, HV=None, N=None, seed=0, decay=3.0) -> Tokens:
    make = torch.Generator("cuda").manual_seed(seed)
    HV = HV or H
    normal = lambda *shape: torch.randn(*shape, device="cuda", generator=make)
    q, k = (normalize(normal(B, T, H, K), dim=-1).to(dtype) for _ in range(2))
    v, g = normal(B, T, HV, V).to(dtype), logsigmoid(normal(B, T, HV) + decay)
    beta, lam = normal(B, T, HV).sigmoid(), normal(B, T, HV).sigmoid()
    return Tokens(q, k, v, g, beta, lam, normal(N or B, HV, K, V))


def kernels(*arguments, **options):
    return qdelta_rule(*arguments, backend="triton", **options)


def on_cpu(x):
    return x.detach().double().cpu()


def assert_equal_recurrence(x: Tokens, bounds, **options):
    exact = x.to(torch.float64)
    with torch.no_grad():
        pairs = zip(x.call(kernels, **options), exact.call(chunk_qdelta_rule, **options), strict=True)
        for ours, reference in pairs:
            assert relative_error(on_cpu(ours), on_cpu(reference)) <= bounds[0]
    pairs = zip(gradients(x, kernels, **options), gradients(exact, chunk_qdelta_rule, **options), strict=True)
    for name, (ours, reference) in zip(Tokens._fields, pairs, strict=True):
        assert relative_error(on_cpu(ours), on_cpu(reference)) <= bounds[1], name


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize(("K", "V"), SIZES)
@pytest.mark.parametrize("H", [1, 40], ids=["few heads: spans", "many heads: wide blocks"])
def test_every_row_of_the_launch_table(dtype, K, V, H):
    T = 8192 if H == 1 else 300
    assert_equal_recurrence(draw(1 if H == 1 else 3, T, H, K, V, dtype), BOUNDS[dtype])


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("bounds", [[0, 1, 1, 700, 764, 3000, 9001], [0, 1, 9000, 9001]], ids=["one span", "spans"])
def test_groups_norms_and_packed_sequences(dtype, bounds):
    N = len(bounds) - 1
    x = draw(1, 9001, 1 if N == 3 else 2, 128, 64, dtype, HV=2 if N == 3 else 6, N=N)
    assert_equal_recurrence(x, BOUNDS[dtype], l2norm_qk=True, cu_seqlens=torch.tensor(bounds, device="cuda"))


@pytest.mark.parametrize(("dtype", "K", "bound"), [(torch.float32, 128, 2e-6), (torch.bfloat16, 256, 5e-3)], ids=str)
def test_chunk_sizes_agree(dtype, K, bound):
    x = draw(1, 5000, 2, K, 128, dtype)
    results = [x.call(kernels, chunk_size=C) for C in (16, 32, 64)]
    for o, state in results[1:]:
        assert relative_error(on_cpu(o), on_cpu(results[0][0])) <= bound
        assert relative_error(on_cpu(state), on_cpu(results[0][1])) <= bound


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_runs_repeat_bit_for_bit(dtype):
    x = draw(2, 4000, 2, 128, 128, dtype)
    first, second = (gradients(x, kernels) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_the_doubling_cycle():
    r = 0.5**0.5
    q = torch.tensor([[0.0, 1.0], [-r, r]]).repeat(32, 1)[None, :, None].cuda()
    k = torch.tensor([[1.0, 0.0], [-r, -r]]).repeat(32, 1)[None, :, None].cuda()
    ones = torch.ones(1, 64, 1, device="cuda")
    x = Tokens(q, k, torch.zeros_like(q), 0 * ones, ones, ones, torch.eye(2, device="cuda")[None, None])
    for ours, reference in zip(x.call(kernels), x.to(torch.float64).call(chunk_qdelta_rule), strict=True):
        assert relative_error(on_cpu(ours), on_cpu(reference)) <= 1e-5


def test_decoding_continues_a_prefill_and_can_overwrite_the_state():
    x = draw(3, 260, 4, 128, 128, torch.bfloat16, HV=8)
    with torch.no_grad():
        expected, last = x.call(kernels)
        for prefill in (0, 100, 259):
            o, state = Tokens(*(y[:, :prefill] for y in x[:6]), x.state).call(kernels)
            parts, state = [o], state.clone()
            for t in range(prefill, 260):
                parts.append(decode_qdelta_rule(*(y[:, t : t + 1] for y in x[:6]), state))
            assert relative_error(on_cpu(torch.cat(parts, 1)), on_cpu(expected)) <= 5e-3
            assert relative_error(on_cpu(state), on_cpu(last)) <= 5e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("K", [128, 256])
@pytest.mark.parametrize("H", [1, 64])
def test_traces(dtype, H, K):
    T = 9000 if H == 1 else 3000  # spans, or none
    x = draw(2, T, H, K, 128, dtype)
    at = [0, 63, 64, 1500, T - 1]
    ours = chunk_qdelta_diagnostics(*x[:6], initial_state=x.state, at=at, keep_updates=True, backend="triton")
    exact = x.to(torch.float64)
    reference = chunk_qdelta_diagnostics(*exact[:6], initial_state=exact.state, at=at, keep_updates=True)
    bound = 1e-2 if dtype == torch.bfloat16 else 5e-6
    for name in ours.__dataclass_fields__:
        assert relative_error(on_cpu(getattr(ours, name)), on_cpu(getattr(reference, name))) <= bound, name


def test_offsets_beyond_32_bits():
    """2^31 elements of q and more; strong decay makes the last tokens forget all but the few thousand before them."""
    T, H, K, V = (1 << 20) + 4096, 16, 128, 128
    x = draw(1, T, H, K, V, torch.bfloat16, decay=-1.0)
    with torch.no_grad():
        o, state = x.call(kernels)
        tail = Tokens(*(y[:, -8192:] for y in x[:6]), 0 * x.state)
        expected, last = tail.call(chunk_qdelta_rule)
    assert relative_error(on_cpu(o[:, -4096:]), on_cpu(expected[:, -4096:])) <= 5e-3
    assert relative_error(on_cpu(state), on_cpu(last)) <= 5e-3


def test_auto_takes_the_kernels_and_compiles_whole(as_users_call):
    x = draw(1, 500, 2, 64, 64, torch.bfloat16)
    assert triton_suits(x.q, x.v)
    with torch.no_grad():
        assert torch.equal(x.call(qdelta_rule)[0], x.call(kernels)[0])
    compiled = torch.compile(lambda *y: qdelta_rule(*y[:6], initial_state=y[6])[0], fullgraph=True)
    ours, expected = (
        torch.autograd.grad(f(*leaves).float().square().sum(), leaves)
        for f, leaves in (
            (compiled, x.requiring_grad()),
            (lambda *y: qdelta_rule(*y[:6], initial_state=y[6])[0], x.requiring_grad()),
        )
    )
    for a, b in zip(ours, expected, strict=True):
        assert relative_error(on_cpu(a), on_cpu(b)) <= 5e-3


def test_autocast_computes_in_its_dtype():
    x = draw(1, 300, 2, 64, 64, torch.float32)
    with torch.autocast("cuda", torch.bfloat16):
        o, state = x.call(qdelta_rule)
    assert (o.dtype, state.dtype) == (torch.bfloat16, torch.float32)
