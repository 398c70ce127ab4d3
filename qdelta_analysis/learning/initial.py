"""The initial weights: each drawn by seed and name, so that models which share a parameter start alike."""

from __future__ import annotations

import math
import zlib

import torch
from torch import Tensor, nn


@torch.no_grad()
def initialise(module: nn.Module, seed: int, depth: int = 1) -> None:
    """Draw every parameter anew; its value depends on the seed, its name and its shape alone.

    So for one seed all rules start from the same values wherever they share a parameter, on every device.
    Parameters on the meta device are left alone, as they have no values.
    """
    for name, parameter in module.named_parameters():
        if not parameter.is_meta:
            parameter.copy_(initial_value(name, parameter, seed, depth))


def initial_value(name: str, parameter: Tensor, seed: int, depth: int) -> Tensor:
    """Return the first value of a parameter, in float32 on the CPU.

    Norms start at 1. Matrices are normal with variance 1 / fan-in; those that end a residual branch are scaled by
    (2 depth)^-1/2, which keeps the residual stream's variance near that of the embedding at any depth. A_log is the
    logarithm of a uniform draw from [1, 16], and softplus(dt_bias) is log-uniform in [0.001, 0.1]: the heads start
    with forgetting rates -g spread from 0.001 to 1.6 per token.
    """
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
    empty = torch.empty(parameter.shape, dtype=torch.float32, device="cpu")
    if name.endswith("A_log"):
        return empty.uniform_(1, 16, generator=generator).log_()
    if name.endswith("dt_bias"):
        rate = empty.uniform_(math.log(1e-3), math.log(1e-1), generator=generator).exp_()
        return rate.expm1().log()
    if "conv1d" in name:
        bound = parameter.shape[-1] ** -0.5
        return empty.uniform_(-bound, bound, generator=generator)
    if parameter.ndim == 2:
        std = 1.0 if name.startswith("embedding") else parameter.shape[1] ** -0.5
        branch = (2 * depth) ** -0.5 if name.endswith(("o_proj.weight", "down.weight")) else 1.0
        return empty.normal_(0, std * branch, generator=generator)
    return empty.fill_(1)
