"""Linear attention without the delta rule: the baseline that writes without erasing, in the chunk form."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from qdelta_kernels.arguments import Arguments, check_arguments, eager_where_packed
from qdelta_kernels.autocast import outside_autocast
from qdelta_kernels.decay import chunk_decay, remains


@outside_autocast
@eager_where_packed
def linear_attention(
    q: Float[Tensor, "B T H K"],
    k: Float[Tensor, "B T H K"],
    v: Float[Tensor, "B T HV V"],
    g: Float[Tensor, "B T HV"] | None,
    *,
    scale: float | None = None,
    initial_state: Float[Tensor, "N HV K V"] | None = None,
    output_final_state: bool = False,
    cu_seqlens: Int[Tensor, " N1"] | None = None,
    chunk_size: int = 64,
) -> tuple[Float[Tensor, "B T HV V"], Float[Tensor, "N HV K V"] | None]:
    """Run the memory that only adds and forgets, chunk by chunk.

        S_t = alpha_t S_{t-1} + v_t k_t^T,    o_t = scale S_t q_t,    alpha_t = exp(g_t)

    Arguments, result and errors are those of `qdelta_kernels.qdelta_rule`, without beta and lam. Source: linear
    attention (arXiv 2006.16236) without its normaliser; with a decay for each head and token as in Mamba-2
    (arXiv 2405.21060).
    """
    a = check_arguments(
        q,
        k,
        v,
        g,
        torch.ones_like(v[..., 0]),
        None,
        scale=scale,
        initial_state=initial_state,
        cu_seqlens=cu_seqlens,
        chunk_size=chunk_size,
    )
    found = [_chunks(a, x, chunk_size) for x in a.sequences()]
    o, state = torch.cat([o for o, _ in found], dim=1), torch.cat([state for _, state in found])
    return o.to(a.out_dtype), state if output_final_state else None


def _chunks(a: Arguments, sequences: tuple[Tensor, ...], chunk_size: int) -> tuple[Tensor, Tensor]:
    """Return the outputs [n, T, HV, V] and the last states [n, HV, K, V] of sequences of one length."""
    q, k, v, g, _, _, h = sequences
    T = q.shape[1]
    if T == 0:
        return v, h
    C = min(chunk_size, T)
    q, k = (x.repeat_interleave(a.groups, dim=2) for x in (q, k))
    q, k, v, g = (_cut(x, C) for x in (q, k, v, g[..., None]))
    decay, from_start = chunk_decay(g[..., 0])
    inside = remains(q @ k.mT, decay) @ v
    write = k * decay[..., -1, :, None]
    kept = from_start[..., -1]
    outputs = []
    for i in range(q.shape[1]):
        outputs.append(inside[:, i] + remains(q[:, i] @ h, from_start[:, i, ..., None]))
        h = remains(h, kept[:, i, :, None, None]) + write[:, i].mT @ v[:, i]
    o = a.scale * torch.stack(outputs, dim=1)
    return o.transpose(2, 3).flatten(1, 2)[:, :T], h


def _cut(x: Tensor, C: int) -> Tensor:
    """[n, T, H, D] -> chunks [n, M, H, C, D]; the slots after the last token hold zeros, which change no state."""
    x = F.pad(x, (0, 0, 0, 0, 0, -x.shape[1] % C))
    return x.unflatten(1, (-1, C)).transpose(2, 3)
