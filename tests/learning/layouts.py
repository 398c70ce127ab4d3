"""Random ways to hand sequences to a model: padded, packed or both, whole or piece by piece with a state."""

from __future__ import annotations

import random
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from qdelta_analysis.learning import LanguageModel

Logits = list[Tensor]  # of each sequence, [its length, vocabulary]


def sequences(rng: random.Random, vocabulary: int, most: int = 4, longest: int = 14) -> list[Tensor]:
    """Draw up to `most` sequences; lengths of 0, 1 and 2 are frequent."""
    lengths = [rng.choice([0, 1, 2, *[rng.randrange(longest + 1)] * 3]) for _ in range(rng.randint(1, most))]
    return [torch.tensor([rng.randrange(vocabulary) for _ in range(n)], dtype=torch.long) for n in lengths]


def alone(net: LanguageModel, given: list[Tensor]) -> Logits:
    """What every layout has to give: each sequence in a row of its own, in one piece, without a state."""
    return [net(x[None])[0] for x in given]


def padded(net, rng: random.Random, given: list[Tensor]) -> Logits:
    """One row for each, padding anywhere; the columns in one piece, or in several with a state."""
    width = max(map(len, given)) + rng.randrange(4)
    batch = torch.tensor([[rng.randrange(8) for _ in range(width)] for _ in given], dtype=torch.long)
    batch, mask = batch.reshape(len(given), width), torch.zeros(len(given), width, dtype=torch.bool)
    for row, x in enumerate(given):
        at = torch.tensor(sorted(rng.sample(range(width), len(x))), dtype=torch.long)
        batch[row, at], mask[row, at] = x, True
    cuts = sorted(rng.choices(range(width + 1), k=rng.randrange(4)))
    if not cuts:
        logits = net(batch, mask)
    else:
        state, parts = net.fresh_state(len(given)), []
        for start, end in pairwise([0, *cuts, width]):
            seen = mask[:, rng.choice([0, start]) : end]  # a mask may be longer by what came before
            part, state = net(batch[:, start:end], seen, state=state)
            parts.append(part)
        logits = torch.cat(parts, dim=1)
    return [row[real] for row, real in zip(logits, mask, strict=True)]


def packed(net, rng: random.Random, given: list[Tensor]) -> Logits:
    """All in one row; each sequence in one piece, or in several with a state, the n-th pieces together."""
    pieces = rng.choice([1, 1, 2, 3])
    cuts = [[0, *sorted(rng.choices(range(len(x) + 1), k=pieces - 1)), len(x)] for x in given]
    state = net.fresh_state(len(given)) if pieces > 1 or rng.random() < 0.3 else None
    found: list[list[Tensor]] = [[] for _ in given]
    for n in range(pieces):
        parts = [x[cut[n] : cut[n + 1]] for x, cut in zip(given, cuts, strict=True)]
        bounds = torch.tensor([0, *accumulate(map(len, parts))])
        if state is None:
            logits = net(torch.cat(parts)[None], None, bounds)
        else:
            logits, state = net(torch.cat(parts)[None], None, bounds, state=state)
        for mine, part in zip(found, logits[0].split(bounds.diff().tolist()), strict=True):
            mine.append(part)
    return [torch.cat(parts) for parts in found]


def packed_and_padded(net, rng: random.Random, given: list[Tensor]) -> Logits:
    """Several rows of several sequences, one after the other, with padding between any two tokens."""
    rows = rng.randint(1, 2)
    of_row = [given[row::rows] for row in range(rows)]
    width = max(sum(map(len, row)) for row in of_row) + rng.randrange(3)
    batch, mask = torch.zeros(rows, width, dtype=torch.long), torch.zeros(rows, width, dtype=torch.bool)
    for row, x in enumerate(torch.cat(xs) if xs else torch.zeros(0, dtype=torch.long) for xs in of_row):
        at = torch.tensor(sorted(rng.sample(range(width), len(x))), dtype=torch.long)
        batch[row, at], mask[row, at] = x, True
    lengths = [len(x) for row in of_row for x in row]
    parts = list(net(batch, mask, torch.tensor([0, *accumulate(lengths)]))[mask].split(lengths))
    order = [number for row in range(rows) for number in range(len(given))[row::rows]]
    return [parts[order.index(number)] for number in range(len(given))]


LAYOUTS = (padded, packed, packed_and_padded)
