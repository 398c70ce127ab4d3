"""The small parts of a layer and a block: short convolution, gated norm, channel mixer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .packing import Packing


def wide(x: Tensor) -> Tensor:
    """Return x in float32, or as it is in float64: what gates and norms are computed in."""
    return x if x.dtype == torch.float64 else x.float()


class ShortConvolution(nn.Module):
    """A causal depthwise convolution with SiLU: y_t = silu(sum_i w_i x_{t-W+1+i}), for each channel."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels, 1, width))

    def forward(
        self, x: Float[Tensor, "B T C"], tail: Float[Tensor, "N W C"] | None = None, packing: Packing | None = None
    ) -> Float[Tensor, "B T C"]:
        """Convolve x [B, T, C] along T; y_t depends on x_{t-W+1} ... x_t only, which begin with the tail or zeros.

        tail: [N, W - 1, C], what came before each sequence. packing: where the N sequences lie in x; None: N = B.
        """
        channels, _, width = self.weight.shape
        if packing is not None:
            tail = x.new_zeros(packing.N, width - 1, channels) if tail is None else tail
            return self._convolve(packing.join(tail.to(x.dtype), x), 0, packing)
        if tail is not None:
            return self._convolve(torch.cat([tail.to(x.dtype), x], dim=1), 0)
        return self._convolve(x, width - 1)[:, : x.shape[1]]

    def _convolve(self, x: Tensor, padding: int, packing: Packing | None = None) -> Tensor:
        if torch.compiler.is_compiling() or x.shape[1] + padding < self.weight.shape[-1]:  # of no token at all
            return self.summed(F.pad(x, (0, 0, padding, 0)), packing)
        # As a two-dimensional convolution, [B, C, 1, T] with the channels last in memory is x as it already
        # lies there; the one-dimensional form copies to channels-first and back, and takes twice as long.
        image = x.transpose(1, 2)[:, :, None]
        y = F.conv2d(image, self.weight[:, :, None], padding=(0, padding), groups=x.shape[-1])
        return _activated(y[:, :, 0].transpose(1, 2), packing)

    def summed(self, x: Float[Tensor, "B T C"], packing: Packing | None = None) -> Float[Tensor, "B T1 C"]:
        """Convolve term by term, without padding, which a compiler makes one kernel of; T1 = T - W + 1."""
        width = self.weight.shape[-1]
        T = x.shape[1] - width + 1
        y = self.weight[:, 0, 0] * x[:, :T]
        for i in range(1, width):
            y = y + self.weight[:, 0, i] * x[:, i : i + T]
        return _activated(y, packing).to(x.dtype)


def _activated(y: Tensor, packing: Packing | None) -> Tensor:
    """silu(y) at the tokens: what stands between two sequences goes first, for it may hold the one's NaN."""
    return F.silu(y if packing is None else packing.tokens(y))


class GatedRMSNorm(nn.Module):
    """The readout's norm, per head: y = w * o / rms(o) * silu(gate)."""

    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, o: Float[Tensor, "B T H V"], gate: Float[Tensor, "B T H V"]) -> Float[Tensor, "B T H V"]:
        """Normalise o along its last axis, in float32 at least, and gate it."""
        y = F.rms_norm(wide(o), (o.shape[-1],), wide(self.weight), self.eps) * F.silu(gate)
        return y.to(gate.dtype)


class SwiGLU(nn.Module):
    """The channel mixer: y = W_down (silu(W_gate x) * W_up x)."""

    def __init__(self, hidden_size: int, mlp_size: int):
        super().__init__()
        self.gate_up = nn.Linear(hidden_size, 2 * mlp_size, bias=False)
        self.down = nn.Linear(mlp_size, hidden_size, bias=False)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Mix the channels of each token by itself."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)
