"""Which tensor was the first that is not finite: parameters, outputs, gradients, in the order in which they arise."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor


def first_nonfinite(model: nn.Module, tokens: Int[Tensor, "B T"]) -> str | None:
    """Name the first tensor that is not finite when the model reads these tokens, None where all are.

    Looks at the parameters, then at the modules' outputs in the order of the forward pass, then at the gradients in
    the order of the backward pass. Of a model that is spread over processes only this one's part is looked at, and no
    outputs: that would take all processes, which may not all have met what is not finite.
    """
    for name, parameter in model.named_parameters():
        if not _here(parameter).isfinite().all():
            return f"the parameter {name}"
    if not isinstance(model, FSDPModule) and (found := _first_output(model, tokens)) is not None:
        return f"the output of {found}"
    for name, parameter in reversed(list(model.named_parameters())):
        if parameter.grad is not None and not _here(parameter.grad).isfinite().all():
            return f"the gradient of {name}"
    return None


def earliest(found: Sequence[str | None]) -> str | None:
    """Return which of several processes' findings arises first: a parameter, then an output, then a gradient."""
    kinds = ("the parameter", "the output", "the gradient")
    words = [word for word in found if word is not None]
    return min(words, key=lambda word: next(i for i, kind in enumerate(kinds) if word.startswith(kind)), default=None)


def _here(x: Tensor) -> Tensor:
    return x.to_local() if isinstance(x, DTensor) else x


def _first_output(model: nn.Module, tokens: Tensor) -> str | None:
    found: list[str] = []

    def look(name: str):
        def hook(_module, _args, output):
            if not output.isfinite().all():
                found.append(name)

        return hook

    hooks = [m.register_forward_hook(look(name)) for name, m in model.named_modules() if name]
    try:
        # Graphs of a compiled model know nothing of these hooks; the recurrence refuses inputs that are not finite.
        with torch.compiler.set_stance("force_eager"), suppress(ValueError):
            model(tokens)
    finally:
        for handle in hooks:
            handle.remove()
    return found[0] if found else None
