"""The training loop: any task, one process or several, checkpoints that resume exactly, logs, and a clean stop."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from . import distributed
from .checkpoints import load_checkpoint, save_checkpoint
from .configs import ModelConfig
from .diagnostics import diagnose
from .layer import wide
from .logs import Logs
from .nonfinite import earliest, first_nonfinite
from .schedule import TrainingConfig
from .tasks import IGNORED, Examples

CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True)
class Keeping:
    """What a run keeps in its folder: a checkpoint and logs every so many steps.

    watch_every: steps between diagnoses of every delta-rule layer (`learning.diagnose`); None: never.
    settings: JSON that names the task and whatever else a resumed run has to share.
    """

    folder: Path
    checkpoint_every: int = 200
    log_every: int = 10
    watch_every: int | None = None
    tensorboard: bool = True
    settings: Mapping[str, Any] | None = None


def fit(
    model: nn.Module,
    config: TrainingConfig,
    batches: Callable[[int], Examples],
    *,
    keeping: Keeping | None = None,
    progress: bool = True,
    name: str = "training",
) -> list[float]:
    """Train a model in place on batches(0), batches(1), ...; return the loss of every step in nats per target.

        loss = sum over targets of -ln p(target) / number of targets,  over all processes' rows together

    AdamW on the config's schedule, clipped gradients, autocast to config.precision. In a group of processes each has
    every world-th row of each batch, and the gradients are those of the whole one; each holds the whole model (DDP),
    or its part of one that went through `distributed.shard` (FSDP2). With `keeping`, a run goes on from the checkpoint
    in its folder, to the same bits as without a stop.

    SIGINT and SIGTERM end the run after the step under way, once the checkpoint is written: KeyboardInterrupt. Raises
    FloatingPointError, with the step and the name of the first tensor that is not finite, where a loss or gradient
    stops being finite (the last checkpoint stays as it was), and ValueError for a checkpoint of another run.
    """
    group = distributed.current()
    optimizer = adamw(model, config)
    settings = _settings(model, config, group, keeping)
    losses = _resume(model, optimizer, keeping, settings)
    save = lambda: _save(model, optimizer, losses, group, keeping, settings)
    spread = isinstance(model, FSDPModule)
    parallel = DistributedDataParallel(model) if group.world > 1 and not spread else model
    start, begun = len(losses), time.perf_counter()
    with (
        _logs(keeping, group, start) as logs,
        _interrupts() as interrupted,
        tqdm(total=config.tokens, initial=start * config.batch * config.length, unit=" tokens", unit_scale=True,
             disable=not (progress and group.first), desc=name) as bar,
    ):  # fmt: skip
        for step in range(start, config.steps):
            examples = batches(step).share(group.rank, group.world).to(_device(model))
            rate = config.rate(step)
            for options in optimizer.param_groups:
                options["lr"] = rate
            optimizer.zero_grad()
            loss, norm, stop = backward(parallel, examples, step, config, group, stop=bool(interrupted))
            optimizer.step()
            losses.append(loss)
            bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
            bar.update(config.batch * config.length)
            if keeping is not None:
                seconds = time.perf_counter() - begun
                row = {"step": step, "loss": loss, "learning_rate": rate, "gradient_norm": norm, "seconds": seconds}
                _log(logs, keeping, model, examples, row | {"tokens": (step + 1) * config.batch * config.length})
            if keeping is not None and ((step + 1) % keeping.checkpoint_every == 0 or stop):
                save()
            if stop:
                raise KeyboardInterrupt(f"{name} was stopped after step {step}.")
        if keeping is not None and start < config.steps:
            save()
        if interrupted:  # in the last step: the run is whole, but what called it was to stop
            raise KeyboardInterrupt(f"{name} was stopped after its last step.")
    return losses


def adamw(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """Return AdamW with weight decay on matrices only, the embedding not among them."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and not n.startswith("embedding")]
    chosen = set(map(id, matrices))
    others = [p for p in model.parameters() if id(p) not in chosen]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=True)


def backward(
    model: nn.Module,
    examples: Examples,
    step: int,
    config: TrainingConfig,
    group: distributed.Processes,
    *,
    stop: bool = False,
) -> tuple[float, float, bool]:
    """Put the clipped gradient of one batch's mean loss into the model.

    Returns the loss, the gradient's norm before clipping, and whether any process was asked to stop: all of them
    then stop after the same step.
    """
    plain = model.module if isinstance(model, DistributedDataParallel) else model
    device = examples.tokens.device
    asked, stopping = group.sum(torch.tensor([examples.asked, stop], dtype=torch.float64, device=device)).tolist()
    lowered = torch.autocast(device.type, torch.bfloat16) if config.precision == "bfloat16" else nullcontext()
    try:
        with lowered:
            logits = model(examples.tokens)
    except ValueError as error:  # the recurrence refuses inputs that are not finite
        if (culprit := first_nonfinite(plain, examples.tokens)) is None:
            raise
        raise FloatingPointError(_stopped(step, culprit)) from error
    nats = F.cross_entropy(
        wide(logits).flatten(0, 1), examples.targets.flatten(), ignore_index=IGNORED, reduction="sum"
    )
    (nats * (group.world / asked)).backward()  # the group averages gradients
    parameters = [p for p in plain.parameters() if p.grad is not None]
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    length = distributed.full(norm)
    loss = group.sum(nats.detach().double()) / asked
    if not torch.isfinite(loss + length):
        culprits = group.said(first_nonfinite(plain, examples.tokens))
        raise FloatingPointError(_stopped(step, earliest(culprits) or "the loss"))
    nn.utils.clip_grads_with_norm_(parameters, config.clip, norm)
    return float(loss), float(length), stopping > 0


def _stopped(step: int, culprit: str) -> str:
    return f"training stopped at step {step}: {culprit} is not finite."


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _settings(
    model: nn.Module, config: TrainingConfig, group: distributed.Processes, keeping: Keeping | None
) -> dict[str, Any]:
    sizes = getattr(model, "config", None)
    named = asdict(sizes) if isinstance(sizes, ModelConfig) else str(sizes)
    given = {} if keeping is None or keeping.settings is None else keeping.settings
    spread = {"sharded": True} if isinstance(model, FSDPModule) else {}
    return {**given, "model": named, "training": asdict(config), "processes": group.world, **spread}


def _resume(
    model: nn.Module, optimizer: torch.optim.Optimizer, keeping: Keeping | None, settings: Mapping[str, Any]
) -> list[float]:
    if keeping is None or not (path := keeping.folder / CHECKPOINT).exists():
        return []
    return load_checkpoint(path, model, optimizer, settings)


def _save(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    losses: list[float],
    group: distributed.Processes,
    keeping: Keeping | None,
    settings: Mapping[str, Any],
) -> None:
    if keeping is not None:
        save_checkpoint(keeping.folder / CHECKPOINT, model, optimizer, losses, settings)
    group.wait()


@contextmanager
def _logs(keeping: Keeping | None, group: distributed.Processes, step: int) -> Iterator[Logs | None]:
    if keeping is None or not group.first:
        yield None
        return
    with Logs(keeping.folder, step, tensorboard=keeping.tensorboard) as logs:
        yield logs


def _log(logs: Logs | None, keeping: Keeping, model: nn.Module, examples: Examples, row: Mapping[str, float]) -> None:
    step, watched = int(row["step"]), {}
    if keeping.watch_every is not None and step % keeping.watch_every == 0:
        watched = diagnose(model, examples.tokens)  # by every process: a model that is spread runs in all or none
    if logs is None:
        return
    if step % keeping.log_every == 0:
        logs.step(row)
    for layer, found in watched.items():
        logs.watched(step, layer, found.scalars())
    if (step + 1) % keeping.checkpoint_every == 0:
        logs.flush()


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying of the first; a second one has its usual effect."""
    seen: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # where Python delivers no signals
        yield seen
        return
    usual = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def remember(number: int, _frame: object) -> None:
        seen.append(number)
        signal.signal(number, usual[signal.Signals(number)])

    for number in usual:
        signal.signal(number, remember)
    try:
        yield seen
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
