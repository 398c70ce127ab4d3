"""Per-token diagnostics and states in one pass of the forward kernel, at real scale."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from .chunk import Call, Prepared, prepare, run, scan, span_products
from .diagnostics import diagnostics_kernel
from .launch import ceil_power, launches
from .ops import chunk_of
from .spans import Spans, cut


def trace(q, k, v, g, beta, lam, initial, at: list[int], keep_updates: bool, chunk_size: int) -> tuple:
    """Return the fields of `Diagnostics`, in their order."""
    B, T = q.shape[:2]
    K, V = q.shape[3], v.shape[3]
    C = chunk_of(chunk_size, T, q.dtype)
    call = Call.of(q, k, v, g, beta, lam, initial, None, 1.0, False, C)
    launch = call.width(launches(call.q.dtype, call.sizes[0], call.q.device).forward)
    spans = call.spans(launch.BV)
    prepared = prepare(call, spans, trace=True)
    entering = call.initial
    if spans.split:
        entering = scan(call, spans, span_products(call, spans, prepared, launch), call.initial)
    HV, V_padded = call.v.shape[2:]
    chunks = [b * -(-T // C) + t // C for b in range(B) for t in at]
    kept = sorted(set(chunks))
    slots = torch.full((call.slots,), -1)
    slots[kept] = torch.arange(len(kept))
    v_hat, o_hat = torch.empty_like(call.v), torch.empty_like(call.v)
    norm2 = torch.empty((call.slots, HV, V_padded), device=q.device, dtype=torch.float32)
    snapshots = torch.empty((len(kept), HV, *call.sizes), device=q.device, dtype=torch.float32)
    eps = torch.empty_like(call.v) if keep_updates else None
    traced = (v_hat, norm2, slots.to(q.device), snapshots)
    run(call, spans, prepared, launch, entering, o=o_hat, eps=eps, traced=traced)
    scalars = _diagnose(call, spans, prepared, v_hat, o_hat, norm2)
    states = q.new_empty((B, len(at), HV, K, V), dtype=torch.float32)
    if at:
        tokens = [b * T + t for b in range(B) for t in at]
        entering = snapshots[[kept.index(chunk) for chunk in chunks]]
        states = _advance(call, launch, entering, tokens, T).unflatten(0, (B, len(at)))[..., :K, :V]
    updates = None if eps is None else (call.beta[..., None] * eps)[..., :V]
    return *scalars, updates, states


def _diagnose(
    call: Call, spans: Spans, prepared: Prepared, v_hat: Tensor, o_hat: Tensor, norm2: Tensor
) -> list[Tensor]:
    found = [torch.empty(call.beta.shape, device=call.q.device, dtype=torch.float32) for _ in range(6)]
    HV, V = call.v.shape[2:]
    if chunks := len(spans.chunk_start):
        diagnostics_kernel[(chunks * HV,)](
            call.v,
            v_hat,
            o_hat,
            call.g,
            call.beta,
            call.lam,
            prepared.products,
            norm2,
            spans.chunk_start,
            spans.chunk_end,
            *found,
            HV,
            V=V,
            C=call.C,
            BV=min(64, ceil_power(V)),
            HAS_G=call.g is not None,
            HAS_LAM=call.lam is not None,
            num_warps=4,
            num_stages=1,
        )
    return found


def _advance(call: Call, launch, entering: Tensor, tokens: list[int], T: int) -> Tensor:
    """Carry each state, which enters a token's chunk, on to that token, as a short span of its own."""
    C = call.C
    starts = [t - t % T % C for t in tokens]
    spans = cut(tuple((start, t + 1) for start, t in zip(starts, tokens, strict=True)), C, 1, call.q.device)
    prepared = prepare(replace(call, slots=len(tokens)), spans)
    final = torch.empty_like(entering)
    run(call, spans, prepared, launch, entering.contiguous(), final=final)
    return final
