"""How a run is trained."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from qdelta_analysis.checks import require_count

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class TrainingConfig:
    """How a run is trained: AdamW, linear warm-up, then a cosine to zero, and clipped gradients.

    precision: "bfloat16" runs matrix products under autocast; weights, gates and the recurrence stay in float32.
    Raises ValueError for a size or a precision that is none.
    """

    steps: int = 500
    batch: int = 4
    length: int = 512
    learning_rate: float = 6e-3
    warmup: int = 50
    weight_decay: float = 0.1
    clip: float = 1.0
    betas: tuple[float, float] = (0.9, 0.98)
    precision: Precision = "float32"

    def __post_init__(self):
        for name in ("steps", "batch", "length"):
            require_count(name, getattr(self, name), 1)
        if self.precision not in ("float32", "bfloat16"):
            raise ValueError(f"precision is {self.precision!r}; expected 'float32' or 'bfloat16'.")

    @property
    def tokens(self) -> int:
        """How many tokens a run reads in training."""
        return self.steps * self.batch * self.length

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
