"""Training and measuring the language model: the same data, in the same order, for every rule."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor, nn
from tqdm import tqdm

from .configs import ModelConfig
from .corpus import Corpus
from .model import LanguageModel


@dataclass(frozen=True)
class TrainingConfig:
    """How a run is trained: AdamW, linear warm-up, then a cosine to zero, and clipped gradients."""

    steps: int = 500
    batch: int = 4
    length: int = 512
    learning_rate: float = 6e-3
    warmup: int = 50
    weight_decay: float = 0.1
    clip: float = 1.0
    betas: tuple[float, float] = (0.9, 0.98)

    @property
    def tokens(self) -> int:
        """How many bytes a run predicts in training."""
        return self.steps * self.batch * self.length

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


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
    optimizer = _optimizer(model, config)
    losses = []
    batches = _batches(corpus.training, config, seed)
    with tqdm(
        total=config.tokens,
        unit=" tokens",
        unit_scale=True,
        disable=not progress,
        desc=f"{model.config.layer.rule} seed {seed}",
    ) as bar:
        for step, tokens in enumerate(batches):
            for group in optimizer.param_groups:
                group["lr"] = config.rate(step)
            optimizer.zero_grad()
            losses.append(_backward(model, tokens, step, config.clip) / math.log(2))
            optimizer.step()
            bar.set_postfix_str(f"{losses[-1]:.3f} bits/byte", refresh=False)
            bar.update(config.batch * config.length)
    return losses


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


def _optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and not n.startswith("embedding")]
    chosen = set(map(id, matrices))
    others = [p for p in model.parameters() if id(p) not in chosen]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=True)


def _batches(text: Tensor, config: TrainingConfig, seed: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    offsets = torch.arange(config.length + 1)
    for _ in range(config.steps):
        starts = torch.randint(len(text) - config.length, (config.batch, 1), generator=generator)
        yield text[starts + offsets]


def _backward(model: LanguageModel, tokens: Tensor, step: int, clip: float) -> float:
    """Put the clipped gradient of one batch's mean loss into the model; return the loss in nats."""
    try:
        logits = model(tokens[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    except ValueError as error:  # the recurrence refuses inputs that are not finite
        if (culprit := first_nonfinite(model, tokens)) is None:
            raise
        raise FloatingPointError(_stopped(step, culprit)) from error
    loss.backward()
    norm = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    if not torch.isfinite(loss.detach() + norm):
        raise FloatingPointError(_stopped(step, first_nonfinite(model, tokens) or "the loss"))
    nn.utils.clip_grads_with_norm_(model.parameters(), clip, norm)
    return loss.item()


def _stopped(step: int, culprit: str) -> str:
    return f"training stopped at step {step}: {culprit} is not finite."


def first_nonfinite(model: nn.Module, tokens: Int[Tensor, "B T"]) -> str | None:
    """Name the first tensor that is not finite, None where all are.

    Looks at the parameters, then at the modules' outputs in the order of the forward pass, then at the
    gradients in the order of the backward pass.
    """
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            return f"the parameter {name}"
    found = []

    def look(name: str):
        def hook(_module, _args, output):
            if not output.isfinite().all():
                found.append(f"the output of {name}")

        return hook

    hooks = [m.register_forward_hook(look(name)) for name, m in model.named_modules() if name]
    try:
        model(tokens[:, :-1])
    except ValueError:
        if not found:
            raise
    finally:
        for handle in hooks:
            handle.remove()
    if found:
        return found[0]
    for name, parameter in reversed(list(model.named_parameters())):
        if parameter.grad is not None and not parameter.grad.isfinite().all():
            return f"the gradient of {name}"
    return None
