"""The Triton kernels on a GPU: against flash-linear-attention's closest operators, and against the hardware's floor."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, normalize

from qdelta_kernels import chunk_qdelta_diagnostics, chunk_qdelta_rule, qdelta_rule
from qdelta_kernels.gpu import decode_qdelta_rule

from .agreement import lift_guard, require_close, require_gpu_and_peers
from .report import Figure

TITLE = "the Triton kernels, bfloat16 (gates and state float32), chunks of 64; peers: flash-linear-attention 0.6"
SHAPES = [  # B, T, H, K, V
    (1, 4096, 16, 128, 128),
    (8, 4096, 16, 128, 128),
    (1, 32768, 8, 128, 256),
    (4, 16384, 16, 128, 256),
    (1, 131072, 4, 128, 256),
    (1, 65536, 6, 128, 256),  # a layer of the paper's 340M model
    (1, 32768, 6, 256, 512),  # and of its 1.3B model
]
C = 64

Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def measure(quick: bool = False) -> list[Figure]:
    """Check every shape against float64 before it is timed; needs a CUDA device and flash-linear-attention."""
    require_gpu_and_peers("fla")
    bandwidth, rate = _ceilings()
    figures = [
        Figure(f"{torch.cuda.get_device_name()}: device-to-device copy, read + write", bandwidth / 1e12, "TB/s"),
        Figure("bfloat16 matrix product, 8192 cubed", rate / 1e12, "TFLOP/s"),
    ]
    shapes = SHAPES[:2] if quick else SHAPES
    for shape in shapes:  # one by one on the screen: tuning the peers' kernels takes a minute for some
        figures += (found := _shape(shape, bandwidth, rate))
        print("\n".join(f"{figure.name} {figure.value:.3f} {figure.unit}" for figure in found), flush=True)
    figures += _summary(figures)
    figures += _decode(bandwidth)
    figures += _trace(1 << (16 if quick else 20))
    return figures


def _shape(shape: tuple[int, ...], bandwidth: float, rate: float) -> list[Figure]:
    B, T, H, K, V = shape
    x, do = _inputs(*shape)
    name = f"{B} x {T}, H {H}, K {K}, V {V}"
    _check(x, do)
    peers = _peers(x)
    forward = {"ours": _forward(qdelta_rule, x), **{peer: f for peer, (f, _) in peers.items()}}
    seconds = {who: _time(f) for who, f in forward.items()}
    floor = _floor(shape, bandwidth, rate)
    found = [_ms(f"{name}: forward, {who}", t) for who, t in seconds.items()]
    found += [
        Figure(f"{name}: forward, {who} / ours", t / seconds["ours"], "x", at_least=1.0 if who == "FLA gated" else None)
        for who, t in seconds.items()
        if who != "ours"
    ]
    saturated = B * H * V // 128 >= 128
    found.append(
        Figure(f"{name}: fused floor / ours", floor / seconds["ours"], "x", at_least=0.5 if saturated else None)
    )
    both = {"ours": _gradients(qdelta_rule, x, do), **{peer: f for peer, (_, f) in peers.items() if f is not None}}
    seconds = {who: _time(f) for who, f in both.items()}
    found += [_ms(f"{name}: forward + backward, {who}", t) for who, t in seconds.items()]
    found += [
        Figure(f"{name}: forward + backward, {who} / ours", t / seconds["ours"], "x")
        for who, t in seconds.items()
        if who != "ours"
    ]
    found += [Figure(f"{name}: peak memory of it, {who}", _peak(f) / 2**20, "MiB") for who, f in both.items()]
    torch.cuda.empty_cache()
    return found


def _summary(figures: list[Figure]) -> list[Figure]:
    goals = {"forward, FLA gated / ours": 1.5, "forward + backward, FLA gated / ours": 1.2}
    found = []
    for ending, goal in goals.items():
        ratios = [f.value for f in figures if f.name.endswith(": " + ending)]
        if ratios:
            mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
            found.append(Figure(f"geometric mean over shapes: {ending}", mean, "x", at_least=goal))
    return found


def _decode(bandwidth: float) -> list[Figure]:
    B, H, K, V = 64, 16, 128, 256
    x, _ = _inputs(B, 1, H, K, V)
    state = torch.randn(B, H, K, V, device="cuda")
    expected, _ = chunk_qdelta_rule(*(y.double() for y in x), initial_state=state.double())
    require_close("decoded outputs", decode_qdelta_rule(*x, state.clone()), expected, 5e-3)
    # A graph of several steps, each on a state of its own: no launch gaps, and nothing stays in the cache.
    states = [state.clone() for _ in range(8)]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for one in states:
            decode_qdelta_rule(*x, one)
    seconds = _time(graph.replay) / len(states)
    floor = 2 * state.numel() * 4 / bandwidth
    return [
        _ms(f"decode, one token, {B} x H {H}, K {K}, V {V}, state in place", seconds),
        Figure("decode: ours / reading and writing the state once", seconds / floor, "x", at_most=1.3),
    ]


def _trace(T: int) -> list[Figure]:
    x, _ = _inputs(1, T, 8, 128, 128)
    small, _ = _inputs(1, 2048, 8, 128, 128)
    ours = chunk_qdelta_diagnostics(*small, at=[2047], backend="triton")
    exact = chunk_qdelta_diagnostics(*(y.double() for y in small), at=[2047])
    for name in ("error_before", "state_norm", "cosine", "states"):
        require_close(f"the trace's {name}", getattr(ours, name), getattr(exact, name), 1e-2)
    with torch.no_grad():
        forward = _time(lambda: qdelta_rule(*x))
        traced = _time(lambda: chunk_qdelta_diagnostics(*x, at=[T // 2, T - 1], backend="triton"))
    return [
        _ms(f"trace of {T} tokens x 8 heads, K = V = 128, two snapshots", traced),
        _ms("forward on the same tokens", forward),
        Figure("trace / forward", traced / forward, "x", at_most=1.3),
    ]


def _inputs(B: int, T: int, H: int, K: int, V: int) -> tuple[Inputs, Tensor]:
    """Fresh unit q and k, gates as a trained layer has them, and the gradient of the outputs."""
    normal = lambda *shape: torch.randn(*shape, device="cuda")
    q, k = (normalize(normal(B, T, H, K), dim=-1).bfloat16() for _ in range(2))
    v, do = (normal(B, T, H, V).bfloat16() for _ in range(2))
    g, beta, lam = logsigmoid(normal(B, T, H) + 3), normal(B, T, H).sigmoid(), (normal(B, T, H) - 0.9).sigmoid()
    return (q, k, v, g, beta, lam), do


def _check(x: Inputs, do: Tensor) -> None:
    """Raise AssertionError unless outputs and gradients of one head are the recurrence's."""
    length = min(x[0].shape[1], 16384)
    head = tuple(y[:1, :length, :1].contiguous() for y in x)
    exact = tuple(y.double() for y in head)
    require_close("outputs", qdelta_rule(*head, backend="triton")[0], chunk_qdelta_rule(*exact)[0], 5e-3)
    require_close("outputs of all heads", _output(x)[:1, :length, :1], chunk_qdelta_rule(*exact)[0], 5e-3)
    do = do[:1, :length, :1].contiguous()
    ours = _gradients(lambda *y: qdelta_rule(*y, backend="triton"), head, do)()
    reference = _gradients(chunk_qdelta_rule, exact, do)()
    for name, a, b in zip(("q", "k", "v", "g", "beta", "lam"), ours, reference, strict=True):
        require_close(f"the gradient of {name}", a, b, 1e-2)


@torch.no_grad()
def _output(x: Inputs) -> Tensor:
    return qdelta_rule(*x)[0]


def _peers(x: Inputs) -> dict[str, tuple[Callable, Callable | None]]:
    """Return forward, and forward + backward, of each peer that this Triton can run, after a check."""
    from fla.ops.comba import chunk_comba  # pyright: ignore[reportMissingImports]
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule  # pyright: ignore[reportMissingImports]
    from fla.ops.precond_gated_delta_rule import chunk_precond_gated_delta_rule  # pyright: ignore[reportMissingImports]

    lift_guard()
    q, k, v, g, beta, lam = x
    scale = q.shape[-1] ** -0.5
    p = k + (lam[..., None] * q).bfloat16()
    do = torch.randn_like(v)
    ones = torch.ones_like(g)
    gated = lambda q, k, v, g, beta: chunk_gated_delta_rule(q, k, v, g, beta, scale=scale)
    comba = lambda q, k, v, g, beta: chunk_comba(q, k, v, p, g, beta, scale=scale)
    precond = lambda q, k, v, g, beta: chunk_precond_gated_delta_rule(
        q, k, v, -ones, g, beta, beta, scale=scale, use_qk_l2norm_in_kernel=False
    )
    without_lam = (q, k, v, g, beta)
    require_close("FLA's outputs", gated(*without_lam)[0], qdelta_rule(*without_lam, None)[0], 1e-2)
    found: dict[str, tuple[Callable, Callable | None]] = {}
    for name, function in (("FLA gated", gated), ("FLA comba", comba), ("FLA precond", precond)):
        backward = _gradients(function, without_lam, do)
        try:
            _forward(function, without_lam)()
            if name == "FLA gated":
                ours = _gradients(lambda q, k, v, g, beta: qdelta_rule(q, k, v, g, beta, None), without_lam, do)()
                for input, a, b in zip(["q", "k", "v", "g", "beta"], backward(), ours, strict=True):
                    require_close(f"FLA's gradient of {input}", a, b, 2e-2)
        except AssertionError as error:
            print(f"{name}: not timed backwards, {error}", flush=True)
            found[name] = (_forward(function, without_lam), None)
        except Exception as error:
            print(f"{name} does not run here: {type(error).__name__}: {str(error)[:200]}", flush=True)
        else:
            found[name] = (_forward(function, without_lam), backward if name == "FLA gated" else None)
    return found


def _forward(function: Callable, x: tuple[Tensor, ...]) -> Callable:
    @torch.no_grad()
    def run():
        return function(*x)

    return run


def _gradients(function: Callable, x: tuple[Tensor, ...], do: Tensor) -> Callable:
    leaves = [y.detach().requires_grad_() for y in x]
    return lambda: torch.autograd.grad(function(*leaves)[0], leaves, do.to(leaves[0].dtype))


def _floor(shape: tuple[int, ...], bandwidth: float, rate: float) -> float:
    """Seconds of one ideal fused forward kernel: each input read once, the output written once."""
    B, T, H, K, V = shape
    tokens = B * T * H
    flop = tokens * (6 * K * V + 4 * C * K + 4 * C * V + 2 / 3 * C * C)
    return max(tokens * (4 * K + 4 * V + 12) / bandwidth, flop / rate)


def _ceilings() -> tuple[float, float]:
    """Measure bytes per second of a large copy, and operations per second of a large bfloat16 product."""
    a = torch.empty(1 << 30, dtype=torch.uint8, device="cuda").random_()
    b = torch.empty_like(a)
    bandwidth = 2 * a.numel() / _time(lambda: b.copy_(a))
    m = torch.randn(8192, 8192, device="cuda").bfloat16()
    return bandwidth, 2 * 8192**3 / _time(lambda: m @ m)


def _time(function: Callable) -> float:
    """Return the median seconds of one call, by CUDA events, after warm-up."""
    from triton.testing import do_bench

    return float(do_bench(function, warmup=25, rep=100, return_mode="median")) / 1e3  # pyright: ignore


def _peak(function: Callable) -> int:
    """Return the bytes that one call takes beyond what is there."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    function()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def _ms(name: str, seconds: float) -> Figure:
    return Figure(name, 1e3 * seconds, "ms")
