"""How tokens are laid out in chunks, so that one loop serves equal and packed sequences alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# Float elements that one block of chunks may hold at once: large enough to fill two cores, small enough for
# their caches (measured: benchmarks/recurrence.py).
_BLOCK_ELEMENTS = 1 << 20


@dataclass(frozen=True)
class Block:
    """Consecutive steps of the serial loop whose chunks are prepared together."""

    first: int  # the first step
    last: int  # the step after the last
    chunks: slice  # where the block's chunks stand among all chunks
    steps: tuple[tuple[slice, int], ...]  # for each step: its chunks inside the block, and how many there are


@dataclass(frozen=True)
class ChunkLayout:
    """Tokens [B, T, H, D] <-> chunks [M, H, C, D], the chunks in the order in which the state meets them.

    All first chunks come first, then all second ones, and so on; the sequences stand in order of falling length.
    So step i of the serial loop handles one contiguous slice of chunks, and the sequences that still have a
    chunk are always the leading ones. Slots without a token hold zeros; with beta = 0 and k = 0 they leave the
    state alone.
    """

    B: int
    T: int
    C: int
    active: tuple[int, ...]  # how many sequences have an i-th chunk
    order: Tensor | None  # sequences by falling length; None: all have the same
    token_of_slot: Tensor | None  # [M, C], T for a slot without a token; None: equal sequences

    @staticmethod
    def equal(B: int, T: int, C: int) -> ChunkLayout:
        """B sequences of T tokens each."""
        return ChunkLayout(B, T, C, (B,) * -(-T // C), None, None)

    @staticmethod
    def packed(bounds: tuple[tuple[int, int], ...], C: int, device: torch.device) -> ChunkLayout:
        """Sequences of any lengths, one after the other in a single row of tokens."""
        start = torch.tensor([a for a, _ in bounds], device=device)
        length = torch.tensor([b - a for a, b in bounds], device=device)
        T = int(length.sum())
        order = length.argsort(descending=True, stable=True)
        start, length = start[order], length[order]
        chunks = (length + C - 1) // C
        has_chunk = torch.arange(int(chunks.max()), device=device)[:, None] < chunks
        step, sequence = has_chunk.nonzero(as_tuple=True)
        offset = step[:, None] * C + torch.arange(C, device=device)
        token_of_slot = torch.where(offset < length[sequence, None], start[sequence, None] + offset, T)
        return ChunkLayout(1, T, C, tuple(has_chunk.sum(1).tolist()), order, token_of_slot)

    def blocks(self, elements_per_chunk: int) -> Iterator[Block]:
        """Cut the serial loop into blocks that hold about a fixed number of elements."""
        room = max(1, _BLOCK_ELEMENTS // elements_per_chunk)
        first = start = 0
        while first < len(self.active):
            last, steps, size = first, [], 0
            while last < len(self.active) and (not steps or size + self.active[last] <= room):
                n = self.active[last]
                steps.append((slice(size, size + n), n))
                last, size = last + 1, size + n
            yield Block(first, last, slice(start, start + size), tuple(steps))
            first, start = last, start + size

    def gather(self, x: Tensor, block: Block) -> Tensor:
        """Tokens [B, T, H, D] -> the block's chunks [M, H, C, D]."""
        H, D = x.shape[2:]
        if self.token_of_slot is None:
            n = block.last - block.first
            x = x[:, block.first * self.C : block.last * self.C]
            if x.shape[1] < n * self.C:
                x = F.pad(x, (0, 0, 0, 0, 0, n * self.C - x.shape[1]))
            x = x.unflatten(1, (n, self.C)).permute(1, 0, 3, 2, 4)
            return x.reshape(n * self.B, H, self.C, D)
        token = self.token_of_slot[block.chunks].flatten()
        rows = x[0].index_select(0, token.clamp(max=self.T - 1))
        rows.masked_fill_((token == self.T)[:, None, None], 0)
        return rows.view(-1, self.C, H, D).transpose(1, 2)

    def scatter(self, chunks: Tensor, block: Block, out: Tensor) -> None:
        """Write the block's chunks [M, H, C, D] to their tokens in out [B, T, H, D]."""
        H, D = out.shape[2:]
        if self.token_of_slot is None:
            n = block.last - block.first
            out = out[:, block.first * self.C : block.last * self.C]
            chunks = chunks.view(n, self.B, H, self.C, D).permute(1, 0, 3, 2, 4)
            if out.shape[1] == n * self.C:
                out.unflatten(1, (n, self.C)).copy_(chunks)
            else:
                out.copy_(chunks.reshape(self.B, n * self.C, H, D)[:, : out.shape[1]])
            return
        token = self.token_of_slot[block.chunks].flatten()
        inside = token < self.T
        out[0, token[inside]] = chunks.transpose(1, 2).reshape(-1, H, D)[inside]

    def sort(self, states: Tensor) -> Tensor:
        """States in the caller's order -> in the order of the loop."""
        return states if self.order is None else states[self.order]

    def unsort(self, states: Tensor) -> Tensor:
        """States in the order of the loop -> in the caller's order."""
        return states if self.order is None else states[self.order.argsort()]
