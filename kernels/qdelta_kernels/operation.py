"""`qdelta_rule`: the one operation that users call, and the choice of what computes it."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .chunkwise import chunk_qdelta_rule
from .gpu import HALF_OR_SINGLE, triton_qdelta_rule, triton_suits
from .recurrent import recurrent_qdelta_rule
from .reference import qdelta_rule_reference

BACKENDS = ("auto", "reference", "torch", "triton")
Backend = Literal["auto", "reference", "torch", "triton"]


def qdelta_rule(
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
    backend: Backend = "auto",
) -> tuple[Float[Tensor, "B T HV V"], Float[Tensor, "N HV K V"] | None]:
    """Compute Q-Delta's linear attention: outputs o and, on request, the final memory.

        x_t = k_t + lam_t q_t,    alpha_t = exp(g_t)
        S_t = alpha_t S_{t-1} (I - beta_t x_t k_t^T) + beta_t v_t k_t^T
        o_t = scale S_t q_t

    Args:
        q, k: queries and keys, [B, T, H, K], as the recurrence uses them (unit vectors in the paper's model).
        v: values, [B, T, HV, V]; HV is a multiple of H, and value head j reads with query head j // (HV / H).
        g: log decay, [B, T, HV]; None is no decay.
        beta: write strength, [B, T, HV].
        lam: query feedback, [B, T, HV], acting on the unscaled q; None is Gated DeltaNet.
        scale: factor of the readout only; None is K^-0.5.
        initial_state: [N, HV, K, V], the memory S transposed; None is zero.
        output_final_state: return the final memory as well, [N, HV, K, V], float32 (float64 for float64 inputs).
        cu_seqlens: bounds [N + 1] of N sequences packed along T (then B = 1); None: N = B sequences.
        l2norm_qk: normalise q and k first, x / sqrt(||x||^2 + 1e-6).
        chunk_size: tokens per chunk; changes the speed, not the result.
        backend: "triton" (kernels for a GPU), "torch" (chunk form; single tokens by rank-one updates), "reference"
            (the definition, slow), or "auto": Triton for tensors on a CUDA device that it is made for, else torch.

    Returns:
        (o, state): o [B, T, HV, V] in v's dtype; state or None.

    Raises:
        TypeError: for an argument that is no float tensor.
        ValueError: for a wrong shape, dtype, device or value; the message names argument, finding, expectation.

    Under autocast q, k and v are cast to its dtype. Values that are not finite are refused on the CPU only.

    Source: Q-Delta (arXiv 2606.08804). Differentiable in q, k, v, g, beta, lam and initial_state; second
    derivatives, and forward ones (`torch.func.jvp`), are taken token by token on every backend.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend is {backend!r}; expected one of {', '.join(map(repr, BACKENDS))}.")
    options = {
        "scale": scale,
        "initial_state": initial_state,
        "output_final_state": output_final_state,
        "cu_seqlens": cu_seqlens,
        "l2norm_qk": l2norm_qk,
    }
    q, k, v = _autocast(q, k, v)
    if backend == "reference":
        return qdelta_rule_reference(q, k, v, g, beta, lam, **options)
    if backend == "triton" or (backend == "auto" and triton_suits(q, v)):
        return triton_qdelta_rule(q, k, v, g, beta, lam, chunk_size=chunk_size, **options)
    if isinstance(q, Tensor) and q.ndim == 4 and q.shape[1] == 1:
        return recurrent_qdelta_rule(q, k, v, g, beta, lam, **options)
    return chunk_qdelta_rule(q, k, v, g, beta, lam, chunk_size=chunk_size, **options)


def _autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Cast float tensors but float64 to the dtype of the autocast region that we are in, if we are in one."""
    if not isinstance(tensors[0], Tensor) or not torch.is_autocast_enabled(tensors[0].device.type):
        return tensors
    dtype = torch.get_autocast_dtype(tensors[0].device.type)
    cast = lambda x: x.to(dtype) if isinstance(x, Tensor) and x.dtype in HALF_OR_SINGLE else x
    return tuple(map(cast, tensors))
