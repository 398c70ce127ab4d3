"""The recurrence by rank-one updates: the path for decoding, one token or a few at a time."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .arguments import check_arguments, eager_where_packed
from .autocast import outside_autocast


@outside_autocast
@eager_where_packed
def recurrent_qdelta_rule(
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
    """Run the recurrence with O(K V) work per token, never forming the transition matrix.

        h <- alpha_t h,   u_t = beta_t (v_t - h^T x_t),   h <- h + k_t u_t^T,   o_t = scale h^T q_t

    with h = S^T of shape [K, V]. Differentiable by autograd. Arguments, result and errors are those of
    `qdelta_rule`. Source: Q-Delta (arXiv 2606.08804), the recurrence in its error-correcting form.
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
        q, k = (x.repeat_interleave(a.groups, dim=2)[..., None, :] for x in (q, k))
        alpha = g.exp()[..., None, None]
        x = k + lam[..., None, None] * q
        for t in range(q.shape[1]):
            h = alpha[:, t] * h
            u = beta[:, t, :, None, None] * (v[:, t, :, None] - x[:, t] @ h)
            h = h + k[:, t].transpose(-1, -2) * u
            outputs.append(a.scale * (q[:, t] @ h)[..., 0, :])
        states.append(h)
    o = torch.stack(outputs, dim=1) if outputs else a.v.new_zeros(a.v.shape)
    return o.to(a.out_dtype), torch.cat(states) if output_final_state else None


def differentiable_gradients(inputs: tuple, do: Tensor, dstate: Tensor, **options) -> tuple[Tensor | None, ...]:
    """Return the gradients of the inputs (q, k, v, g, beta, lam, state) as functions of these, do and dstate.

    This is what second derivatives are taken of: the kernels and the chunk form differentiate once. None for an input
    that needs none; options are those of `recurrent_qdelta_rule`.
    """
    with torch.enable_grad():
        # Where one input was made from another, its own history is the caller's to go through, once.
        inputs = tuple(x.view_as(x) if x is not None and x.requires_grad else x for x in inputs)
        *tokens, state = inputs
        found: Any = recurrent_qdelta_rule(*tokens, initial_state=state, output_final_state=True, **options)
        wanted = [x for x in inputs if x is not None and x.requires_grad]
        # Of no tokens there are no outputs that could depend on anything.
        pairs = [(y, dy) for y, dy in zip(found, (do, dstate), strict=True) if y.requires_grad]
        outputs, given = zip(*pairs, strict=True)
        each = iter(torch.autograd.grad(outputs, wanted, given, create_graph=True, allow_unused=True))
    return tuple(next(each) if x is not None and x.requires_grad else None for x in inputs)
