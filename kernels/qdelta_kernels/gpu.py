"""The door to the Triton kernels: what they take, and the same call as every other backend.

Nothing of Triton is imported before a call asks for it: a machine without it only lacks the backend.
"""

from __future__ import annotations

import os
from importlib.util import find_spec

import torch
from torch import Tensor

from .arguments import check_call, has_tangents
from .recurrent import recurrent_qdelta_rule

HALF_OR_SINGLE = (torch.float16, torch.bfloat16, torch.float32)
# The state's blocks of one program, [V block, K] in float32, have to fit in its registers.
LARGEST_K, LARGEST_V = 256, 512
# Up to so many tokens without a gradient are decoded one by one: the state is then read and written once.
DECODED = 16
HAS_TRITON = find_spec("triton") is not None


def interpreted() -> bool:
    """Return whether Triton's kernels run in its interpreter, on the CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def triton_suits(q, v) -> bool:
    """Return whether the kernels are made for these tensors: on a CUDA device, and of a size and dtype they take."""
    if not (isinstance(q, Tensor) and isinstance(v, Tensor) and q.is_cuda and HAS_TRITON):
        return False
    return q.dtype in HALF_OR_SINGLE and q.shape[-1] <= LARGEST_K and v.shape[-1] <= LARGEST_V


def triton_qdelta_rule(
    q,
    k,
    v,
    g,
    beta,
    lam,
    *,
    scale=None,
    initial_state=None,
    output_final_state=False,
    cu_seqlens=None,
    l2norm_qk=False,
    chunk_size=64,
) -> tuple[Tensor, Tensor | None]:
    """Run the Triton kernels; arguments, result and errors are those of `qdelta_rule`."""
    scale, _ = check_call(
        q,
        k,
        v,
        g,
        beta,
        lam,
        scale=scale,
        initial_state=initial_state,
        cu_seqlens=cu_seqlens,
        l2norm_qk=l2norm_qk,
        chunk_size=chunk_size,
    )
    check_triton(q, v)
    if has_tangents(q, k, v, g, beta, lam, initial_state):
        options = {"scale": scale, "initial_state": initial_state, "output_final_state": output_final_state}
        return recurrent_qdelta_rule(q, k, v, g, beta, lam, cu_seqlens=cu_seqlens, l2norm_qk=l2norm_qk, **options)
    from .triton import ops

    arguments = (q, k, v, g, beta, lam, initial_state, cu_seqlens, scale, l2norm_qk)
    differentiated = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in arguments[:7])
    if q.shape[1] <= DECODED and not differentiated:
        o, state = ops.decode_op(*arguments)
    else:
        o, state, *_ = ops.chunk_forward_op(*arguments, ops.chunk_of(chunk_size, q.shape[1], q.dtype))
    return o, state if output_final_state else None


@torch.no_grad()
def decode_qdelta_rule(q, k, v, g, beta, lam, state, *, scale=None, cu_seqlens=None, l2norm_qk=False) -> Tensor:
    """Decode a token or a few with the Triton kernel, and leave the final states in `state`.

    Arguments and errors are those of `qdelta_rule`; `state` [N, HV, K, V] is contiguous, float32, and is overwritten.
    Returns o [B, T, HV, V]. Not differentiable.
    """
    scale, _ = check_call(
        q, k, v, g, beta, lam, scale=scale, initial_state=state, cu_seqlens=cu_seqlens, l2norm_qk=l2norm_qk
    )
    if state is None or state.dtype != torch.float32 or not state.is_contiguous():
        found = "None" if state is None else f"{state.dtype}{'' if state.is_contiguous() else ', not contiguous'}"
        raise ValueError(f"state is {found}; expected a contiguous float32 tensor to overwrite.")
    check_triton(q, v)
    from .triton import ops

    return ops.decode_in_place_op(q, k, v, g, beta, lam, state, cu_seqlens, scale, l2norm_qk)


def check_triton(q: Tensor, v: Tensor) -> None:
    """Raise unless the Triton kernels can run on these tensors."""
    if not HAS_TRITON:
        raise RuntimeError(
            "backend is 'triton', but Triton is not installed; expected `pip install triton` on Linux, or qdelta's "
            "extra 'gpu'."
        )
    if not q.is_cuda and not interpreted():
        raise ValueError(
            f"q is on device {q.device}; expected a CUDA device for backend 'triton' (or TRITON_INTERPRET=1, set "
            "before Triton is imported, for its interpreter)."
        )
    if q.dtype not in HALF_OR_SINGLE:
        raise ValueError(f"q has dtype {q.dtype}; expected float16, bfloat16 or float32 for backend 'triton'.")
    if q.shape[-1] > LARGEST_K or v.shape[-1] > LARGEST_V:
        raise ValueError(
            f"q has K = {q.shape[-1]} and v has V = {v.shape[-1]}; expected at most K = {LARGEST_K} and "
            f"V = {LARGEST_V} for backend 'triton'."
        )
