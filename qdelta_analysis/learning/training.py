"""Training and measuring the language model: the same data, in the same order, for every rule."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor, nn

from .configs import ModelConfig
from .corpus import Corpus
from .fitting import fit
from .model import LanguageModel
from .nonfinite import first_nonfinite as first_nonfinite
from .schedule import TrainingConfig
from .tasks import Examples


@dataclass(frozen=True)
class RunResult:
    """One finished run, as the results table holds it."""

    rule: str
    seed: int
    parameters: int
    steps: int
    tokens: int
    seconds: float
    bits_per_byte: float  # held-out, windows of the training length
    bits_per_byte_double: float  # held-out, windows of twice the training length


def train(
    model: LanguageModel, config: TrainingConfig, corpus: Corpus, seed: int, *, progress: bool = True
) -> list[float]:
    """Train the model in place; return the loss of every step, in bits per byte.

    The batches depend on the seed and the corpus alone. Two calls with the same arguments, on one machine
    with one number of threads, give the same bits. Raises FloatingPointError, with the step and the name of
    the first tensor that is not finite, where the loss or the gradient stops being finite, and ValueError for
    a training text that is not longer than one window.
    """
    if len(corpus.training) <= config.length:
        raise ValueError(
            f"corpus.training has {len(corpus.training)} bytes; expected more than a window, {config.length}."
        )
    windows = _windows(corpus.training, config, seed)
    name = f"{model.config.layer.rule} seed {seed}"
    return [x / math.log(2) for x in fit(model, config, windows, progress=progress, name=name)]


@torch.no_grad()
def evaluate(model: nn.Module, tokens: Int[Tensor, " N"], window: int = 512, batch: int = 8) -> float:
    """Return the bits per byte on a text: the mean of -log2 p(byte | the bytes before it in its window).

    Windows of `window` bytes start every window/2 bytes; each scores its second half, and the first one its
    first half too. So every byte but the text's first is scored once, with window/2 to window - 1 bytes of
    context (fewer only in the first half window, where there are no more).
    """
    if window < 2 or window % 2:
        raise ValueError(f"window is {window}; expected an even number of at least 2.")
    if tokens.ndim != 1 or len(tokens) < 2:
        raise ValueError(f"tokens has shape {list(tokens.shape)}; expected a vector of at least 2 bytes.")
    half = window // 2
    total = float(_nats(model, tokens[None, :window]).sum())  # the first window, whole
    rest = tokens[half:]
    whole = max(0, (len(rest) - window) // half + 1)
    windows = rest.unfold(0, window, half) if whole else rest.new_empty(0, window)
    total += sum(float(_nats(model, part)[:, half - 1 :].sum()) for part in windows.split(batch) if len(part))
    tail = rest[whole * half :]
    if len(tail) > half:
        total += float(_nats(model, tail[None])[:, half - 1 :].sum())
    return total / math.log(2) / (len(tokens) - 1)


def run(
    model_config: ModelConfig, config: TrainingConfig, corpus: Corpus, seed: int, *, progress: bool = True
) -> tuple[LanguageModel, RunResult]:
    """Train one model, round its weights to float16, and measure what is left on the held-out text."""
    model = LanguageModel(model_config, seed)
    start = time.perf_counter()
    train(model, config, corpus, seed, progress=progress)
    seconds = time.perf_counter() - start
    round_to_half(model)
    return model, RunResult(
        rule=model_config.layer.rule,
        seed=seed,
        parameters=sum(p.numel() for p in model.parameters()),
        steps=config.steps,
        tokens=config.tokens,
        seconds=round(seconds, 1),
        bits_per_byte=round(evaluate(model, corpus.held_out, config.length), 6),
        bits_per_byte_double=round(evaluate(model, corpus.held_out, 2 * config.length), 6),
    )


@torch.no_grad()
def round_to_half(model: nn.Module) -> None:
    """Round every parameter to a float16 value, in place, so that a float16 file of the weights is exact."""
    for parameter in model.parameters():
        parameter.copy_(parameter.half())


def _nats(model: nn.Module, tokens: Tensor) -> Tensor:
    """-ln p of every token but the first of each row, [B, T - 1], in float64."""
    logits = model(tokens[:, :-1]).double()
    return F.cross_entropy(logits.mT, tokens[:, 1:], reduction="none")


def _windows(text: Tensor, config: TrainingConfig, seed: int) -> Callable[[int], Examples]:
    """Return the batch of each step: its windows and their successors, all drawn from one stream."""
    g = torch.Generator().manual_seed(seed)
    starts = [torch.randint(len(text) - config.length, (config.batch, 1), generator=g) for _ in range(config.steps)]
    offsets = torch.arange(config.length)

    def batch(step: int) -> Examples:
        places = starts[step] + offsets
        return Examples(text[places], text[places + 1])

    return batch
