"""Running what an experiment lacks: each (task, variant, learning rate, seed) once, to a JSON file of its own."""

from __future__ import annotations

import json
import platform
import re
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import joblib
import torch
from tqdm import tqdm

from qdelta_analysis.checks import require_jobs
from qdelta_analysis.files import replacing
from qdelta_analysis.threads import one_thread
from qdelta_kernels.gpu import HAS_TRITON

from .. import distributed
from ..compiling import compile_blocks
from ..fitting import Keeping, fit
from ..model import LanguageModel
from ..schedule import TrainingConfig
from .plans import Plan
from .records import read_run


def run_experiment(
    plan: Plan,
    seeds: Sequence[int],
    folder: Path,
    *,
    jobs: int = 1,
    device: str = "auto",
    tensorboard: bool = True,
    watch_every: int | None = None,
    compiled: bool | None = None,
    progress: bool = True,
) -> list[Path]:
    """Run what is missing of seeds x tasks x variants x learning rates; return the paths of all results, in that order.

    folder: gets NAME/TASK-VARIANT-seedN.json when a run is whole (with the rate in its name where there are several),
    and while it is not, a folder of that name with its checkpoint and logs, from which the next call goes on; the logs
    stay. jobs: runs at a time, each in a process with one thread; on a GPU they share it. Under torchrun every run is
    spread over all processes, one after the other. compiled: whether training goes through `compile_blocks`; None: on
    a GPU, with Triton, by which torch compiles for it.
    Raises FloatingPointError where a loss stops being finite, at any of the learning rates.
    Raises ValueError for a result or a checkpoint in the folder that has other settings or is damaged.
    """
    require_jobs(jobs)
    trainings = plan.trainings
    work = [(task, v, seed, how) for seed in seeds for task in plan.tasks for v in plan.models for how in trainings]
    place = Path(folder) / plan.name
    with distributed.joined(device) as here:
        group = distributed.current()
        if jobs > 1 and group.world > 1:
            raise ValueError(f"jobs is {jobs}; expected 1 under torchrun, which shares the work in its way.")
        options = {"device": here, "tensorboard": tensorboard, "watch_every": watch_every, "compiled": compiled}
        if jobs == 1:
            for one in tqdm(work, desc=plan.name, unit="run", disable=not (progress and group.first)):
                finish(plan, *one, place, **options, progress=progress)
        else:
            calls = (joblib.delayed(finish)(plan, *one, place, **options, progress=False) for one in work)
            done = joblib.Parallel(n_jobs=jobs, return_as="generator_unordered")(calls)
            for _ in tqdm(done, total=len(work), desc=plan.name, unit="run", disable=not progress):
                pass
    return [place / f"{_slug(plan, *one)}.json" for one in work]


def finish(
    plan: Plan,
    task: str,
    variant: str,
    seed: int,
    training: TrainingConfig,
    place: Path,
    *,
    device: torch.device,
    tensorboard: bool = True,
    watch_every: int | None = None,
    compiled: bool | None = None,
    progress: bool = True,
) -> Path:
    """Train and measure one variant on one task with one seed, unless that is done; return the result's path."""
    path = place / f"{_slug(plan, task, variant, seed, training)}.json"
    settings = describe(plan, task, variant, seed, training)
    if path.exists():
        _require_same(path, settings)
        return path
    group, chosen = distributed.current(), plan.tasks[task]
    model = LanguageModel(plan.model(task, variant), seed).to(device)
    if compiled is None:
        compiled = device.type == "cuda" and HAS_TRITON
    if compiled:
        torch.compiler.reset()  # past some number of models in one process, the next would be left uncompiled
        compile_blocks(model)
    watch_every = watch_every if model.config.layer.erases else None
    how = {"compiled": compiled}  # what a stopped run needs to go on to the same bits
    keeping = Keeping(path.with_suffix(""), tensorboard=tensorboard, watch_every=watch_every, settings=settings | how)
    batches = lambda step: chosen.examples(training.batch, seed, step)
    with one_thread():
        start = time.perf_counter()
        losses = fit(
            model,
            training,
            batches,
            keeping=keeping,
            progress=progress,
            name=f"{task}, {variant}, rate {training.learning_rate:g}, seed {seed}",
        )
        trained = time.perf_counter()
        if group.first:
            with torch.compiler.set_stance("force_eager"):  # compiling for every test's length takes longer
                scores = [score._asdict() for score in chosen.scores(model)]
            record = settings | {
                "result": {
                    "parameters": sum(p.numel() for p in model.parameters()),
                    "last_losses": sum(losses[-20:]) / len(losses[-20:]),
                    "scores": scores,
                    "seconds_training": round(trained - start, 1),
                    "seconds_measuring": round(time.perf_counter() - trained, 1),
                },
                "made": _made(device, group.world) | how,
            }
            with replacing(path) as new:
                new.write_text(json.dumps(record, indent=1) + "\n")
            # The result is whole; of what it took only the logs are kept.
            (keeping.folder / "checkpoint.safetensors").unlink()
            if not any(keeping.folder.iterdir()):
                keeping.folder.rmdir()
        group.wait()
    return path


def describe(plan: Plan, task: str, variant: str, seed: int, training: TrainingConfig) -> dict[str, Any]:
    """Return everything that a run's numbers depend on but the machine and the versions, as JSON has it."""
    chosen = plan.tasks[task]
    settings = {
        "experiment": plan.name,
        "task": task,
        "variant": variant,
        "seed": seed,
        "task_settings": {"kind": type(chosen).__name__, **vars(chosen)},
        "model": asdict(plan.model(task, variant)),
        "training": asdict(training),
        "tokens": training.tokens,
    }
    return json.loads(json.dumps(settings))


def _require_same(path: Path, settings: dict[str, Any]) -> None:
    found = read_run(path)
    for name, wanted in settings.items():
        if found.get(name) != wanted:
            raise ValueError(
                f"{path} has {name} = {found.get(name)}; expected {wanted}: another size or version of the experiment. "
                "Choose another folder."
            )


def _made(device: torch.device, processes: int) -> dict[str, Any]:
    """Return where and with what a run was made; no path and no name of the machine."""
    command = " ".join([Path(sys.argv[0]).name, *map(shlex.quote, sys.argv[1:])]) if sys.argv[1:] else "from Python"
    return {
        "command": re.sub(r"(?<=[ =])'?/\S*", "FOLDER", command),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "qdelta": version("qdelta")},
        "machine": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "processes": processes,
        "threads": torch.get_num_threads(),
    }


def _slug(plan: Plan, task: str, variant: str, seed: int, training: TrainingConfig) -> str:
    rate = f"-rate{training.learning_rate:g}" if plan.rates else ""
    return re.sub(r"[^a-z0-9.-]+", "-", f"{task}-{variant}{rate}-seed{seed}".lower())
