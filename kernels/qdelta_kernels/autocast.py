"""Out of autocast: the recurrence, and what is measured of it, sums in float32 at least."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def without_autocast(device: str) -> AbstractContextManager:
    """Leave autocast for a type of device, where it is on."""
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


def outside_autocast(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function compute outside of the autocast region that it is called in."""

    @functools.wraps(function)
    def call(*args: P.args, **options: P.kwargs) -> R:
        with without_autocast("cpu"), without_autocast("cuda"):
            return function(*args, **options)

    return call
