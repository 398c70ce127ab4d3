"""Per-token diagnostics out of the chunk form: what the memory does at every token, without storing it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from .arguments import check_arguments, check_call
from .autocast import outside_autocast
from .chunkwise import (
    Chunks,
    blocks,
    carry,
    chunk_layout,
    prepare_chunks,
    read,
    split,
    state_in,
    state_out,
    write,
)
from .decay import remains
from .gpu import check_triton
from .layout import Block

# The recursion of ||S||^2 is left where it gives less than this part of its largest value so far in the chunk.
FALLEN = 1e-2


@dataclass(frozen=True)
class Diagnostics:
    """What `chunk_qdelta_diagnostics` returns; every per-token field is [B, T, HV], norms are Euclidean."""

    error_before: Tensor  # ||v_t - alpha_t S_{t-1} x_t||, the mixed error before the write
    error_after: Tensor  # ||v_t - S_t x_t||, the mixed error after it
    key_retrieval: Tensor  # ||v_hat_t||, v_hat_t = alpha_t S_{t-1} k_t
    query_prediction: Tensor  # ||o_hat_t||, o_hat_t = alpha_t S_{t-1} q_t
    cosine: Tensor  # cos(v_hat_t, o_hat_t), 0 where either vanishes
    state_norm: Tensor  # ||S_t||_F
    updates: Tensor | None  # [B, T, HV, V]: u_t in S_t = alpha_t S_{t-1} + u_t k_t^T, if asked for
    states: Tensor  # [B, len(at), HV, K, V]: S_t transposed, at the tokens asked for


@outside_autocast
@torch.no_grad()
def chunk_qdelta_diagnostics(
    q: Float[Tensor, "B T H K"],
    k: Float[Tensor, "B T H K"],
    v: Float[Tensor, "B T HV V"],
    g: Float[Tensor, "B T HV"] | None,
    beta: Float[Tensor, "B T HV"],
    lam: Float[Tensor, "B T HV"] | None,
    *,
    initial_state: Float[Tensor, "B HV K V"] | None = None,
    at: Sequence[int] = (),
    keep_updates: bool = False,
    chunk_size: int = 64,
    backend: Literal["torch", "triton"] = "torch",
) -> Diagnostics:
    """Follow the memory through every token, in one pass over chunks and without storing S_t for every t.

    With u_t = beta_t (v_t - alpha_t S_{t-1} x_t) and v_hat_t = alpha_t S_{t-1} k_t the norm obeys
        ||S_t||^2 = alpha_t^2 ||S_{t-1}||^2 + 2 u_t.v_hat_t + ||u_t||^2 ||k_t||^2,
    taken up afresh from the true norm at every chunk's start, and from S_t itself where the norm has fallen to less
    than a tenth of what it was in the chunk, since a difference of large squares says nothing of it. `at` lists the
    tokens, ascending, after which the state is returned; `keep_updates` returns every u_t as well. Backend "triton"
    runs the kernels for a GPU. q, k, v, g, beta, lam, initial_state and errors as in `qdelta_rule`.
    """
    at = list(at)
    if backend not in ("torch", "triton"):
        raise ValueError(f"backend is {backend!r}; expected 'torch' or 'triton'.")
    if backend == "triton":
        check_call(q, k, v, g, beta, lam, initial_state=initial_state, chunk_size=chunk_size)
        check_triton(q, v)
        _check_tokens(at, q.shape[1])
        from .triton.trace import trace

        return Diagnostics(*trace(q, k, v, g, beta, lam, initial_state, at, keep_updates, chunk_size))
    a = check_arguments(q, k, v, g, beta, lam, initial_state=initial_state, chunk_size=chunk_size)
    B, T, HV = a.v.shape[:3]
    _check_tokens(at, T)
    layout = chunk_layout(a, chunk_size)
    H, R, C = a.q.shape[2], a.groups, layout.C
    scalars = [a.g.new_empty((B, T, HV)) for _ in range(6)]
    updates, states = torch.empty_like(a.v) if keep_updates else None, []
    h = state_in(a.state, H)
    for block in blocks(layout, a.q, a.v):
        c = prepare_chunks(layout, block, a.q, a.k, a.v, a.g, a.beta, a.lam)
        reads = c.qk.new_empty((*c.qk.shape[:3], h.shape[-1]))
        U, start_norm, entering = torch.empty_like(c.v), torch.empty_like(c.beta[..., :1]), h
        for step, (chunks, _) in enumerate(block.steps, block.first):
            reads[chunks] = read(c, chunks, h)
            U[chunks] = write(c, chunks, reads[chunks])
            start_norm[chunks] = _state_norm(h, R)[..., None]
            while len(states) < len(at) and at[len(states)] < (step + 1) * C:
                states.append(state_out(_state_after(c, chunks, at[len(states)] - step * C, h, U[chunks]), R))
            h = carry(c, chunks, h, U[chunks])
        if updates is not None:
            layout.scatter(U.flatten(1, 2), block, updates)
        *found, norm, fallen = _diagnose(c, split(reads, R), U, start_norm)
        if fallen.any():
            _follow_states(c, block, entering, U, fallen, norm)
        for x, out in zip((*found, norm), scalars, strict=True):
            layout.scatter(x.flatten(1, 2)[..., None], block, out[..., None])
    snapshots = torch.stack(states, 1) if states else a.state.new_empty((B, 0, *a.state.shape[1:]))
    return Diagnostics(*scalars, updates=updates, states=snapshots)


def _check_tokens(at: list[int], T: int) -> None:
    if any(not 0 <= t < T for t in at) or at != sorted(set(at)):
        raise ValueError(f"at is {at}; expected ascending token indices from 0 to T - 1 = {T - 1}.")


def _diagnose(c: Chunks, reads: Tensor, U: Tensor, start_norm: Tensor) -> tuple[Tensor, ...]:
    """Return the per-token fields of `Diagnostics`, in their order, for one block of chunks; and at which tokens the
    norm of the state has fallen so far that its recursion cannot be trusted."""
    C, start = c.C, c.from_start[..., None]
    qk, kk = (x.diagonal(dim1=-2, dim2=-1)[:, :, None] for x in c.gram.split(C, dim=2))
    # Of what the tokens of the chunk wrote only what came before is read: after a strong gate it is far less than U.
    o_hat = torch.addcmul(c.readout().tril_(-1) @ U, start, reads[:, :, :, :C])
    v_hat = torch.addcmul(remains(c.gram[:, :, None, C:], c.decay).tril_(-1) @ U, start, reads[:, :, :, C:])
    before = length(torch.addcmul(c.v - v_hat, c.lam[..., None], o_hat, value=-1))[0]
    after = (1 - c.beta * (kk + c.lam * qk)).abs() * before
    (key, key_way), (query, query_way), (write, write_way) = length(v_hat), length(o_hat), length(U)
    cosine = torch.linalg.vecdot(key_way, query_way).clamp(-1, 1)

    # In units of the largest term, so that no square overflows: |u| |k|, and |v_hat| / |k| <= |alpha S|.
    k_norm = kk.sqrt()
    wrote, found = write * k_norm, key / torch.where(k_norm > 0, k_norm, 1)
    unit = torch.cat([start_norm, wrote, found], dim=-1).amax(-1, keepdim=True)
    unit = torch.where((unit > 0) & torch.isfinite(unit), unit, 1)
    wrote, found, left = wrote / unit, found / unit, remains(start_norm / unit, c.from_start).square()
    growth = wrote.square() + 2 * wrote * found * torch.linalg.vecdot(write_way, key_way)
    kept = c.decay.square()
    norm2 = left + (kept @ growth[..., None])[..., 0]
    most = torch.maximum(left, (kept * norm2[..., None, :]).amax(-1))
    limits = torch.finfo(norm2.dtype)  # a memory that grows far in one chunk is nothing at first, in these units
    sure = (norm2 >= FALLEN * most) & (norm2 > limits.tiny / limits.eps)
    return before, after, key, query, cosine, norm2.clamp(min=0).sqrt() * unit, ~sure


def length(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return ||x|| along the last axis and x / ||x|| (0 for 0), whatever its scale: no square over- or underflows."""
    largest = x.abs().amax(-1, keepdim=True)
    size = torch.where((largest > 0) & torch.isfinite(largest), largest, 1)
    scaled = x / size
    norm = scaled.norm(dim=-1, keepdim=True)
    return (norm * size)[..., 0], scaled / torch.where(norm > 0, norm, 1)


def _state_norm(h: Tensor, R: int) -> Tensor:
    """Return ||S||_F for states [n, H, K, R * V]: [n, H, R]."""
    return length(split(h, R).flatten(-2))[0]


def _follow_states(c: Chunks, block: Block, h: Tensor, U: Tensor, at: Tensor, norm: Tensor) -> None:
    """Set the norm at the tokens `at` [M, H, R, C] from the states themselves; h enters the block's first chunk."""
    for chunks, _ in block.steps:
        for i in at[chunks].flatten(0, 2).any(0).nonzero()[:, 0].tolist():
            exact = _state_norm(_state_after(c, chunks, i, h, U[chunks]), c.v.shape[2])
            norm[chunks, ..., i] = torch.where(at[chunks, ..., i], exact, norm[chunks, ..., i])
        h = carry(c, chunks, h, U[chunks])


def _state_after(c: Chunks, at: slice, i: int, h: Tensor, U: Tensor) -> Tensor:
    """Return S_i^T = e^{G_i} h + sum over j <= i of e^{G_i - G_j} k_j u_j^T, i counted inside the chunk."""
    V, decayed = U.shape[4], c.decay[at, :, :, i, :, None] * U
    kept = c.from_start[at, :, :, i].repeat_interleave(V, dim=-1)[:, :, None]
    return remains(h, kept) + c.k[at].mT @ decayed.transpose(2, 3).flatten(3)
