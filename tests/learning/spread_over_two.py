"""What test_distributed.py has torchrun start twice: a model spread over two processes (FSDP2), in float64."""

from __future__ import annotations

import shutil
import signal
import sys
from contextlib import suppress
from pathlib import Path

import torch
from safetensors.torch import save_file

from qdelta_analysis.learning import Keeping, LanguageModel, fit, full_state, joined, shard
from qdelta_analysis.learning.distributed import current
from qdelta_analysis.threads import one_thread

from .test_fitting import CONFIG, batches, small, stopping_at


def spread(seed: int = 0) -> LanguageModel:
    return shard(small(seed).double())


def held(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """How many numbers this process holds of the model, and how many there are."""
    mine = sum(p.to_local().numel() for p in model.parameters())
    return {"mine": torch.tensor(mine), "all": torch.tensor(sum(p.numel() for p in model.parameters()))}


def main(folder: Path) -> None:
    rank = current().rank
    straight = spread()
    keeping = Keeping(folder / "straight", tensorboard=False, log_every=1, watch_every=4)
    fit(straight, CONFIG, batches, keeping=keeping, progress=False)
    keeping = Keeping(folder / "stopped", tensorboard=False, log_every=1)
    told = stopping_at(3, signal.SIGINT) if rank == 1 else batches
    with suppress(KeyboardInterrupt):
        fit(spread(), CONFIG, told, keeping=keeping, progress=False)
    if rank == 0:
        shutil.copyfile(keeping.folder / "checkpoint.safetensors", folder / "half.safetensors")
    current().wait()
    resumed = spread(seed=7)  # whose weights the checkpoint replaces
    fit(resumed, CONFIG, batches, keeping=keeping, progress=False)
    for name, model in (("straight", straight), ("resumed", resumed)):
        save_file(full_state(model) | held(model), folder / f"{name}{rank}.safetensors")
    broken = spread()
    with torch.no_grad():
        weight = broken.get_parameter("blocks.1.mlp.down.weight").to_local()
        if rank == 1:
            weight.fill_(torch.nan)
    try:
        fit(broken, CONFIG, batches, progress=False)
    except FloatingPointError as error:
        (folder / f"said{rank}.txt").write_text(str(error))


if __name__ == "__main__":
    with joined("cpu"), one_thread():
        main(Path(sys.argv[1]))
