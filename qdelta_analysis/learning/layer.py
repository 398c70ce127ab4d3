"""The Q-Delta layer and its baselines: from a sequence of vectors to q, k, v and gates, the recurrence, and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, overload

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from qdelta_kernels import qdelta_rule
from qdelta_kernels.autocast import without_autocast

from .configs import LayerConfig
from .initial import initialise
from .linear_attention import linear_attention
from .modules import GatedRMSNorm, ShortConvolution, wide
from .packing import Packing


class RuleInputs(NamedTuple):
    """What a layer hands to the recurrence; g, beta and lam are None where the rule has no such gate."""

    q: Float[Tensor, "B T H K"]
    k: Float[Tensor, "B T H K"]
    v: Float[Tensor, "B T HV V"]
    g: Float[Tensor, "B T HV"] | None
    beta: Float[Tensor, "B T HV"] | None
    lam: Float[Tensor, "B T HV"] | None


class LayerState(NamedTuple):
    """What a layer remembers of N sequences.

    conv: [N, conv_width - 1, C], the last inputs of q_conv1d, k_conv1d and v_conv1d, their channels side by side.
    memory: [N, value heads, K, V], the memory S of each value head, transposed.
    """

    conv: Float[Tensor, "N W C"]
    memory: Float[Tensor, "N HV K V"]


class QDeltaLayer(nn.Module):
    """The Q-Delta token mixer; the same class is its baselines and variants, by `config`.

        q, k = unit(silu(conv(W_q x))), unit(silu(conv(W_k x)))       v = silu(conv(W_v x))
        beta = sigmoid(W_b x)    lam = sigmoid(W_lamb x - 0.9)    g = -exp(A_log) softplus(W_a x + dt_bias)
        S_t = e^{g_t} S_{t-1} (I - beta_t (k_t + lam_t q_t) k_t^T) + beta_t v_t k_t^T
        y_t = W_o [rmsnorm(K^-1/2 S_t q_t) * silu(W_g x_t)]

    Shapes: x and y are [B, T, hidden_size]; one state [V, K] per value head. Parameters are there only where the
    rule uses them: lamb_proj for a learned lam, a_proj, A_log and dt_bias for decay, b_proj for a delta rule.
    Their names are those of the authors' released layer.

    Source: Q-Delta (arXiv 2606.08804), its layer; Gated DeltaNet (arXiv 2412.06464) for lam = 0.
    """

    def __init__(self, config: LayerConfig, seed: int | None = 0):
        super().__init__()
        self.config = config
        D, memories = config.hidden_size, config.memories
        keys, values = config.heads * config.key_dim, memories * config.value_dim
        self.q_proj = nn.Linear(D, keys, bias=False)
        self.k_proj = nn.Linear(D, keys, bias=False)
        self.v_proj = nn.Linear(D, values, bias=False)
        self.q_conv1d = ShortConvolution(keys, config.conv_width)
        self.k_conv1d = ShortConvolution(keys, config.conv_width)
        self.v_conv1d = ShortConvolution(values, config.conv_width)
        if config.erases:
            self.b_proj = nn.Linear(D, memories, bias=False)
        if config.decays:
            self.a_proj = nn.Linear(D, memories, bias=False)
            self.A_log = nn.Parameter(wide(torch.zeros(memories)))
            self.dt_bias = nn.Parameter(wide(torch.zeros(memories)))
        if config.learns_lam:
            self.lamb_proj = nn.Linear(D, memories, bias=False)
        self.g_proj = nn.Linear(D, values, bias=False)
        self.o_norm = GatedRMSNorm(config.value_dim, config.norm_eps)
        self.o_proj = nn.Linear(values, D, bias=False)
        if seed is not None:
            initialise(self, seed)

    def rule_inputs(self, x: Float[Tensor, "B T D"]) -> RuleInputs:
        """Return q, k (unit vectors), v and the gates that this layer feeds to the recurrence for input x."""
        return self._inputs(x, None, None)[0]

    def fresh_state(self, N: int, like: Tensor | None = None) -> LayerState:
        """Return the state of N sequences before their first token: zeros.

        like: activations, whose dtype and device the state takes; None: the weights of the convolutions, for those
        of a projection may be packed integers, or a method, in a quantised model.
        """
        c, like = self.config, self.q_conv1d.weight if like is None else like
        channels = 2 * c.heads * c.key_dim + c.memories * c.value_dim
        return LayerState(
            like.new_zeros(N, c.conv_width - 1, channels),
            wide(like.new_zeros(N, c.memories, c.key_dim, c.value_dim)),
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> QDeltaLayer:
        """Move or cast the parameters; A_log and dt_bias, the layer's own, stay in float32 at least.

        Rates of forgetting act over thousands of tokens; eight bits would move them by 0.8 %.
        """
        if recurse:
            for part in self.children():
                part._apply(fn)

        def applied(x: Tensor) -> Tensor:
            y = fn(x)
            return x.to(y.device, torch.float32) if y.is_floating_point() and y.itemsize < 4 else y

        return super()._apply(applied, recurse=False)

    @overload
    def forward(self, x: Tensor, state: None = None, packing: Packing | None = None) -> Tensor: ...

    @overload
    def forward(self, x: Tensor, state: LayerState, packing: Packing | None = None) -> tuple[Tensor, LayerState]: ...

    def forward(
        self, x: Float[Tensor, "B T D"], state: LayerState | None = None, packing: Packing | None = None
    ) -> Float[Tensor, "B T D"] | tuple[Float[Tensor, "B T D"], LayerState]:
        """Mix the tokens of x, each with its past only; with a state, go on from it and return the next one too."""
        inputs, tail = self._inputs(x, state, packing)
        with without_autocast(x.device.type):
            o, memory = self.recurrence(
                inputs,
                initial_state=None if state is None else state.memory,
                output_final_state=state is not None,
                cu_seqlens=None if packing is None else packing.cu_seqlens,
            )
        gate = self.g_proj(x).unflatten(-1, (self.config.memories, -1))
        y = self.o_proj(self.o_norm(o, gate).flatten(-2))
        if tail is None or memory is None:
            return y
        return y, LayerState(tail, memory)

    def recurrence(self, inputs: RuleInputs, **options) -> tuple[Tensor, Tensor | None]:
        """Run the layer's rule; options are initial_state, output_final_state and cu_seqlens of `qdelta_rule`."""
        q, k, v, g, beta, lam = inputs
        if beta is None:
            return linear_attention(q, k, v, g, chunk_size=self.config.chunk_size, **options)
        return qdelta_rule(q, k, v, g, beta, lam, chunk_size=self.config.chunk_size, **options)

    def _inputs(
        self, x: Tensor, state: LayerState | None, packing: Packing | None
    ) -> tuple[RuleInputs, Float[Tensor, "N W C"] | None]:
        """Return what the rule reads, and the convolutions' next tails if there is a state."""
        c = self.config
        projected = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        sizes = [y.shape[-1] for y in projected]
        tails = (None,) * 3 if state is None else state.conv.split(sizes, dim=-1)
        convolutions = self.q_conv1d, self.k_conv1d, self.v_conv1d
        q, k, v = (conv(y, tail, packing) for conv, y, tail in zip(convolutions, projected, tails, strict=True))
        q, k = (unit(y.unflatten(-1, (c.heads, -1))) for y in (q, k))
        v = v.unflatten(-1, (c.memories, -1))
        inputs = RuleInputs(q, k, v, *self._gates(x, q, k))
        return inputs, None if state is None else _next_tails(state.conv, projected, packing)

    def _gates(self, x: Tensor, q: Tensor, k: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return g, beta and lam, in float32 at least."""
        c, g, beta, lam = self.config, None, None, None
        largest = 2 if c.allow_neg_eigval else 1
        if c.decays:
            g = log_decay(self.A_log, wide(self.a_proj(x)) + self.dt_bias)
        if c.erases:
            beta = largest * torch.sigmoid(wide(self.b_proj(x)))
            lam = None if c.lam is None else torch.full_like(beta, c.lam)
            if c.learns_lam:
                lam = largest * torch.sigmoid(wide(self.lamb_proj(x)) - c.lam_offset)
            if c.norm_compensation and lam is not None:
                g = (0 if g is None else g) - log_expansion(q, k, beta, lam)
        return g, beta, lam


def log_decay(A_log: Tensor, x: Tensor) -> Tensor:
    """Return g = -exp(A_log) softplus(x), x with its bias; in float32 at least.

    A rate of e^80 leaves nothing already; from e^89 on it would be infinite, and its gradient no number.
    """
    return -wide(A_log).clamp(max=80).exp() * F.softplus(x)


def unit(x: Tensor) -> Tensor:
    """Return x over its length, computed in float32 at least; zero stays zero.

    A vector shorter than 0.001 is scaled by 1000, so that no slope is steeper: exact unit vectors are what the theory
    asks for, and sqrt(||x||^2 + 1e-6), with the same bound, gives none.
    """
    y = wide(x)
    long = y.detach().norm(dim=-1, keepdim=True) > 1e-3
    # The length of a zero vector has no second derivative, not even where it is not used.
    return torch.where(long, F.normalize(torch.where(long, y, 1), dim=-1), y / 1e-3).to(x.dtype)


def log_expansion(
    q: Float[Tensor, "B T H K"],
    k: Float[Tensor, "B T H K"],
    beta: Float[Tensor, "B T HV"],
    lam: Float[Tensor, "B T HV"],
) -> Float[Tensor, "B T HV"]:
    """Return log s+, s+ = ||I - beta x k^T||_2 >= 1: what norm-compensated decay takes off g. Differentiable.

        s+ = (r1 + r2) / 2,    r1 = beta ||k|| ||x||,    r2^2 = (2 - beta k.x)^2 + (beta ||k|| ||x across k||)^2

    Source: claims G3 and G14 of this project's theory; K >= 2.
    """
    groups = beta.shape[2] // q.shape[2]
    q, k = wide(q), wide(k)
    with without_autocast(q.device.type):  # which would take these products in half precision
        kk, kq = torch.linalg.vecdot(k, k), torch.linalg.vecdot(k, q)
        # From the vectors: as a difference of squares it would lose half the digits near q || k.
        across = q - (kq / torch.where(kk > 0, kk, 1))[..., None] * k
        across2 = torch.linalg.vecdot(across, across)
    kk, kq, across2 = (x.repeat_interleave(groups, dim=2) for x in (kk, kq, across2))
    aligned = beta * (kk + lam * kq)
    side2 = (beta * lam).square() * kk * across2
    # The clamps keep the square root's slope finite where its argument vanishes; the logarithm's rounding is 1e-8.
    smallest = torch.finfo(beta.dtype).tiny
    r1 = (aligned.square() + side2).clamp(min=smallest).sqrt()
    r2 = ((2 - aligned).square() + side2).clamp(min=smallest).sqrt()
    return ((r1 + r2) / 2).clamp(min=1).log()


def _next_tails(conv: Tensor, projected: tuple[Tensor, ...], packing: Packing | None) -> Tensor:
    """Return the last inputs of the convolutions, in their dtype, with those from before this call where too few."""
    fed = torch.cat(projected, dim=-1)
    if packing is not None:
        return packing.tails(packing.join(conv.to(fed.dtype), fed))
    whole = torch.cat([conv.to(fed.dtype), fed], dim=1)
    return whole[:, whole.shape[1] - conv.shape[1] :]
