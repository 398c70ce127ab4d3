"""What every function here asks of its inputs."""

from __future__ import annotations

import torch
from torch import Tensor

from ..inputs import QDeltaInputs


def float64_tokens(inputs: QDeltaInputs) -> QDeltaInputs:
    """Return inputs in float64 on the CPU; raise where there is no token to look at."""
    if not isinstance(inputs, QDeltaInputs):
        raise TypeError(f"inputs is a {type(inputs).__name__}; expected QDeltaInputs.")
    if inputs.T < 1:
        raise ValueError("inputs have T = 0 tokens; expected at least 1.")
    return inputs.to(device="cpu", dtype=torch.float64)


def eigenvalues(symmetric: Tensor) -> Tensor:
    """Return the eigenvalues of symmetric matrices, rising, [..., d]; NaN for one that is not finite."""
    finite = symmetric.isfinite().all(-1, keepdim=True).all(-2, keepdim=True)
    return torch.linalg.eigvalsh(symmetric.where(finite, 0)).where(finite[..., 0], torch.nan)
