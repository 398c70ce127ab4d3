"""What is timed has to be right first: the same numbers from both sides, and peers that this machine can run."""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor

from .report import Unavailable


def require_close(what: str, found: Tensor, expected: Tensor, tolerance: float) -> None:
    """Raise AssertionError unless ||found - expected|| <= tolerance ||expected||."""
    error = float((found.double() - expected.double()).norm() / expected.double().norm())
    assert error <= tolerance, f"{what} differ by {error:.1e}, more than {tolerance:.0e}"


def require_gpu_and_peers(*modules: str) -> None:
    """Raise Unavailable without a CUDA device, or without these modules of flash-linear-attention."""
    if not torch.cuda.is_available():
        raise Unavailable("it needs a CUDA device, and this machine has none")
    if not all(map(find_spec, modules)):
        raise Unavailable("it needs flash-linear-attention: pip install '.[gpu-peers]'")


def lift_guard() -> None:
    """Let flash-linear-attention run its backward pass here; the caller checks the gradients.

    It refuses on Hopper with Triton 3.4 to 3.7.0, where blocks that the sizes measured here do not use can be
    miscompiled.
    """
    from fla.ops.common import chunk_o  # pyright: ignore[reportMissingImports]

    chunk_o.TRITON_ABOVE_3_7_1 = True
