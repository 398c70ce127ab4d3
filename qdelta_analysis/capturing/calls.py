"""One call of a delta rule, however the library spells it, in the terms of `qdelta_rule`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qdelta_kernels import qdelta_rule
from qdelta_kernels.arguments import l2norm

from ..inputs import QDeltaInputs
from ..learning.layer import log_decay, wide

_LONG_NAMES = {"query": "q", "key": "k", "value": "v"}
# Arguments that would change what is computed in a way that `qdelta_rule` does not know.
_UNKNOWN = ("gk", "gv", "cp_context")


@dataclass(frozen=True)
class RuleCall:
    """The arguments of one call: names, shapes and meanings as in `qdelta_rule`, g being the log decay."""

    q: Tensor
    k: Tensor
    v: Tensor
    g: Tensor | None
    beta: Tensor
    lam: Tensor | None = None
    scale: float | None = None
    initial_state: Tensor | None = None
    output_final_state: bool = False
    cu_seqlens: Tensor | None = None
    l2norm_qk: bool = False
    state_v_first: bool = False  # the caller's states are [V, K]; `initial_state` here is [K, V]

    def compute(self) -> tuple[Tensor, Tensor | None]:
        """Run `qdelta_rule`; the state is laid out as the caller has it."""
        o, state = qdelta_rule(
            self.q,
            self.k,
            self.v,
            self.g,
            self.beta,
            self.lam,
            scale=self.scale,
            initial_state=self.initial_state,
            output_final_state=self.output_final_state,
            cu_seqlens=self.cu_seqlens,
            l2norm_qk=self.l2norm_qk,
        )
        return o, state.mT if self.state_v_first and state is not None else state

    def unit_qk(self) -> tuple[Tensor, Tensor]:
        """Return q and k as the recurrence uses them: normalised if the call asks for it, in float32 at least."""
        q, k = (_laid_out(x) for x in (self.q, self.k))
        return (l2norm(q), l2norm(k)) if self.l2norm_qk else (q, k)

    def tokens(self) -> dict[str, Any]:
        """Return the recurrence's arguments, packed sequences as rows that end in tokens that change nothing."""
        q, k = self.unit_qk()
        v = _laid_out(self.v)
        widest = torch.promote_types(torch.promote_types(q.dtype, k.dtype), v.dtype)
        q, k, v = (self.rows(x.to(widest)) for x in (q, k, v))
        beta = self.rows(self.beta)
        g, lam = (None if x is None else self.rows(x) for x in (self.g, self.lam))
        return {"q": q, "k": k, "v": v, "g": g, "beta": beta, "lam": lam, "initial_state": self.initial_state}

    def inputs(self, metadata: Mapping[str, str]) -> QDeltaInputs:
        """Return the tokens as QDeltaInputs."""
        return QDeltaInputs(**self.tokens(), metadata=metadata)

    def rows(self, x: Tensor) -> Tensor:
        """Packed [1, T, ...] -> [N, longest, ...] with zeros after each sequence's last token; else as it is."""
        if self.cu_seqlens is None:
            return x
        lengths = self.cu_seqlens.diff().tolist()
        return torch.nn.utils.rnn.pad_sequence(list(x[0].split(lengths)), batch_first=True)


def _laid_out(x: Tensor) -> Tensor:
    """Return x in float32 at least, its channels side by side: transformers' convolution leaves tokens so."""
    return wide(x).contiguous()


def read_call(function: Callable[..., Any], args: tuple, kwargs: Mapping[str, Any]) -> RuleCall:
    """Read a call of transformers' or FLA's chunk or recurrent Gated DeltaNet function.

    FLA may leave the gates' activation to the kernel; it is applied here: g = -exp(A_log) softplus(g + dt_bias),
    beta = sigmoid(beta), doubled with allow_neg_eigval. Raises ValueError for an argument that is not understood.
    """
    bound = inspect.signature(function).bind(*args, **kwargs)
    given = {_LONG_NAMES.get(name, name): value for name, value in bound.arguments.items()}
    given |= given.pop("kwargs", {})
    if unknown := [name for name in _UNKNOWN if given.get(name) is not None]:
        raise ValueError(f"the layer's rule is called with {unknown[0]}; expected one decay for each head and token.")
    g, beta = given.get("g"), given["beta"]
    if given.get("use_gate_in_kernel"):
        bias = given.get("dt_bias")
        raw = wide(g) if bias is None else wide(g) + wide(bias)
        g = log_decay(given["A_log"], raw)
    if given.get("use_beta_sigmoid_in_kernel"):
        beta = torch.sigmoid(wide(beta)) * (2 if given.get("allow_neg_eigval") else 1)
    v_first = bool(given.get("state_v_first") or given.get("transpose_state_layout"))
    state = given.get("initial_state")
    return RuleCall(
        q=given["q"],
        k=given["k"],
        v=given["v"],
        g=g,
        beta=beta,
        scale=given.get("scale"),
        initial_state=state.mT if v_first and state is not None else state,
        output_final_state=bool(given.get("output_final_state")),
        cu_seqlens=given.get("cu_seqlens"),
        l2norm_qk=bool(given.get("use_qk_l2norm_in_kernel")),
        state_v_first=v_first,
    )


def read_own_call(inputs: Any, **options: Any) -> RuleCall:
    """Read a call of `QDeltaLayer.recurrence`; raises ValueError for one that is no delta rule."""
    if inputs.beta is None:
        raise ValueError("the layer's rule is 'linear-attention'; expected a delta rule, with a write strength beta.")
    return RuleCall(*inputs, **options)
