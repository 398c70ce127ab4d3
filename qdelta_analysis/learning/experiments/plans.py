"""What each experiment compares: its tasks, its models, and how they are trained, on a CPU or a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

from ..configs import LayerConfig, ModelConfig, ablation
from ..schedule import TrainingConfig
from ..tasks import GROUPS, MQAR, NEEDLES, LanguageModelling, NeedleInHaystack, StateTracking, Task

Experiment = Literal["mqar", "niah", "lm", "ablation", "states"]
Size = Literal["cpu", "gpu"]
EXPERIMENTS: tuple[Experiment, ...] = get_args(Experiment)
SIZES: tuple[Size, ...] = get_args(Size)
COMPARED = ("linear-attention", "deltanet", "gated-deltanet", "q-delta")
# Parity asks for a transition with a negative eigenvalue. Query feedback gives Q-Delta one (1 - beta x.k down to -1);
# the delta rule has it with beta up to 2.
DOUBLED = "gated-deltanet, beta < 2"


@dataclass(frozen=True)
class Plan:
    """An experiment: every variant is trained on every task by itself, with every seed; all else is shared.

    models: by variant, for a task's vocabulary still to be set (`model`). rates: learning rates instead of training's,
    with each of which every variant is trained; its results are those at the best of them (`at_best_rates`).
    """

    name: str
    tasks: Mapping[str, Task]
    models: Mapping[str, ModelConfig]
    training: TrainingConfig
    rates: tuple[float, ...] = ()

    @property
    def trainings(self) -> tuple[TrainingConfig, ...]:
        """How every variant is trained, once for each learning rate."""
        return tuple(replace(self.training, learning_rate=rate) for rate in self.rates) or (self.training,)

    def model(self, task: str, variant: str) -> ModelConfig:
        """Return the sizes of a variant for a task."""
        return replace(self.models[variant], vocabulary=self.tasks[task].vocabulary)


def plan(name: str, size: str = "cpu") -> Plan:
    """Return an experiment at a size; "cpu" is meant for two cores, "gpu" for one GPU or several.

        mqar      key-value recall                     the four rules, each at three learning rates
        niah      pass-key, number, UUID in text       the four rules
        lm        language modelling                   the four rules
        ablation  language modelling                   the paper's ablation and norm-compensated decay
        states    parity and S3                        the four rules, and Gated DeltaNet with beta < 2

    Raises ValueError for another name or size.
    """
    if name not in EXPERIMENTS:
        raise ValueError(f"experiment is {name!r}; expected one of {', '.join(map(repr, EXPERIMENTS))}.")
    if size not in SIZES:
        raise ValueError(f"size is {size!r}; expected one of {', '.join(map(repr, SIZES))}.")
    tasks, sizes, training = {"cpu": _on_a_cpu, "gpu": _on_a_gpu}[size](name)
    variants = ablation(sizes.layer)
    chosen = {v: variants[v] for v in (variants if name == "ablation" else COMPARED)}
    if name == "states":
        chosen[DOUBLED] = replace(variants["gated-deltanet"], allow_neg_eigval=True)
    rates = (3e-3, 5e-3, 8e-3) if name == "mqar" else ()
    return Plan(name, tasks, {v: replace(sizes, layer=layer) for v, layer in chosen.items()}, training, rates)


def _on_a_cpu(name: str) -> tuple[Mapping[str, Task], ModelConfig, TrainingConfig]:
    recall = ModelConfig(LayerConfig(48, 2, 16, 24, chunk_size=16), layers=2, mlp_size=96)
    bytes_ = ModelConfig(LayerConfig(64, 2, 16, 32), layers=2, mlp_size=160)
    if name == "mqar":
        # At most as many pairs as a head's keys have dimensions.
        task = MQAR(length=64, pairs=(4, 8, 16), keys=48, values=48, tested=(64, 128))
        return {"mqar": task}, recall, TrainingConfig(1_500, 32, 64, warmup=150)
    if name == "states":
        tasks = {group: StateTracking(group, length=32, tested=(32, 64)) for group in GROUPS}
        return tasks, recall, TrainingConfig(400, 32, 32, 6e-3, warmup=40)
    if name == "niah":
        tasks = {needle: NeedleInHaystack(needle, 256, (256, 512), rows=32) for needle in NEEDLES}
        return tasks, bytes_, TrainingConfig(100, 8, 256, 6e-3, warmup=10)
    steps = 150 if name == "ablation" else 300
    text = LanguageModelling("prose", 256, (256, 512), held_out=16_384)
    return {"prose": text}, bytes_, TrainingConfig(steps, 8, 256, 6e-3, warmup=steps // 10)


def _on_a_gpu(name: str) -> tuple[Mapping[str, Task], ModelConfig, TrainingConfig]:
    sizes = ModelConfig(LayerConfig(256, 4, 64, 64, chunk_size=64), layers=4, mlp_size=704)
    if name == "mqar":
        task = MQAR(length=256, pairs=(8, 16, 32, 64), keys=1024, values=1024, tested=(256, 512), rows=512)
        # A memory of 32 x 64 a head: the most pairs are twice what orthogonal keys can hold apart.
        small = ModelConfig(LayerConfig(128, 2, 32, 64, chunk_size=64), layers=2, mlp_size=256)
        return {"mqar": task}, small, TrainingConfig(3_000, 128, 256, warmup=300, precision="bfloat16")
    if name == "states":
        tasks = {group: StateTracking(group, length=64, tested=(64, 128, 256)) for group in GROUPS}
        return tasks, sizes, TrainingConfig(5_000, 128, 64, 2e-3, 250, precision="bfloat16")
    if name == "niah":
        tasks = {needle: NeedleInHaystack(needle, 1024, (1024, 2048, 4096), rows=256) for needle in NEEDLES}
        return tasks, sizes, TrainingConfig(10_000, 32, 1024, 2e-3, 500, precision="bfloat16")
    text = LanguageModelling("standard library", 1024, (1024, 2048), held_out=500_000)
    return {"standard library": text}, sizes, TrainingConfig(5_000, 32, 1024, 2e-3, 250, precision="bfloat16")
