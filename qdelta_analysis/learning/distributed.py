"""Several processes, each with its share of every batch: what `torchrun` started, seen from one of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Processes:
    """This process's number, and how many there are; one alone talks to nobody."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and reports."""
        return self.rank == 0

    def sum(self, x: Tensor) -> Tensor:
        """Add a tensor up over all processes, in place."""
        if self.world > 1:
            dist.all_reduce(x)
        return x

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.world > 1:
            dist.barrier()


def current() -> Processes:
    """Return the group that this process is in."""
    return Processes(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else Processes()


@contextmanager
def joined(device: str) -> Iterator[torch.device]:
    """Join the group that torchrun's variables name, and yield this process's device; alone without them.

    device: "cpu", "cuda", or "auto", a GPU where there is one. GPUs talk by NCCL, processors by Gloo. Raises
    ValueError for a GPU that is not there.
    """
    kind = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    if kind not in ("cpu", "cuda"):
        raise ValueError(f"device is {device!r}; expected 'auto', 'cpu' or 'cuda'.")
    local = int(os.environ.get("LOCAL_RANK", 0))
    if kind == "cuda" and torch.cuda.device_count() <= local:
        raise ValueError(f"device is {device!r} for process {local}; found {torch.cuda.device_count()} GPUs.")
    here = torch.device(kind, local) if kind == "cuda" else torch.device(kind)
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or dist.is_initialized():
        yield here
        return
    if kind == "cuda":
        torch.cuda.set_device(here)
    dist.init_process_group("nccl" if kind == "cuda" else "gloo")
    try:
        yield here
    finally:
        dist.destroy_process_group()
