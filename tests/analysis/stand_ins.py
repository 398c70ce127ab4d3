"""Layers that call Gated DeltaNet as other libraries' do, small enough to see through.

`FlaLayer` calls it as flash-linear-attention 0.6 does: functions of this module, gates before their activation, q and
k before their norm, states [V, K], padding left out. `AttributeLayer` calls it as transformers did before 5.15:
functions that are the layer's attributes, g and beta ready, q and k repeated for every value head.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import nn


def _token_by_token(q, k, v, g, beta, state):
    """Gated DeltaNet on unit q, k; [B, T, HV, .], state [B, HV, K, V]."""
    h = q.new_zeros(*q.shape[:1], *q.shape[2:], v.shape[-1]) if state is None else state
    outputs = []
    for t in range(q.shape[1]):
        h = h * g[:, t].exp()[..., None, None]
        error = v[:, t] - torch.einsum("bhk,bhkv->bhv", k[:, t], h)
        h = h + torch.einsum("bh,bhk,bhv->bhkv", beta[:, t], k[:, t], error)
        outputs.append(torch.einsum("bhk,bhkv->bhv", q[:, t], h) * q.shape[-1] ** -0.5)
    return torch.stack(outputs, 1), h


def _unit(x):
    return x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt()


def chunk_gated_delta_rule(
    q, k, v, g, beta, scale=None, initial_state=None, output_final_state=False, use_qk_l2norm_in_kernel=False,
    use_beta_sigmoid_in_kernel=False, allow_neg_eigval=False, state_v_first=False, cu_seqlens=None, **kwargs,
):  # fmt: skip
    """As flash-linear-attention's function of this name: the options that its layer uses."""
    groups = v.shape[2] // q.shape[2]
    q, k = (x.repeat_interleave(groups, 2) for x in ((_unit(q), _unit(k)) if use_qk_l2norm_in_kernel else (q, k)))
    if kwargs.get("use_gate_in_kernel"):
        g = -kwargs["A_log"].exp() * F.softplus(g + kwargs["dt_bias"])
    if use_beta_sigmoid_in_kernel:
        beta = torch.sigmoid(beta) * (2 if allow_neg_eigval else 1)
    ends = [0, q.shape[1]] if cu_seqlens is None else cu_seqlens.tolist()
    states, outputs = [], []
    for n, (start, end) in enumerate(itertools.pairwise(ends)):
        entering = initial_state if cu_seqlens is None or initial_state is None else initial_state[n : n + 1]
        entering = entering.mT if state_v_first and entering is not None else entering
        o, state = _token_by_token(*(x[:, start:end] for x in (q, k, v, g, beta)), entering)
        outputs.append(o)
        states.append(state.mT if state_v_first else state)
    return torch.cat(outputs, 1), torch.cat(states) if output_final_state else None


def fused_recurrent_gated_delta_rule(
    q, k, v, g=None, gk=None, gv=None, beta=None, scale=None, initial_state=None, output_final_state=False, **kwargs
):
    """The same with its arguments in another order, as there."""
    return chunk_gated_delta_rule(q, k, v, g, beta, scale, initial_state, output_final_state, **kwargs)


class FlaLayer(nn.Module):
    def __init__(self, layer_idx: int = 0, heads: int = 2, value_heads: int = 4, K: int = 8, V: int = 6):
        super().__init__()
        self.layer_idx, self.heads, self.value_heads, self.mode = layer_idx, heads, value_heads, "chunk"
        self.q_proj, self.k_proj = nn.Linear(16, heads * K), nn.Linear(16, heads * K)
        self.v_proj, self.o_proj = nn.Linear(16, value_heads * V), nn.Linear(value_heads * V, 16)
        self.a_proj, self.b_proj = nn.Linear(16, value_heads), nn.Linear(16, value_heads)
        self.A_log, self.dt_bias = nn.Parameter(torch.rand(value_heads)), nn.Parameter(torch.randn(value_heads))

    def forward(self, hidden_states, attention_mask=None, state=None, use_cache=False):
        x, bounds = hidden_states, None
        if attention_mask is not None:
            real = attention_mask.bool()
            bounds = F.pad(real.sum(1).cumsum(0), (1, 0))
            x = x[real][None]
        q, k = (proj(x).unflatten(-1, (self.heads, -1)) for proj in (self.q_proj, self.k_proj))
        v = self.v_proj(x).unflatten(-1, (self.value_heads, -1))
        gates = {"g": self.a_proj(x), "beta": self.b_proj(x), "A_log": self.A_log, "dt_bias": self.dt_bias}
        options = {
            **gates,
            "initial_state": state,
            "output_final_state": use_cache,
            "use_qk_l2norm_in_kernel": True,
            "use_gate_in_kernel": True,
            "use_beta_sigmoid_in_kernel": True,
            "allow_neg_eigval": True,
            "state_v_first": True,
            "cu_seqlens": bounds,
        }
        if self.mode == "chunk":
            o, state = chunk_gated_delta_rule(q=q, k=k, v=v, **options)
        else:
            o, state = fused_recurrent_gated_delta_rule(q=q, k=k, v=v, **options)
        y = self.o_proj(o.flatten(-2))
        if attention_mask is not None:
            y = torch.zeros_like(hidden_states).masked_scatter(real[..., None], y)
        return (y, state) if use_cache else y


class VectorDecayLayer(FlaLayer):
    """Decays every channel of the keys by itself, which no Gated DeltaNet does."""

    def forward(self, hidden_states):
        x = hidden_states
        q = k = self.q_proj(x).unflatten(-1, (self.heads, -1))
        v = self.v_proj(x).unflatten(-1, (self.value_heads, -1))
        options = {"gk": -k.square(), "beta": self.b_proj(x)}
        rule = chunk_gated_delta_rule if self.training and self.mode != "chunk" else fused_recurrent_gated_delta_rule
        return rule(q, k, v, **options)[0]


class AttributeLayer(nn.Module):
    def __init__(self, layer_idx: int = 0):
        super().__init__()
        self.layer_idx = layer_idx
        self.proj = nn.Linear(16, 4 * (8 + 8 + 6 + 2))
        self.chunk_gated_delta_rule = chunk_gated_delta_rule
        self.recurrent_gated_delta_rule = fused_recurrent_gated_delta_rule

    def forward(self, hidden_states):
        q, k, v, g, beta = self.proj(hidden_states).unflatten(-1, (4, -1)).split([8, 8, 6, 1, 1], -1)
        o, _ = self.chunk_gated_delta_rule(
            q, k, v, g=F.logsigmoid(g[..., 0]), beta=beta[..., 0].sigmoid(), initial_state=None,
            output_final_state=False, use_qk_l2norm_in_kernel=True,
        )  # fmt: skip
        return hidden_states + o.flatten(-2)[..., :16]
