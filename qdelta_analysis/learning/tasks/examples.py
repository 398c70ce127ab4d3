"""What every task has in common: rows of tokens with targets, seeded streams, and how a model is measured."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor, nn

IGNORED = -100  # a target that nobody asks for, as torch's cross entropy has it


@dataclass(frozen=True)
class Examples:
    """Rows of a task: what the model reads, and at each token what should come next, or IGNORED.

    Raises ValueError where the two shapes differ, or nothing is asked for.
    """

    tokens: Int[Tensor, "B T"]
    targets: Int[Tensor, "B T"]

    def __post_init__(self):
        if self.tokens.ndim != 2 or self.tokens.shape != self.targets.shape:
            found = f"{list(self.tokens.shape)} and {list(self.targets.shape)}"
            raise ValueError(f"tokens and targets have shapes {found}; expected [B, T] for both.")
        if not bool((self.targets != IGNORED).any()):
            raise ValueError("targets are all IGNORED; expected at least one token that is asked for.")

    @property
    def asked(self) -> int:
        """How many targets there are."""
        return int((self.targets != IGNORED).sum())

    def share(self, rank: int, world: int) -> Examples:
        """Return every world-th row from `rank` on: what one of several processes trains on."""
        return Examples(self.tokens[rank::world], self.targets[rank::world])

    def to(self, device: torch.device | str) -> Examples:
        """Return the rows on a device."""
        return Examples(self.tokens.to(device), self.targets.to(device))


class Score(NamedTuple):
    """One measured number: on which examples, of what kind, and whether more is better."""

    condition: str
    metric: str
    value: float


@runtime_checkable
class Task(Protocol):
    """What a task offers to training and to experiments."""

    @property
    def vocabulary(self) -> int:
        """How many tokens there are."""
        ...

    def examples(self, size: int, seed: int, step: int) -> Examples:
        """Draw a training batch of `size` rows; it depends on the arguments alone."""
        ...

    def scores(self, model: nn.Module) -> list[Score]:
        """Measure a model; the examples depend on the task alone."""
        ...


def stream(*names: object) -> int:
    """Return a seed of 63 bits for a stream of random numbers: other names, another and unrelated stream."""
    return int.from_bytes(hashlib.sha256(repr(names).encode()).digest()[:8], "big") >> 1


def generator(*names: object) -> torch.Generator:
    """Return torch's generator of the stream with these names."""
    return torch.Generator().manual_seed(stream(*names))


@torch.no_grad()
def measure(model: nn.Module, examples: Examples, condition: str, batch: int = 32) -> list[Score]:
    """Measure a model on some rows: what it finds most probable against what is asked for.

    Returns "accuracy", the share of targets that are found; "exact", the share of rows in which all are; and "nats",
    the mean of -ln p(target).
    """
    device = next(model.parameters()).device
    found, rows, nats = 0, 0, 0.0
    parts: Sequence[tuple[Tensor, Tensor]] = list(
        zip(examples.tokens.split(batch), examples.targets.split(batch), strict=True)
    )
    for tokens, targets in parts:
        logits, targets = model(tokens.to(device)), targets.to(device)
        asked = targets != IGNORED
        right = logits.argmax(-1) == targets
        found += int((right & asked).sum())
        rows += int((right | ~asked).all(1).sum())
        nats += float(F.cross_entropy(logits[asked].double(), targets[asked], reduction="sum"))
    return [
        Score(condition, "accuracy", found / examples.asked),
        Score(condition, "exact", rows / len(examples.tokens)),
        Score(condition, "nats", nats / examples.asked),
    ]
