"""The Q-Delta layer: from a sequence of vectors to q, k, v and gates, through the recurrence, and back."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from qdelta_kernels import qdelta_rule

Rule = Literal["q-delta", "gated-deltanet", "deltanet"]
RULES: tuple[Rule, ...] = get_args(Rule)


@dataclass(frozen=True)
class LayerConfig:
    """The sizes of one layer, and which of the three delta rules it runs."""

    hidden_size: int = 128
    heads: int = 4
    key_dim: int = 32
    value_dim: int = 32
    conv_width: int = 4
    lam_offset: float = 0.9
    norm_eps: float = 1e-5
    chunk_size: int = 32
    rule: Rule = "q-delta"

    def __post_init__(self):
        if self.rule not in RULES:
            raise ValueError(f"rule is {self.rule!r}; expected one of {', '.join(map(repr, RULES))}.")
        for name in ("hidden_size", "heads", "key_dim", "value_dim", "conv_width", "chunk_size"):
            value = getattr(self, name)
            if not (isinstance(value, int) and value >= 1):
                raise ValueError(f"{name} is {value!r}; expected a whole number of at least 1.")


class RuleInputs(NamedTuple):
    """What a layer hands to the recurrence; g and lam are None where the rule has no such gate."""

    q: Float[Tensor, "B T H K"]
    k: Float[Tensor, "B T H K"]
    v: Float[Tensor, "B T H V"]
    g: Float[Tensor, "B T H"] | None
    beta: Float[Tensor, "B T H"]
    lam: Float[Tensor, "B T H"] | None


class ShortConvolution(nn.Module):
    """A causal depthwise convolution with SiLU: y_t = silu(sum_i w_i x_{t-W+1+i}), for each channel."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels, 1, width))

    def forward(self, x: Float[Tensor, "B T C"]) -> Float[Tensor, "B T C"]:
        """Convolve x [B, T, C] along T; y_t depends on x_{t-W+1} ... x_t only."""
        channels, _, width = self.weight.shape
        # As a two-dimensional convolution, [B, C, 1, T] with the channels last in memory is x as it already
        # lies there; the one-dimensional form copies to channels-first and back, and takes twice as long.
        image = x.transpose(1, 2)[:, :, None]
        y = F.conv2d(image, self.weight[:, :, None], padding=(0, width - 1), groups=channels)
        return F.silu(y[:, :, 0, : x.shape[1]].transpose(1, 2))


class GatedRMSNorm(nn.Module):
    """The readout's norm, per head: y = w * o / rms(o) * silu(gate)."""

    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, o: Float[Tensor, "B T H V"], gate: Float[Tensor, "B T H V"]) -> Float[Tensor, "B T H V"]:
        """Normalise o along its last axis and gate it."""
        return F.rms_norm(o, (o.shape[-1],), self.weight, self.eps) * F.silu(gate)


class QDeltaLayer(nn.Module):
    """The Q-Delta token mixer; the same class is Gated DeltaNet and DeltaNet, by `config.rule`.

        q, k = unit(silu(conv(W_q x))), unit(silu(conv(W_k x)))       v = silu(conv(W_v x))
        beta = sigmoid(W_b x)    lam = sigmoid(W_lamb x - 0.9)    g = -exp(A_log) softplus(W_a x + dt_bias)
        S_t = e^{g_t} S_{t-1} (I - beta_t (k_t + lam_t q_t) k_t^T) + beta_t v_t k_t^T
        y_t = W_o [rmsnorm(K^-1/2 S_t q_t) * silu(W_g x_t)]

    Shapes: x and y are [B, T, hidden_size]; one state [V, K] per head. "gated-deltanet" has no lamb_proj
    (lam = 0); "deltanet" has no a_proj, A_log and dt_bias either (g = 0).

    Source: Q-Delta (arXiv 2606.08804), its layer; Gated DeltaNet (arXiv 2412.06464) for lam = 0.
    """

    def __init__(self, config: LayerConfig, seed: int = 0):
        super().__init__()
        self.config = config
        heads, D = config.heads, config.hidden_size
        keys, values = heads * config.key_dim, heads * config.value_dim
        self.q_proj = nn.Linear(D, keys, bias=False)
        self.k_proj = nn.Linear(D, keys, bias=False)
        self.v_proj = nn.Linear(D, values, bias=False)
        self.q_conv1d = ShortConvolution(keys, config.conv_width)
        self.k_conv1d = ShortConvolution(keys, config.conv_width)
        self.v_conv1d = ShortConvolution(values, config.conv_width)
        self.b_proj = nn.Linear(D, heads, bias=False)
        if config.rule != "deltanet":
            self.a_proj = nn.Linear(D, heads, bias=False)
            self.A_log = nn.Parameter(torch.zeros(heads))
            self.dt_bias = nn.Parameter(torch.zeros(heads))
        if config.rule == "q-delta":
            self.lamb_proj = nn.Linear(D, heads, bias=False)
        self.g_proj = nn.Linear(D, values, bias=False)
        self.o_norm = GatedRMSNorm(config.value_dim, config.norm_eps)
        self.o_proj = nn.Linear(values, D, bias=False)
        initialise(self, seed)

    def rule_inputs(self, x: Float[Tensor, "B T D"]) -> RuleInputs:
        """Return q, k (unit vectors), v and the gates that this layer feeds to the recurrence for input x."""
        heads = self.config.heads
        q = self.q_conv1d(self.q_proj(x)).unflatten(-1, (heads, -1))
        k = self.k_conv1d(self.k_proj(x)).unflatten(-1, (heads, -1))
        v = self.v_conv1d(self.v_proj(x)).unflatten(-1, (heads, -1))
        g = lam = None
        if self.config.rule != "deltanet":
            g = -self.A_log.exp() * F.softplus(self.a_proj(x) + self.dt_bias)
        if self.config.rule == "q-delta":
            lam = torch.sigmoid(self.lamb_proj(x) - self.config.lam_offset)
        beta = torch.sigmoid(self.b_proj(x))
        return RuleInputs(F.normalize(q, dim=-1), F.normalize(k, dim=-1), v, g, beta, lam)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Mix the tokens of x, each with its past only."""
        o, _ = qdelta_rule(*self.rule_inputs(x), chunk_size=self.config.chunk_size)
        gate = self.g_proj(x).unflatten(-1, (self.config.heads, -1))
        return self.o_proj(self.o_norm(o, gate).flatten(-2))


@torch.no_grad()
def initialise(module: nn.Module, seed: int, depth: int = 1) -> None:
    """Draw every parameter anew; its value depends on the seed, its name and its shape alone.

    So for one seed the three rules start from the same values wherever they share a parameter. Matrices are
    normal with variance 1 / fan-in; those that end a residual branch are scaled by (2 depth)^-1/2, which
    keeps the residual stream's variance near that of the embedding at any depth. A_log is the logarithm of a
    uniform draw from [1, 16], and softplus(dt_bias) is log-uniform in [0.001, 0.1]: the heads start with
    forgetting rates -g spread from 0.001 to 1.6 per token.
    """
    for name, parameter in module.named_parameters():
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
        if name.endswith("A_log"):
            parameter.uniform_(1, 16, generator=generator).log_()
        elif name.endswith("dt_bias"):
            rate = parameter.uniform_(math.log(1e-3), math.log(1e-1), generator=generator).exp_()
            parameter.copy_(rate.expm1().log())
        elif "conv1d" in name:
            bound = parameter.shape[-1] ** -0.5
            parameter.uniform_(-bound, bound, generator=generator)
        elif parameter.ndim == 2:
            std = 1.0 if name.startswith("embedding") else parameter.shape[1] ** -0.5
            branch = (2 * depth) ** -0.5 if name.endswith(("o_proj.weight", "down.weight")) else 1.0
            parameter.normal_(0, std * branch, generator=generator)
