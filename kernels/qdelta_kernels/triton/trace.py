"""Per-token diagnostics and states in one pass of the forward kernel, at real scale."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..diagnostics import FALLEN
from .chunk import Call, Prepared, Traced, prepare, run, scan, span_products
from .diagnostics import diagnostics_kernel
from .launch import ceil_power
from .ops import DECODED_V, chunk_of, decode
from .plan import Plan
from .spans import Spans, cut, span_starts


def trace(q, k, v, g, beta, lam, initial, at: list[int], keep_updates: bool, chunk_size: int) -> tuple:
    """Return the fields of `Diagnostics`, in their order."""
    T, K, V = q.shape[1], q.shape[3], v.shape[3]
    C = chunk_of(chunk_size, T, q.dtype)
    call = Call.of(q, k, v, g, beta, lam, initial, None, 1.0, False, C)
    plan = call.plan()
    traced, eps = Traced.of(call), torch.empty_like(call.v) if keep_updates else None
    spans = call.spans(plan, tuple(sorted({t // C for t in at})))
    prepared = prepare(call, spans, trace=True)
    entering = _follow(call, spans, prepared, plan, {"eps": eps, "traced": traced})
    *scalars, fallen = _diagnose(call, spans, prepared, traced)
    if T:
        # From there on too: what rounding left of the larger memory stays in the state that the chunks hand on.
        token = torch.arange(T, device=q.device)[:, None]
        first = torch.where(fallen != 0, token, T).amin(1)
        scalars[-1] = torch.where(token >= first[:, None], _followed_norm(call, first < T), scalars[-1])
    updates = None if eps is None else (call.beta[..., None] * eps)[..., :V]
    return *scalars, updates, _states(call, plan, entering, at)[..., :K, :V]


def _follow(call: Call, spans: Spans, prepared: Prepared, plan: Plan, room: dict) -> Tensor:
    """Fill `room` and return the state that enters every span, [W, HV, K, V]."""
    N, W = len(call.bounds), len(spans.start)
    state = call.initial
    if state is None:
        state = call.q.new_zeros((N, call.heads[1], *call.sizes), dtype=torch.float32)
    if plan.length < call.longest:
        entering = scan(call, spans, span_products(call, spans, prepared, plan.products), state)
        run(call, spans, prepared, plan.launch, entering, **room)
        return entering
    # One after the other: every sequence's first span, then every sequence's second, and so on.
    entering = state.new_empty((W, *state.shape[1:]))
    each = W // N
    for i in range(each):
        entering[i::each] = state
        starts = {name: getattr(spans, name)[i::each].contiguous() for name in ("start", "end", "chunk")}
        final = torch.empty_like(state)
        run(call, replace(spans, **starts), prepared, plan.launch, state, final=final, **room)
        state = final
    return entering


def _diagnose(call: Call, spans: Spans, prepared: Prepared, traced: Traced) -> list[Tensor]:
    found = [torch.empty(call.beta.shape, device=call.q.device, dtype=torch.float32) for _ in range(6)]
    fallen = torch.empty(call.beta.shape, device=call.q.device, dtype=torch.int8)
    HV, V = call.v.shape[2:]
    if chunks := len(spans.chunk_start):
        diagnostics_kernel[(chunks * HV,)](
            call.v,
            traced.o_hat,
            traced.reads,
            call.g,
            call.beta,
            call.lam,
            prepared.products,
            traced.norm2,
            spans.chunk_start,
            spans.chunk_end,
            *found,
            fallen,
            HV,
            V=V,
            C=call.C,
            BV=min(64, ceil_power(V)),
            HAS_G=call.g is not None,
            HAS_LAM=call.lam is not None,
            FALLEN=FALLEN,
            num_warps=4,
            num_stages=1,
        )
    return [*found, fallen]


def _followed_norm(call: Call, wanted: Tensor) -> Tensor:
    """Return ||S_t|| [B, T, HV] of the sequences and heads that are `wanted` [B, HV], followed token by token.

    Whether there are any is for the device to know: asking it would wait for all that it has yet to do.
    """
    (B, T, HV), V = call.beta.shape, call.sizes[1]
    norm = call.q.new_empty((B, T, HV, -(-V // min(DECODED_V, ceil_power(V)))), dtype=torch.float32)
    bounds = T * torch.arange(B + 1, device=norm.device)
    tensors = (call.q, call.k, call.v, call.g, call.beta, call.lam)
    decode(*tensors, bounds, call.initial, norm=norm, wanted=wanted.to(torch.int8))
    return norm.double().norm(dim=-1).float()


def _states(call: Call, plan: Plan, entering: Tensor, at: list[int]) -> Tensor:
    """Return the states after tokens, [B, len(at), HV, K, V]: each is carried on from its chunk's start as a short span
    of its own."""
    B, T = call.q.shape[:2]
    C, each = call.C, len(entering) // B
    if not at:
        return entering.new_empty((B, 0, *entering.shape[1:]))
    # Found on the CPU, and picked one by one: a copy to or from the device would wait for all that it has yet to do.
    begins = span_starts(-(-T // C), plan.length, tuple(t // C for t in at))
    picked = torch.stack([entering[b * each + begins.index(t // C)] for b in range(B) for t in at])
    tokens = [b * T + t for b in range(B) for t in at]
    short = cut(tuple((t - t % T % C, t + 1) for t in tokens), C, 1, call.q.device)
    final = torch.empty_like(picked)
    run(call, short, prepare(replace(call, slots=len(tokens)), short), plan.launch, picked, final=final)
    return final.unflatten(0, (B, len(at)))
