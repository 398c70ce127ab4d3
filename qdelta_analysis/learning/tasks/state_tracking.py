"""State tracking: the running product in a group, which a memory of one linear step finds hard to follow."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations, product
from typing import Literal, get_args

import torch
from jaxtyping import Int
from torch import Tensor, nn

from qdelta_analysis.checks import require_count

from .examples import Examples, Score, generator, measure

Group = Literal["parity", "s3"]
GROUPS: tuple[Group, ...] = get_args(Group)


@dataclass(frozen=True)
class StateTracking:
    """Follow a product of group elements: after x_1 ... x_t the target is x_t x_{t-1} ... x_1, at every t.

    "parity" is Z2, bits and their sum mod 2; "s3" the six permutations of three things, in lexicographic order, the
    last one applied last. A transition whose eigenvalues all lie in [0, 1], as Gated DeltaNet's, cannot flip a sign, so
    neither can be followed at any length by one layer (arXiv 2411.12537); `allow_neg_eigval` may. Q-Delta's eigenvalue
    1 - beta a, a = 1 + lam cos(q, k) for unit q and k, reaches down to -1 with beta and lam in [0, 1].

    length: in training; tested: in tests; rows: of each test. Raises ValueError for another group or size.
    """

    group: Group = "parity"
    length: int = 32
    tested: tuple[int, ...] = (32, 64, 128)
    rows: int = 256

    def __post_init__(self):
        if self.group not in GROUPS:
            raise ValueError(f"group is {self.group!r}; expected one of {', '.join(map(repr, GROUPS))}.")
        for name, sizes in {"length": (self.length,), "tested": self.tested, "rows": (self.rows,)}.items():
            for size in sizes:
                require_count(name, size, 1)

    @property
    def vocabulary(self) -> int:
        """The group's elements."""
        return len(self.table())

    def table(self) -> Int[Tensor, "n n"]:
        """Return the products: table[a, b] is the state that element b turns state a into."""
        if self.group == "parity":
            return torch.tensor([[0, 1], [1, 0]])
        elements = list(permutations(range(3)))
        composed = [tuple(b[i] for i in a) for a, b in product(elements, elements)]
        return torch.tensor([elements.index(c) for c in composed]).view(6, 6)

    def examples(self, size: int, seed: int, step: int) -> Examples:
        """Draw a training batch; it depends on the arguments alone."""
        return self.draw(size, self.length, generator("states", self.group, "training", seed, step))

    def scores(self, model: nn.Module) -> list[Score]:
        """Measure the share of states that are followed, for each length."""
        scores = []
        for length in self.tested:
            examples = self.draw(self.rows, length, generator("states", self.group, "test", length))
            scores += measure(model, examples, f"{self.group}, {length} tokens")
        return scores

    def draw(self, size: int, length: int, g: torch.Generator) -> Examples:
        """Draw rows of independent uniform elements, with the state after each."""
        table = self.table()
        tokens = torch.randint(len(table), (size, length), generator=g)
        states = [tokens[:, 0]]
        for t in range(1, length):
            states.append(table[states[-1], tokens[:, t]])
        return Examples(tokens, torch.stack(states, dim=1))
