"""What is left of the memory between two tokens of a chunk, for gates from no decay at all to a reset."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def sums_between(g: Float[Tensor, "*chunks C"]) -> Float[Tensor, "*chunks C C"]:
    """Return g_{j+1} + ... + g_i for i >= j, else -inf, in float64.

    Each is summed from its own gates and never taken as the difference of two running sums, in which one gate of -1e16
    would swallow all that come after it; so a gate of -inf, which forgets everything, is as good as any other.
    """
    ones = torch.ones(g.shape[-1], g.shape[-1], dtype=torch.bool, device=g.device)
    sums = torch.where(ones.tril(-1), g.double()[..., :, None], 0.0).cumsum(-2)
    return sums.masked_fill(ones.triu(1), -torch.inf)


def remains(x: Tensor, kept: Tensor) -> Tensor:
    """Return kept times x, and 0 where nothing is kept, even of what is too large for the dtype or not finite."""
    return kept * x.masked_fill(kept == 0, 0)


def chunk_decay(g: Float[Tensor, "*chunks C"]) -> tuple[Float[Tensor, "*chunks C C"], Float[Tensor, "*chunks C"]]:
    """Return D_ij = e^{g_{j+1} + ... + g_i} for i >= j (else 0), and e^{g_1 + ... + g_i} from the chunk's start on.

    The last row of D is what is left at the chunk's end. Summed in float64, rounded once.
    """
    return sums_between(g).to(g.dtype).exp(), g.double().cumsum(-1).exp().to(g.dtype)
