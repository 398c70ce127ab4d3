"""Multi-query associative recall: key-value pairs, then keys whose values are asked for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from qdelta_analysis.checks import require, require_count

from .examples import IGNORED, Examples, Score, generator, measure


@dataclass(frozen=True)
class MQAR:
    """Recall of key-value pairs: k1 v1 ... kn vn, then every key once among fillers; its value is asked for there.

    Tokens: keys from 0, then values, then as many fillers as keys; what stands between the queries is filler. A query
    stands in slot s = 1, 2, ... after the pairs with a weight of s^(power - 1): mostly soon after, sometimes late.
    The value is not shown after the query. Each batch has one of the numbers of pairs in `pairs`.

    length: tokens of a row in training; `tested` in tests, each with each number of pairs. rows: of each test.
    Raises ValueError where keys or room for a query are too few. Source: MQAR of Zoology (arXiv 2312.04927).
    """

    length: int = 64
    pairs: tuple[int, ...] = (4, 8, 16)
    keys: int = 64
    values: int = 64
    power: float = 0.01
    tested: tuple[int, ...] = (64, 128)
    rows: int = 256

    def __post_init__(self):
        for name in ("keys", "values", "rows"):
            require_count(name, getattr(self, name), 1)
        require("power", self.power, 0, 1)
        if not self.pairs or not self.tested:
            raise ValueError(
                f"pairs is {self.pairs} and tested is {self.tested}; expected at least one number in each."
            )
        for pairs in self.pairs:
            require_count("pairs", pairs, 1, self.keys)
        shortest = min(self.length, *self.tested)
        if shortest < 3 * max(self.pairs):
            raise ValueError(
                f"the shortest row has {shortest} tokens; expected at least {3 * max(self.pairs)}: "
                f"two for each of {max(self.pairs)} pairs and one for its query."
            )

    @property
    def vocabulary(self) -> int:
        """Keys, values and fillers."""
        return 2 * self.keys + self.values

    def examples(self, size: int, seed: int, step: int) -> Examples:
        """Draw a training batch; it depends on the arguments alone."""
        g = generator("mqar", "training", seed, step)
        pairs = self.pairs[int(torch.randint(len(self.pairs), (), generator=g))]
        return self.draw(size, self.length, pairs, g)

    def scores(self, model: nn.Module) -> list[Score]:
        """Measure recall for each length and number of pairs."""
        scores = []
        for length in self.tested:
            for pairs in self.pairs:
                examples = self.draw(self.rows, length, pairs, generator("mqar", "test", length, pairs))
                scores += measure(model, examples, f"{pairs} pairs in {length} tokens")
        return scores

    def draw(self, size: int, length: int, pairs: int, g: torch.Generator) -> Examples:
        """Draw rows of a length with a number of pairs."""
        keys = torch.rand(size, self.keys, generator=g).argsort(1)[:, :pairs]
        values = self.keys + torch.randint(self.values, (size, pairs), generator=g)
        tokens = self.keys + self.values + torch.randint(self.keys, (size, length), generator=g)
        tokens[:, : 2 * pairs] = torch.stack([keys, values], dim=2).flatten(1)
        room = length - 2 * pairs
        weights = torch.arange(1, room + 1, dtype=torch.float64) ** (self.power - 1)
        slots = torch.multinomial(weights.expand(size, room), pairs, generator=g)
        # The likeliest slots are drawn first; shuffled, they do not all go to the first pairs.
        slots = slots.gather(1, torch.rand(size, pairs, generator=g).argsort(1)) + 2 * pairs
        targets = torch.full_like(tokens, IGNORED).scatter_(1, slots, values)
        return Examples(tokens.scatter_(1, slots, keys), targets)
