"""patch(): run a model with query feedback that it was not trained with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..learning.layer import log_expansion
from .calls import RuleCall
from .sites import choose_layers, intercepted

Feedback = float | Tensor


@dataclass(frozen=True, eq=False)
class _Feedback:
    """A `Handler` that sets lam."""

    lam: Mapping[int, Feedback]
    norm_compensation: bool

    def before(self, number: int, call: RuleCall) -> RuleCall:
        dtype = torch.promote_types(call.beta.dtype, torch.float32)  # half precision would give another lam
        lam = torch.as_tensor(self.lam[number], dtype=dtype, device=call.beta.device)
        try:
            lam = lam.expand(call.beta.shape)
        except RuntimeError:
            raise ValueError(
                f"lam has shape {list(lam.shape)}; expected one that broadcasts to [B, T, HV] = "
                f"{list(call.beta.shape)} of layer {number}."
            ) from None
        if not self.norm_compensation:
            return replace(call, lam=lam)
        q, k = call.unit_qk()
        price = log_expansion(q, k, call.beta, lam)
        return replace(call, lam=lam, g=-price if call.g is None else call.g - price)

    def after(self, number, call, result) -> None:
        """Nothing is kept."""


@contextmanager
def patch(
    model: nn.Module,
    lam: Feedback | Mapping[int, Feedback],
    *,
    layers: int | Sequence[int] | None = None,
    norm_compensation: bool = False,
) -> Iterator[None]:
    """Run a model's delta-rule layers with query feedback lam, to see what that does to its outputs.

        with patch(model, lam=0.3):
            logits = model(input_ids).logits

    Args:
        model: as `qdelta_analysis.capture` takes it.
        lam: in [0, 2]: a number, a tensor that broadcasts to [B, T, value heads], or either by layer number. 0 is
            Gated DeltaNet. It takes the place of a lam that the model has of its own.
        layers: which layers; None: all, or those that lam names.
        norm_compensation: also forget, at every step, what that could expand: g is lowered by log s+ (claim G14 of
            this project's theory). g itself is then no longer what the model was trained with.

    The rule is computed by `qdelta_rule`, through which gradients flow. Prefill and cached decoding are both patched,
    and `capture` and `record` inside see lam. Leaves the model as it was, whatever ends the block.

    It holds in the thread that entered the block; another sees it if it runs in `contextvars.copy_context()`. Where
    torch.utils.checkpoint computes a layer again, it does so as in the forward pass, also when the block has ended.

    Raises ValueError for a lam outside [0, 2] or of another shape, or a layer that the model has not; as
    `find_layers` for a model without delta-rule layers; RuntimeError when a layer runs inside of an autograd.Function
    that is not torch.utils.checkpoint's and is differentiated: computed again there, it would not be patched.
    """
    named = list(lam) if isinstance(lam, Mapping) else None
    sites = choose_layers(model, layers if layers is not None or named is None else named)
    by_layer = {number: lam[number] if isinstance(lam, Mapping) else lam for number in sites}
    for number, value in by_layer.items():
        values = torch.as_tensor(value, dtype=torch.float64)
        if not bool(((values >= 0) & (values <= 2)).all()):
            raise ValueError(f"lam is {value!r} in layer {number}; expected values in [0, 2].")
    with intercepted(sites, _Feedback(by_layer, norm_compensation), lasting=True):
        yield
