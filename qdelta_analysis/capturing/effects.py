"""What query feedback does to a model's predictions: how far they move, token by token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from .patching import patch
from .sites import without_cache


@torch.no_grad()
def lam_effect(
    model: nn.Module,
    input_ids: Tensor,
    lam: Sequence[float],
    *,
    layers: int | Sequence[int] | None = None,
    norm_compensation: bool = False,
    **options: Any,
) -> xr.Dataset:
    """Say how far each token's prediction moves when the model runs with another query feedback.

        divergence = KL(p || p_lam) = sum over the vocabulary of p (log p - log p_lam),    in nats

    Args:
        model: as `patch` takes it; its forward pass returns logits [B, T, vocabulary], or something with `.logits`.
        input_ids: what the model takes, [B, T].
        lam: the values to run with, one after the other, in [0, 2].
        layers, norm_compensation: as in `patch`.
        options: further arguments of the model's forward pass.

    Returns:
        Dims (lam, batch, time): `divergence`, in float64, and `changed`, whether another token has become the
        likeliest. p is the model's prediction as it is. The model is left as it was.

    Raises ValueError as `patch`.
    """
    options = without_cache(model, options)

    def run() -> Tensor:
        out = model(input_ids, **options)
        return (out if isinstance(out, Tensor) else out.logits).double().log_softmax(-1)

    p, divergences, changed = run(), [], []
    for value in lam:
        with patch(model, float(value), layers=layers, norm_compensation=norm_compensation):
            other = run()
        divergences.append((p.exp() * (p - other)).sum(-1).cpu().numpy())
        changed.append((p.argmax(-1) != other.argmax(-1)).cpu().numpy())
    dims, shape = ("lam", "batch", "time"), (len(divergences), *p.shape[:2])
    variables = {
        "divergence": (dims, np.reshape(divergences, shape), {"units": "nats"}),
        "changed": (dims, np.reshape(changed, shape).astype(bool)),
    }
    return xr.Dataset(variables, {"lam": [float(value) for value in lam]})
