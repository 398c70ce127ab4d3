"""The chunk form on a long sequence: against transformers' Gated DeltaNet, and against the machine's sgemm."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, normalize

from qdelta_kernels import chunk_qdelta_rule, recurrent_qdelta_rule

from .agreement import require_close
from .report import Figure, among_others, timing
from .timing import calmest, interleaved, once

TITLE = "the chunk form in float32, B = 1, H = 8, K = V = 128 (T = 16384 unless --quick)"
H, D, C = 8, 128, 64

Gates = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def measure(quick: bool = False) -> list[Figure]:
    """Check that both implementations compute the same, then time them in turn."""
    T, repeats = (1024, 3) if quick else (16384, 9)
    x, lam, do = _inputs(T)
    peer = _peer()
    _check_outputs(peer, x, lam)
    _check_gradients(peer, T=512)
    return [*_forward(peer, x, lam, repeats), *_backward(peer, x, lam, do, repeats)]


def _forward(peer: Callable, x: Gates, lam: Tensor, repeats: int) -> list[Figure]:
    T = x[0].shape[1]
    side = 4096 if T > 4096 else 1024
    a, b = torch.randn(2, side, side).unbind()
    times = interleaved(
        {
            "ours": lambda: _chunk(*x),
            "peer": lambda: peer(*x),
            "with lam": lambda: _chunk(*x, lam),
            "sgemm": lambda: a @ b,
        },
        repeats,
    )
    seconds = times.seconds
    rate = 2 * side**3 / median(seconds["sgemm"])
    floor = _flop(T) / rate
    figures = [
        timing("forward, chunk_qdelta_rule, lam=None", seconds["ours"]),
        timing("forward, transformers' torch_chunk_gated_delta_rule", seconds["peer"]),
        Figure("forward: transformers / ours", times.ratio("peer", "ours"), "x", at_least=2.0),
        timing("forward, chunk_qdelta_rule with lam", seconds["with lam"]),
        Figure("forward: with lam / lam=None", times.ratio("with lam", "ours"), "x"),
        Figure(f"sgemm, {side} x {side}", rate / 1e9, "GFLOP/s", repeats),
        Figure("sgemm floor: matrix products of the chunk form", 1e3 * floor, "ms"),
        Figure("forward: ours / sgemm floor", median(seconds["ours"]) / floor, "x"),
    ]
    return among_others(figures, times.others, "the forward passes")


def _backward(peer: Callable, x: Gates, lam: Tensor, do: Tensor, repeats: int) -> list[Figure]:
    times = interleaved(
        {
            "ours": lambda: _gradients(_chunk, x, do),
            "with lam": lambda: _gradients(_chunk, (*x, lam), do),
        },
        max(3, repeats // 2),
    )
    # Once: on two cores the peer's backward pass takes the better part of a minute at the full size.
    peers, peer_others = calmest(lambda: once(lambda: _gradients(lambda *y: peer(*y)[0], x, do)), 1, spare=0)
    seconds = times.seconds
    figures = [
        timing("forward + backward, chunk_qdelta_rule, lam=None", seconds["ours"]),
        timing("forward + backward, transformers'", peers),
        Figure("forward + backward: transformers / ours", peers[0] / median(seconds["ours"]), "x", at_least=2.0),
        timing("forward + backward, chunk_qdelta_rule with lam", seconds["with lam"]),
        Figure("forward + backward: with lam / lam=None", times.ratio("with lam", "ours"), "x"),
    ]
    return among_others(figures, max(times.others, peer_others), "the backward passes")


def _chunk(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, lam: Tensor | None = None) -> Tensor:
    return chunk_qdelta_rule(q, k, v, g, beta, lam)[0]


def _recurrent(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, lam: Tensor | None = None) -> Tensor:
    return recurrent_qdelta_rule(q, k, v, g, beta, lam)[0]


def _flop(T: int) -> float:
    """Operations of the matrix products of all tokens and heads, K = V = D, chunks of C."""
    return T * H * (6 * D * D + 4 * C * D + 4 * C * D + 2 / 3 * C * C)


def _inputs(T: int) -> tuple[Gates, Tensor, Tensor]:
    """Unit q and k, gates as a trained layer has them: q, k, v, g, beta; lam; the gradient of the outputs."""
    draw = torch.Generator().manual_seed(0)
    q, k, v, do = torch.randn(4, 1, T, H, D, generator=draw).unbind()
    decay, write, feedback = torch.randn(3, 1, T, H, generator=draw).unbind()
    x = (normalize(q, dim=-1), normalize(k, dim=-1), v, logsigmoid(decay + 3), write.sigmoid())
    return x, 2 * feedback.sigmoid(), do


def _peer() -> Callable:
    """Transformers' PyTorch function itself, without the wrapper that may put another package in its place."""
    from transformers.models.qwen3_next.modeling_qwen3_next import torch_chunk_gated_delta_rule

    return inspect.unwrap(torch_chunk_gated_delta_rule)


def _check_outputs(peer: Callable, x: Gates, lam: Tensor) -> None:
    """Raise AssertionError unless ours is the float64 recurrence on one head, and the peer agrees on all."""
    for feedback in (None, lam):
        ours = _chunk(*x, feedback)
        one = [y[:, :, :1].double() for y in (*x, feedback) if y is not None]
        exact = _recurrent(*one)
        require_close("the chunk form's outputs", ours[:, :, :1], exact, 2e-6)
    require_close("the peer's outputs", peer(*x)[0], _chunk(*x), 2e-6)


def _check_gradients(peer: Callable, T: int) -> None:
    x, lam, do = _inputs(T)
    one = [y[:, :, :1].double() for y in (*x, lam)]
    for name, ours, theirs in zip(
        ("q", "k", "v", "g", "beta", "lam"),
        _gradients(_chunk, (*x, lam), do),
        _gradients(_recurrent, one, do[:, :, :1].double()),
        strict=True,
    ):
        require_close(f"the chunk form's gradient in {name}", ours[:, :, :1], theirs, 1e-5)
    for name, ours, theirs in zip(
        ("q", "k", "v", "g", "beta"),
        _gradients(_chunk, x, do),
        _gradients(lambda *y: peer(*y)[0], x, do),
        strict=True,
    ):
        require_close(f"the peer's gradient in {name}", theirs, ours, 1e-5)


def _gradients(function: Callable[..., Tensor], arguments, do: Tensor) -> tuple[Tensor, ...]:
    leaves = [y.detach().requires_grad_() for y in arguments]
    return torch.autograd.grad(function(*leaves), leaves, do)
