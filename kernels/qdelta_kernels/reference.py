"""The definition: Q-Delta's recurrence, token by token, written as in the paper. Everything is tested against it."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .arguments import check_arguments, eager_where_packed
from .autocast import outside_autocast
from .decay import remains


@outside_autocast
@eager_where_packed
def qdelta_rule_reference(
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
) -> tuple[Float[Tensor, "B T HV V"], Float[Tensor, "N HV K V"] | None]:
    """Run the Q-Delta recurrence with its dense transition matrix, one token after the other.

        x_t = k_t + lam_t q_t,    alpha_t = exp(g_t)
        S_t = S_{t-1} alpha_t (I - beta_t x_t k_t^T) + beta_t v_t k_t^T
        o_t = scale S_t q_t

    S is [V, K] as in the paper; the states that enter and leave are its transpose, [K, V]. The work is
    O(T K^2 V) per head: this is the yardstick, not the tool. Arguments, result and errors are those of
    `qdelta_rule`. Source: Q-Delta (arXiv 2606.08804), the recurrence with decay.
    """
    a = check_arguments(
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
    )
    outputs, states = [], []
    for q, k, v, g, beta, lam, h in a.sequences():
        q, k = (x.repeat_interleave(a.groups, dim=2) for x in (q, k))
        alpha, beta, lam = g.exp()[..., None, None], beta[..., None, None], lam[..., None]
        x = k + lam * q
        S = h.transpose(-1, -2)
        identity = torch.eye(q.shape[-1], dtype=q.dtype, device=q.device)
        for t in range(q.shape[1]):
            erase = identity - beta[:, t] * _outer(x[:, t], k[:, t])
            S = S @ remains(erase, alpha[:, t]) + beta[:, t] * _outer(v[:, t], k[:, t])
            outputs.append(a.scale * (S @ q[:, t, :, :, None])[..., 0])
        states.append(S.transpose(-1, -2))
    o = torch.stack(outputs, dim=1) if outputs else a.v.new_zeros(a.v.shape)
    return o.to(a.out_dtype), torch.cat(states) if output_final_state else None


def _outer(a: Tensor, b: Tensor) -> Tensor:
    return a[..., :, None] * b[..., None, :]
