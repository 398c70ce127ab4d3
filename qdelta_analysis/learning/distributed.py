"""Several processes, each with its share of every batch: what `torchrun` started, seen from one of them.

`fit` gives every process the whole model (DDP), or, after `shard`, its share of it (FSDP2).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from .model import LanguageModel


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

    def said(self, word: str | None) -> list[str | None]:
        """Return what every process says here, by their numbers, to each of them."""
        words: list[str | None] = [word] * self.world
        if self.world > 1:
            dist.all_gather_object(words, word)
        return words


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


def shard(model: LanguageModel) -> LanguageModel:
    """Spread a model over the group's processes, in place: each holds 1/world of weights, gradients and AdamW's state.

        with joined("auto") as device:
            model = shard(LanguageModel(config).to(device))
            fit(model, training, batches, keeping=Keeping(folder))
            weights = full_state(model)  # what a LanguageModel of one process loads

    A block's weights are put together while it runs and let go after it (FSDP2, torch's `fully_shard`). Every process
    begins with the whole model, so that one block more than its share has to fit later, but all of it now. Its
    `forward` has to be called by all processes together, also to measure it.

    Raises ValueError outside a group of processes, or for a model that is spread already.
    """
    if not dist.is_initialized():
        raise ValueError("there is no group of processes; expected `shard` inside `joined`, started by torchrun.")
    if isinstance(model, FSDPModule):
        raise ValueError("model is spread over the processes already; expected one that is not.")
    device = next(model.parameters()).device.type
    mesh = init_device_mesh(device, (dist.get_world_size(),))
    for block in model.mixer_blocks():
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def full(x: Tensor) -> Tensor:
    """Return a tensor whole, put together from all processes' parts; all of them have to call this."""
    return x.full_tensor() if isinstance(x, DTensor) else x


def part_like(whole: Tensor, x: Tensor) -> Tensor:
    """Return this process's part of a tensor that all have whole, cut as x is; itself if x is not cut."""
    if not isinstance(x, DTensor):
        return whole
    return distribute_tensor(whole.to(x.device), x.device_mesh, x.placements, src_data_rank=None)


def full_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the model's weights, whole and on the CPU; where it was spread, all processes have to call this."""
    return {name: full(x.detach()).cpu() for name, x in model.state_dict().items()}
