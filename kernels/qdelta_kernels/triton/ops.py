"""The kernels as operators of PyTorch: with shapes known to its compilers, and gradients known to autograd."""

from __future__ import annotations

import torch
from torch import Tensor

from ..arguments import sequence_bounds
from ..autocast import outside_autocast
from ..recurrent import differentiable_gradients
from .chunk import Call, Prepared, chunk_backward, chunk_forward, padded
from .decode import decode_kernel
from .launch import ceil_power, chunk_limit
from .spans import chunk_slots

# Columns of the state that one program decodes with.
DECODED_V = 32


@torch.library.custom_op("qdelta::chunk_forward", mutates_args=())
def chunk_forward_op(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None,
    beta: Tensor,
    lam: Tensor | None,
    initial: Tensor | None,
    cu_seqlens: Tensor | None,
    scale: float,
    l2norm: bool,
    chunk_size: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return outputs, final states, and the four tensors of `Prepared` for the backward pass."""
    call = Call.of(q, k, v, g, beta, lam, initial, cu_seqlens, scale, l2norm, chunk_size)
    o, final, prepared = chunk_forward(call)
    K, V = q.shape[3], v.shape[3]
    return (
        o[..., :V].contiguous(),
        final[:, :, :K, :V].contiguous(),
        prepared.inverse,
        prepared.readout,
        prepared.factors,
        prepared.through,
    )


@chunk_forward_op.register_fake
def _(q, k, v, g, beta, lam, initial, cu_seqlens, scale, l2norm, chunk_size):
    B, T, _, K = q.shape
    HV, V = v.shape[2:]
    N = B if cu_seqlens is None else cu_seqlens.shape[0] - 1
    M, C = chunk_slots(B, T, cu_seqlens, chunk_size), chunk_size
    matrices = [q.new_empty((M, HV, C, C)) for _ in range(2)]
    gates = [q.new_empty(shape, dtype=torch.float32) for shape in ((M, HV, 4, C), (M, HV))]
    return torch.empty_like(v), q.new_empty((N, HV, K, V), dtype=torch.float32), *matrices, *gates


@torch.library.custom_op("qdelta::chunk_backward", mutates_args=())
def chunk_backward_op(
    do: Tensor,
    dfinal: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None,
    beta: Tensor,
    lam: Tensor | None,
    initial: Tensor | None,
    cu_seqlens: Tensor | None,
    inverse: Tensor,
    readout: Tensor,
    factors: Tensor,
    through: Tensor,
    scale: float,
    l2norm: bool,
    chunk_size: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of q, k, v, g, beta, lam and the initial state."""
    call = Call.of(q, k, v, g, beta, lam, initial, cu_seqlens, scale, l2norm, chunk_size)
    K, V = call.sizes
    prepared = Prepared(inverse, readout, factors, through)
    dq, dk, dv, dg, dbeta, dlam, dinitial = chunk_backward(call, prepared, padded(do, V), padded(dfinal, V, K))
    K, V = q.shape[3], v.shape[3]
    return (
        dq[..., :K].contiguous(),
        dk[..., :K].contiguous(),
        dv[..., :V].contiguous(),
        dg,
        dbeta,
        dlam,
        dinitial[:, :, :K, :V].contiguous(),
    )


@chunk_backward_op.register_fake
def _(do, dfinal, q, k, v, g, beta, lam, initial, cu_seqlens, *rest):
    gates = [torch.empty_like(beta, dtype=torch.float32) for _ in range(3)]
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v), *gates, torch.empty_like(dfinal)


def _save(ctx, inputs, output):
    q, k, v, g, beta, lam, initial, cu_seqlens, ctx.scale, ctx.l2norm, ctx.chunk_size = inputs
    ctx.save_for_backward(q, k, v, g, beta, lam, initial, cu_seqlens, *output[2:])
    ctx.mark_non_differentiable(*output[2:])


@outside_autocast
def _differentiate(ctx, do, dfinal, *_):
    q, k, v, g, beta, lam, initial, cu_seqlens, *prepared = ctx.saved_tensors
    inputs = (q, k, v, g, beta, lam, initial)
    if torch.is_grad_enabled():  # these gradients will be differentiated themselves
        options = {"scale": ctx.scale, "cu_seqlens": cu_seqlens, "l2norm_qk": ctx.l2norm}
        return *differentiable_gradients(inputs, do, dfinal, **options), None, None, None, None
    found = chunk_backward_op(do, dfinal, *inputs, cu_seqlens, *prepared, ctx.scale, ctx.l2norm, ctx.chunk_size)
    gradients = (None if x is None else dx.to(x.dtype) for x, dx in zip(inputs, found, strict=True))
    return *gradients, None, None, None, None


chunk_forward_op.register_autograd(_differentiate, setup_context=_save)


@torch.library.custom_op("qdelta::decode", mutates_args=())
def decode_op(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None,
    beta: Tensor,
    lam: Tensor | None,
    initial: Tensor | None,
    cu_seqlens: Tensor | None,
    scale: float,
    l2norm: bool,
) -> tuple[Tensor, Tensor]:
    """Return outputs and final states, token by token; not differentiable."""
    N = q.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    final = q.new_empty((N, v.shape[2], q.shape[3], v.shape[3]), dtype=torch.float32)
    initial = None if initial is None else initial.contiguous()
    return _decode(q, k, v, g, beta, lam, initial, final, cu_seqlens, scale, l2norm), final


@decode_op.register_fake
def _(q, k, v, g, beta, lam, initial, cu_seqlens, scale, l2norm):
    N = q.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    return torch.empty_like(v), q.new_empty((N, v.shape[2], q.shape[3], v.shape[3]), dtype=torch.float32)


@torch.library.custom_op("qdelta::decode_in_place", mutates_args=("state",))
def decode_in_place_op(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None,
    beta: Tensor,
    lam: Tensor | None,
    state: Tensor,
    cu_seqlens: Tensor | None,
    scale: float,
    l2norm: bool,
) -> Tensor:
    """Return outputs, token by token, and leave the final states in `state` (contiguous float32)."""
    return _decode(q, k, v, g, beta, lam, state, state, cu_seqlens, scale, l2norm)


@decode_in_place_op.register_fake
def _(q, k, v, g, beta, lam, state, cu_seqlens, scale, l2norm):
    return torch.empty_like(v)


def _decode(q, k, v, g, beta, lam, initial, final, cu_seqlens, scale, l2norm) -> Tensor:
    q, k, v, g, beta, lam = (None if x is None else x.contiguous() for x in (q, k, v, g, beta, lam))
    B, T = q.shape[:2]
    if cu_seqlens is None:
        bounds = T * torch.arange(B + 1, device=q.device)
    else:
        sequence_bounds(cu_seqlens, T)  # the kernel goes wherever they point
        bounds = cu_seqlens.to(q.device).contiguous()
    o = torch.empty_like(v)
    decode(q, k, v, g, beta, lam, bounds, initial, scale=scale, l2norm=l2norm, final=final, o=o)
    return o


def decode(
    q, k, v, g, beta, lam, bounds, initial, *, scale=1.0, l2norm=False, final=None, o=None, norm=None, wanted=None
) -> None:
    """Go through contiguous sequences token by token: fill o and final, or, where `wanted`, norm [tokens, HV, NV]."""
    H, K, HV, V = *q.shape[2:], *v.shape[2:]
    BV = min(DECODED_V, ceil_power(V))
    decode_kernel[((bounds.shape[0] - 1) * HV * -(-V // BV),)](
        q,
        k,
        v,
        g,
        beta,
        lam,
        bounds,
        initial,
        final,
        o,
        norm,
        wanted,
        scale,
        H,
        HV,
        K=K,
        V=V,
        BK=ceil_power(K),
        BV=BV,
        HAS_INITIAL=initial is not None,
        HAS_G=g is not None,
        HAS_LAM=lam is not None,
        L2NORM=l2norm,
        NORM=norm is not None,
        num_warps=4,
        num_stages=1,
    )


def chunk_of(chunk_size: int, T: int, dtype: torch.dtype) -> int:
    """Return the chunk that the kernels take for a chunk size asked for: 16, 32 or, in half precision, 64."""
    return min(chunk_limit(dtype), ceil_power(max(1, min(chunk_size, T) // 2 + 1)))
