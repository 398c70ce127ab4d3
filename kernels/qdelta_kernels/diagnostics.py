"""Per-token diagnostics out of the chunk form: what the memory does at every token, without storing it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from .arguments import check_arguments
from .chunkwise import (
    Chunks,
    blocks,
    carry,
    chunk_layout,
    prepare_chunks,
    split,
    state_in,
    state_out,
    write,
)


@dataclass(frozen=True)
class Diagnostics:
    """What `chunk_qdelta_diagnostics` returns; every per-token field is [B, T, HV], norms are Euclidean."""

    error_before: Tensor  # ||v_t - alpha_t S_{t-1} x_t||, the mixed error before the write
    error_after: Tensor  # ||v_t - S_t x_t||, the mixed error after it
    key_retrieval: Tensor  # ||v_hat_t||, v_hat_t = alpha_t S_{t-1} k_t
    query_prediction: Tensor  # ||o_hat_t||, o_hat_t = alpha_t S_{t-1} q_t
    cosine: Tensor  # cos(v_hat_t, o_hat_t), 0 where either vanishes
    state_norm: Tensor  # ||S_t||_F
    updates: Tensor  # [B, T, HV, V]: u_t in S_t = alpha_t S_{t-1} + u_t k_t^T
    states: Tensor  # [B, len(at), HV, K, V]: S_t transposed, at the tokens asked for


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
    chunk_size: int = 64,
) -> Diagnostics:
    """Follow the memory through every token, in one pass over chunks and without storing S_t for every t.

    With u_t = beta_t (v_t - alpha_t S_{t-1} x_t) and v_hat_t = alpha_t S_{t-1} k_t the norm obeys
        ||S_t||^2 = alpha_t^2 ||S_{t-1}||^2 + 2 u_t.v_hat_t + ||u_t||^2 ||k_t||^2,
    taken up afresh from the true norm at every chunk's start. `at` lists the tokens, ascending, after which
    the state is returned. q, k, v, g, beta, lam, initial_state and errors as in `qdelta_rule`.
    """
    a = check_arguments(q, k, v, g, beta, lam, initial_state=initial_state, chunk_size=chunk_size)
    B, T, HV = a.v.shape[:3]
    at = list(at)
    if any(not 0 <= t < T for t in at) or at != sorted(set(at)):
        raise ValueError(f"at is {at}; expected ascending token indices from 0 to T - 1 = {T - 1}.")
    layout = chunk_layout(a, chunk_size)
    H, R, C = a.q.shape[2], a.groups, layout.C
    scalars = [a.g.new_empty((B, T, HV)) for _ in range(6)]
    updates, states = torch.empty_like(a.v), []
    h = state_in(a.state, H)
    for block in blocks(layout, a.q, a.v):
        c = prepare_chunks(layout, block, a.q, a.k, a.v, a.g, a.beta, a.lam)
        written, values = torch.empty_like(c.v), [torch.empty_like(c.beta) for _ in scalars]
        # Products with U: the readout at q (now written included) and the retrieval at k (earlier tokens only).
        reads_of_write = torch.stack([c.readout(), (c.decay * c.gram[:, :, None, C:]).tril_(-1)])
        for step, (chunks, _) in enumerate(block.steps, block.first):
            reads = c.qk[chunks] @ h
            U = write(c, chunks, reads)
            for out, x in zip(values, _diagnose(c, chunks, split(reads, R), U, reads_of_write, h), strict=True):
                out[chunks] = x
            written[chunks] = U
            while len(states) < len(at) and at[len(states)] < (step + 1) * C:
                states.append(state_out(_state_after(c, chunks, at[len(states)] - step * C, h, U), R))
            h = carry(c, chunks, h, U)
        layout.scatter(written.flatten(1, 2), block, updates)
        for x, out in zip(values, scalars, strict=True):
            layout.scatter(x.flatten(1, 2)[..., None], block, out[..., None])
    snapshots = torch.stack(states, 1) if states else a.state.new_empty((B, 0, *a.state.shape[1:]))
    return Diagnostics(*scalars, updates=updates, states=snapshots)


def _diagnose(c: Chunks, at: slice, reads: Tensor, U: Tensor, of_write: Tensor, h: Tensor) -> tuple[Tensor, ...]:
    C, lam, beta = c.C, c.lam[at], c.beta[at]
    start = c.from_start[at, ..., None]
    qk, kk = (x.diagonal(dim1=-2, dim2=-1)[:, :, None] for x in c.gram[at].split(C, dim=2))
    read_q, read_k = of_write[:, at] @ U
    o_hat = torch.addcmul(read_q, start, reads[:, :, :, :C]).addcmul_(qk[..., None], U, value=-1)
    v_hat = torch.addcmul(read_k, start, reads[:, :, :, C:])
    before = torch.addcmul(c.v[at] - v_hat, lam[..., None], o_hat, value=-1).norm(dim=-1)
    after = (1 - beta * (kk + lam * qk)).abs() * before
    key, query = v_hat.norm(dim=-1), o_hat.norm(dim=-1)
    size = key * query
    cosine = torch.where(size > 0, (v_hat * o_hat).sum(-1) / size, 0).clamp(-1, 1)
    growth = 2 * (U * v_hat).sum(-1) + U.square().sum(-1) * kk
    at_start = split(h, U.shape[2]).square().sum((-1, -2))[..., None]
    norm2 = c.from_start[at].square() * at_start + (c.decay[at].square() @ growth[..., None])[..., 0]
    return before, after, key, query, cosine, norm2.clamp(min=0).sqrt()


def _state_after(c: Chunks, at: slice, i: int, h: Tensor, U: Tensor) -> Tensor:
    """Return S_i^T = e^{G_i} h + sum over j <= i of e^{G_i - G_j} k_j u_j^T, i counted inside the chunk."""
    V, decayed = U.shape[4], c.decay[at, :, :, i, :, None] * U
    kept = c.from_start[at, :, :, i].repeat_interleave(V, dim=-1)[:, :, None] * h
    return kept + c.k[at].mT @ decayed.transpose(2, 3).flatten(3)
