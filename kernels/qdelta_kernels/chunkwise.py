"""The chunk form in PyTorch: the CPU path, differentiable, equal to the recurrence for every chunk size.

Shapes inside: M chunks of C tokens, H query/key heads, R = HV / H value heads for each of them.

    q, k [M, H, C, K]    v, u, o [M, H, R, C, V]    g, beta, lam [M, H, R, C]    state h = S^T [n, H, K, R * V]

The value heads of one group lie side by side in the state, so q and k are never repeated: one wide matrix
product serves the whole group. `kernels/README.md` derives the formulas.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .arguments import Arguments, check_arguments, eager_where_packed, has_tangents
from .autocast import outside_autocast
from .decay import chunk_decay, remains
from .layout import Block, ChunkLayout
from .recurrent import differentiable_gradients, recurrent_qdelta_rule

Intra = Literal["recurrence", "released"]


@outside_autocast
@eager_where_packed
def chunk_qdelta_rule(
    q: Float[Tensor, "B T H K"],
    k: Float[Tensor, "B T H K"],
    v: Float[Tensor, "B T HV V"],
    g: Float[Tensor, "B T HV"] | None,
    beta: Float[Tensor, "B T HV"],
    lam: Float[Tensor, "B T HV"] | None,
    *,
    scale: float | None = None,
    initial_state: Float[Tensor, "N HV K V"] | None = None,
    output_final_state: bool = False,
    cu_seqlens: Int[Tensor, " N1"] | None = None,
    l2norm_qk: bool = False,
    chunk_size: int = 64,
    intra: Intra = "recurrence",
) -> tuple[Float[Tensor, "B T HV V"], Float[Tensor, "N HV K V"] | None]:
    """Run the recurrence chunk by chunk, with matrix products inside each chunk of C tokens.

        U = (I + L)^-1 diag(beta) (V - diag(e^G) X S^T),    L_ij = beta_i e^{G_i - G_j} x_i.k_j  (i > j)
        O = scale (diag(e^G) Q S^T + tril(e^{G_i - G_j} q_i.k_j) U)
        S <- e^{G_C} S + (diag(e^{G_C - G}) U)^T K

    G is the running sum of g inside the chunk. The result does not depend on `chunk_size`. Differentiable in
    q, k, v, g, beta, lam and initial_state; second and forward derivatives are taken token by token.

    `intra="released"` is a departure from the recurrence, for study only: it puts L_ij = beta_i e^{G_i - G_j}
    k_i.x_j, the transpose in x and k, which is what the Q-Delta authors' released kernels compute (their commit
    4afe5b5). What it writes agrees with the recurrence exactly where lam_i q_i.k_j = lam_j k_i.q_j for all i > j in
    a chunk, so always at lam = 0 or chunk_size = 1; elsewhere it depends on the chunk size.

    Arguments, result and errors are otherwise those of `qdelta_rule`. Source: the chunkwise form of Q-Delta
    (arXiv 2606.08804) by the WY/UT transform.
    """
    if intra not in ("recurrence", "released"):
        raise ValueError(f"intra is {intra!r}; expected 'recurrence' or 'released'.")
    options = {"scale": scale, "initial_state": initial_state, "cu_seqlens": cu_seqlens, "l2norm_qk": l2norm_qk}
    if has_tangents(q, k, v, g, beta, lam, initial_state):
        if intra == "released":
            raise RuntimeError("intra is 'released'; expected 'recurrence' for forward derivatives.")
        return recurrent_qdelta_rule(q, k, v, g, beta, lam, output_final_state=output_final_state, **options)
    a = check_arguments(q, k, v, g, beta, lam, chunk_size=chunk_size, **options)
    tensors = (a.q, a.k, a.v, a.g, a.beta, a.lam, a.state)
    if not torch.is_grad_enabled():  # inside a Function nobody can tell, and the entering states would be kept
        tensors = tuple(x.detach() for x in tensors)
    if a.bounds is None:
        o, state = _equal_sequences(*tensors, chunk_size=chunk_size, scale=a.scale, intra=intra)
    else:
        o, state = _ChunkRule.apply(*tensors, chunk_layout(a, chunk_size), a.scale, intra, cu_seqlens)
    return o.to(a.out_dtype), state if output_final_state else None


@torch.compiler.allow_in_graph
def _equal_sequences(q, k, v, g, beta, lam, state, chunk_size, scale, intra):
    """Run the rule on sequences of one length: one node of torch.compile's graph, whose gradient stays autograd's.

    Traced by the compiler itself, its gradient would be taken for a constant where that is differentiated.
    """
    B, T = q.shape[:2]
    layout = ChunkLayout.equal(B, T, max(1, min(chunk_size, T)))
    return _ChunkRule.apply(q, k, v, g, beta, lam, state, layout, scale, intra, None)


def chunk_layout(a: Arguments, chunk_size: int) -> ChunkLayout:
    """Lay out the tokens of one call; a chunk is never longer than the longest sequence."""
    B, T = a.q.shape[:2]
    longest = T if a.bounds is None else max(end - start for start, end in a.bounds)
    C = max(1, min(chunk_size, longest))
    if a.bounds is None:
        return ChunkLayout.equal(B, T, C)
    return ChunkLayout.packed(a.bounds, C, a.q.device)


@dataclass(frozen=True)
class Chunks:
    """A block of chunks, and all that can be computed in each of them before the state is known."""

    qk: Tensor  # [M, H, 2C, K]: q above k, so that one product with the state serves both
    v: Tensor
    beta: Tensor
    lam: Tensor
    decay: Tensor  # [M, H, R, C, C]: e^{G_i - G_j} for i >= j, else 0
    from_start: Tensor  # [M, H, R, C]: e^{G_i}
    to_end: Tensor  # [M, H, R, C]: e^{G_C - G_i}
    lost: Tensor  # [M, H, 2C, R, 1]: whether e^{G_i} is 0, nothing being left of what enters
    gram: Tensor  # [M, H, 2C, C]: q_i.k_j above k_i.k_j
    inverse: Tensor  # [M, H, R, C, C]: (I + L)^-1

    @property
    def C(self) -> int:
        """Tokens per chunk."""
        return self.v.shape[3]

    @property
    def q(self) -> Tensor:
        """The queries, [M, H, C, K]."""
        return self.qk[:, :, : self.C]

    @property
    def k(self) -> Tensor:
        """The keys, [M, H, C, K]."""
        return self.qk[:, :, self.C :]

    def readout(self) -> Tensor:
        """Return e^{G_i - G_j} q_i.k_j for i >= j: [M, H, R, C, C]."""
        return remains(self.gram[:, :, None, : self.C], self.decay)


def prepare_chunks(layout: ChunkLayout, block: Block, q, k, v, g, beta, lam, intra: Intra = "recurrence") -> Chunks:
    """Gather one block of chunks and form its decay, Gram matrices and triangular inverses."""
    H, R = q.shape[2], v.shape[2] // q.shape[2]
    qk = torch.cat([layout.gather(q, block), layout.gather(k, block)], dim=2)
    v = layout.gather(v, block).unflatten(1, (H, R))
    g, beta, lam = (layout.gather(x[..., None], block)[..., 0].unflatten(1, (H, R)) for x in (g, beta, lam))
    decay, from_start = chunk_decay(g)
    gram = qk @ qk[:, :, layout.C :].mT
    L = remains(_erase_gram(gram, lam, intra), decay).mul_(beta[..., None])
    identity = torch.eye(layout.C, dtype=q.dtype, device=q.device)
    return Chunks(
        qk=qk,
        v=v,
        beta=beta,
        lam=lam,
        decay=decay,
        from_start=from_start,
        to_end=decay[..., -1, :],
        lost=(from_start == 0).mT.repeat(1, 1, 2, 1)[..., None],
        gram=gram,
        # The solver reads L strictly below the diagonal only.
        inverse=torch.linalg.solve_triangular(L, identity, upper=False, unitriangular=True),
    )


def _erase_gram(gram: Tensor, lam: Tensor, intra: Intra) -> Tensor:
    """x_i.k_j from the two Gram matrices (x itself is never stored), or k_i.x_j for the released form."""
    C = gram.shape[-1]
    qk, kk = gram[:, :, None, :C], gram[:, :, None, C:]
    if intra == "released":
        return torch.addcmul(kk, lam[..., None, :], qk.mT)
    return torch.addcmul(kk, lam[..., :, None], qk)


def wide(x: Tensor) -> Tensor:
    """[n, H, R, C, V] -> [n, H, C, R * V]: the value heads of a group side by side."""
    return x.transpose(2, 3).flatten(3)


def split(x: Tensor, R: int) -> Tensor:
    """[n, H, C, R * V] -> [n, H, R, C, V]: undo `wide`."""
    return x.unflatten(3, (R, -1)).transpose(2, 3)


def state_in(states: Tensor, H: int) -> Tensor:
    """[N, HV, K, V] -> [N, H, K, R * V]."""
    return wide(states.unflatten(1, (H, -1)))


def state_out(h: Tensor, R: int) -> Tensor:
    """[N, H, K, R * V] -> [N, HV, K, V]."""
    return split(h, R).flatten(1, 2)


def read(c: Chunks, at: slice, h: Tensor) -> Tensor:
    """Return [Q; K] S^T of the state that enters, and 0 for tokens to which nothing is left of it."""
    reads = c.qk[at] @ h
    reads.unflatten(-1, (c.v.shape[2], -1)).masked_fill_(c.lost[at], 0)
    return reads


def read_error(c: Chunks, at: slice, reads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return Q S^T, X S^T and V - diag(e^G) X S^T, given reads = [Q; K] S^T of the state that enters."""
    reads = split(reads, c.v.shape[2])
    P = reads[:, :, :, : c.C]
    x_read = torch.addcmul(reads[:, :, :, c.C :], c.lam[at, ..., None], P)
    return P, x_read, torch.addcmul(c.v[at], c.from_start[at, ..., None], x_read, value=-1)


def write(c: Chunks, at: slice, reads: Tensor) -> Tensor:
    """Return what the chunks write, U [n, H, R, C, V], given reads = [Q; K] S^T of the state that enters."""
    return c.inverse[at] @ read_error(c, at, reads)[2].mul_(c.beta[at, ..., None])


def through(c: Chunks, at: slice) -> Tensor:
    """Return e^{G_C}, what is left of the state after each chunk: [n, H, 1, R * V] or [n, H, 1, 1]."""
    R, V = c.v.shape[2], c.v.shape[4]
    last = c.from_start[at, ..., -1]
    return (last if R == 1 else last.repeat_interleave(V, dim=-1))[:, :, None]


def carry(c: Chunks, at: slice, h: Tensor, U: Tensor) -> Tensor:
    """Return the state that leaves the chunks: e^{G_C} h + K^T diag(e^{G_C - G}) U."""
    return remains(h, through(c, at)) + c.k[at].mT @ wide(c.to_end[at, ..., None] * U)


class _ChunkRule(torch.autograd.Function):
    """The serial pass over the chunks, and its gradient as derived in `kernels/README.md`.

    Only the states that enter the chunks are kept for the backward pass; the rest is computed again.
    """

    @staticmethod
    def forward(
        ctx, q, k, v, g, beta, lam, state, layout: ChunkLayout, scale: float, intra: Intra, cu_seqlens: Tensor | None
    ):
        T, H, R = q.shape[1], q.shape[2], v.shape[2] // q.shape[2]
        o, h = torch.empty_like(v), state_in(layout.sort(state), H)
        entering = [] if any(ctx.needs_input_grad) else None
        for block in blocks(layout, q, v):
            c = prepare_chunks(layout, block, q, k, v, g, beta, lam, intra)
            readout, start = c.readout().mul_(scale), (scale * c.from_start)[..., None]
            O = torch.empty_like(c.v)
            for at, n in block.steps:
                if entering is not None:
                    entering.append(h[:n])
                reads = read(c, at, h[:n])
                U = write(c, at, reads)
                torch.addcmul(readout[at] @ U, start[at], split(reads, R)[:, :, :, : c.C], out=O[at])
                h = torch.cat([carry(c, at, h[:n], U), h[n:]]) if n < len(h) else carry(c, at, h, U)
            layout.scatter(O.flatten(1, 2), block, o)
        if entering is not None:
            ctx.save_for_backward(q, k, v, g, beta, lam, state, *entering)
            ctx.layout, ctx.scale, ctx.intra, ctx.cu_seqlens = layout, scale, intra, cu_seqlens
        state = layout.unsort(state_out(h, R))
        return o, state if T else state.clone()  # of no tokens it is the one that came, which is the caller's

    @staticmethod
    @outside_autocast
    def backward(ctx, do, dstate):  # type: ignore[override]
        saved = ctx.saved_tensors  # once: activation checkpointing recomputes them at every look
        layout, inputs, entering = ctx.layout, saved[:6], saved[7:]
        if torch.is_grad_enabled():  # these gradients will be differentiated themselves
            if ctx.intra == "released":
                raise RuntimeError("intra is 'released'; expected 'recurrence' for second derivatives.")
            options = {"scale": ctx.scale, "cu_seqlens": ctx.cu_seqlens}
            return *differentiable_gradients(saved[:7], do, dstate, **options), None, None, None, None
        H, R = inputs[0].shape[2], inputs[2].shape[2] // inputs[0].shape[2]
        grads = [torch.empty_like(x) for x in inputs]
        dh = state_in(layout.sort(dstate), H).clone()
        for block in reversed(list(blocks(layout, inputs[0], inputs[2]))):
            c = prepare_chunks(layout, block, *inputs, intra=ctx.intra)
            dO = (ctx.scale * layout.gather(do, block)).unflatten(1, (H, R))
            d, readout = _BlockGradients(c), c.readout()
            for i, (at, n) in reversed(list(enumerate(block.steps, block.first))):
                dh[:n] = d.step(at, entering[i], dO[at], readout[at], dh[:n])
            for x, out in zip(d.tokens(ctx.intra), grads, strict=True):
                layout.scatter(x, block, out if out.ndim == 4 else out[..., None])
        # A gate of which nothing is left has no slope; what rounding leaves of one would be scaled up by g itself.
        grads[3].masked_fill_(inputs[3].exp() == 0, 0)
        return *grads, layout.unsort(state_out(dh, R)), None, None, None, None


def blocks(layout: ChunkLayout, q: Tensor, v: Tensor) -> Iterator[Block]:
    """Cut the layout into blocks that suit the sizes of these tokens."""
    (H, K), (HV, V) = q.shape[2:], v.shape[2:]
    return layout.blocks(layout.C * (2 * H * K + HV * V + HV * layout.C))


class _BlockGradients:
    """The gradients of one block, gathered chunk by chunk from the last to the first."""

    def __init__(self, c: Chunks):
        self.c = c
        self.qk = torch.empty_like(c.qk)
        self.v = torch.empty_like(c.v)
        self.beta, self.lam, self.G = (torch.empty_like(c.beta) for _ in range(3))
        self.readout, self.L = (torch.empty_like(c.decay) for _ in range(2))

    def step(self, at: slice, h: Tensor, dO: Tensor, readout: Tensor, dh: Tensor) -> Tensor:
        """Take the gradient of the state that leaves these chunks to that of the state that enters them."""
        c, R = self.c, dO.shape[2]
        beta, lam, start, to_end = (x[at, ..., None] for x in (c.beta, c.lam, c.from_start, c.to_end))
        P, x_read, error = read_error(c, at, read(c, at, h))
        U = c.inverse[at] @ (beta * error)

        # What was written reaches the outputs of its chunk and the state that leaves it.
        k_dh = split(c.k[at] @ dh, R) * to_end
        dZ = c.inverse[at].mT @ (readout.mT @ dO + k_dh)
        dv = beta * dZ
        self.v[at] = dv
        self.beta[at] = (dZ * error).sum(-1)
        torch.matmul(dO, U.mT, out=self.readout[at])
        torch.matmul(dZ, U.mT, out=self.L[at])  # the minus sign of d(inverse) is left to `tokens`

        # Through the two reads of the entering state, Q h and K h.
        dK_read = -start * dv
        dQ_read = torch.addcmul(lam * dK_read, start, dO)
        self.lam[at] = (dK_read * P).sum(-1)
        dreads = torch.cat([wide(dQ_read), wide(dK_read)], dim=2)
        torch.matmul(dreads, h.mT, out=self.qk[at])
        self.qk[at, :, c.C :] += wide(to_end * U) @ dh.mT

        # The running decay: e^{G_i} at the reads, e^{G_C - G_i} at the write, e^{G_C} at the state.
        at_write = (k_dh * U).sum(-1)
        dG = (dQ_read * P).sum(-1) + (dK_read * (x_read - lam * P)).sum(-1) - at_write
        dG[..., -1] += at_write.sum(-1) + (remains(h, through(c, at)) * dh).sum(2).unflatten(-1, (R, -1)).sum(-1)
        self.G[at] = dG
        return through(c, at) * dh + c.qk[at].mT @ dreads

    def tokens(self, intra: Intra) -> tuple[Tensor, ...]:
        """Add the gradients through the matrices inside the chunks; return those of q, k, v, g, beta, lam."""
        c, C = self.c, self.c.C
        lost = c.decay == 0
        q_k = torch.where(lost, 0, c.gram[:, :, None, :C])
        gram = _erase_gram(c.gram, c.lam, intra).masked_fill_(lost, 0)
        by_decay = self.L.neg_().tril_(-1).mul_(c.decay).masked_fill_(lost, 0)
        self.beta += (by_decay * gram).sum(-1)
        dgram = by_decay.mul_(c.beta[..., None])
        dreadout = self.readout.mul_(c.decay).masked_fill_(lost, 0)
        through_decay = torch.addcmul(dreadout * q_k, dgram, gram)
        self.G += through_decay.sum(-1) - through_decay.sum(-2)
        if intra == "released":
            self.lam += (dgram * torch.where(lost, 0, c.gram[:, :, None, :C].mT)).sum(-2)
            dq_k = dreadout + (dgram * c.lam[..., None, :]).mT
        else:
            self.lam += (dgram * q_k).sum(-1)
            dq_k = torch.addcmul(dreadout, dgram, c.lam[..., None])
        dq_k, dk_k = dq_k.sum(2), dgram.sum(2)
        dq = self.qk[:, :, :C] + dq_k @ c.k
        dk = self.qk[:, :, C:] + dq_k.mT @ c.q + (dk_k + dk_k.mT) @ c.k
        dg = self.G.flip(-1).cumsum(-1).flip(-1)
        return dq, dk, self.v.flatten(1, 2), *(x.flatten(1, 2)[..., None] for x in (dg, self.beta, self.lam))
