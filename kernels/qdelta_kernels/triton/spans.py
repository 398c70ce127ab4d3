"""How the tokens of one call are cut: into chunks, and into spans of chunks that run one after the other."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ..arguments import Bounds, sequence_bounds


@dataclass(frozen=True)
class Spans:
    """Tokens are counted along the flattened [B * T] axis; a sequence is one span, or several in order."""

    start: Tensor  # [W], each span's first token
    end: Tensor  # [W], the token after its last
    end_before_last: Tensor  # [W], the same, but each sequence's last span ends where it starts
    chunk: Tensor  # [W], its first chunk
    of_sequence: Tensor  # [N + 1], each sequence's first span
    chunk_start: Tensor  # [M], each chunk's first token
    chunk_end: Tensor  # [M], the token after its last

    @property
    def split(self) -> bool:
        """Whether some sequence has more than one span."""
        return len(self.start) > len(self.of_sequence) - 1


@lru_cache(maxsize=64)
def cut(bounds: Bounds, C: int, chunks_per_span: int, device: torch.device, stops: tuple[int, ...] = ()) -> Spans:
    """Cut sequences with these bounds into chunks of C tokens and spans of at most so many chunks.

    stops: chunks, counted in each sequence, at which a span begins as well.
    """
    start, end, end_before_last, chunk, of_sequence = [], [], [], [], [0]
    chunk_start, chunk_end = [], []
    for a, b in bounds:
        chunks = -(-(b - a) // C)
        firsts = span_starts(chunks, chunks_per_span, stops)
        for first, last in itertools.pairwise((*firsts, chunks)):
            start.append(a + first * C)
            end.append(min(b, a + last * C))
            end_before_last.append(start[-1] if last == chunks else end[-1])
            chunk.append(len(chunk_start) + first)
        chunk_start += range(a, b, C)
        chunk_end += (min(b, c + C) for c in range(a, b, C))
        of_sequence.append(len(start))
    lists = (start, end, end_before_last, chunk, of_sequence, chunk_start, chunk_end)
    # One transfer for all: small ones cost more to start than to make.
    together = torch.tensor([x for part in lists for x in part], dtype=torch.int64).to(device)
    return Spans(*together.split([len(part) for part in lists]))


def span_starts(chunks: int, chunks_per_span: int, stops: tuple[int, ...] = ()) -> list[int]:
    """Return the chunks at which the spans of a sequence of so many chunks begin."""
    return sorted({0, *range(0, chunks, chunks_per_span), *(stop for stop in stops if stop < chunks)})


def bounds_of(B: int, T: int, cu_seqlens: Tensor | None) -> Bounds:
    """Return each sequence's (start, end) along the flattened tokens."""
    if cu_seqlens is None:
        return tuple((b * T, (b + 1) * T) for b in range(B))
    return sequence_bounds(cu_seqlens, T)


def chunk_slots(B: int, T: int, cu_seqlens: Tensor | None, C: int) -> int:
    """Return room for how many chunks is enough, known without looking at cu_seqlens."""
    return B * -(-T // C) if cu_seqlens is None else T // C + cu_seqlens.shape[0] - 1
