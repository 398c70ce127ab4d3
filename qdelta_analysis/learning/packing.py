"""Sequences of different lengths in one row of tokens: where they lie, and where padding was left out."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Packing:
    """N sequences one after the other in a single row [1, T, ...]; sequence n is tokens cu_seqlens[n] to [n + 1] - 1.

    `width` - 1 is how many tokens before its own a short convolution looks at. Whatever depends on the bounds' values
    is decided here, once, so that a compiled layer reads tensors only. T: the tokens of the row, where the bounds are
    to be held against them. Raises ValueError for other bounds.
    """

    cu_seqlens: Int[Tensor, " N1"]
    width: int
    T: int | None = None
    # In a row where every sequence follows its own tail: whence each slot, the tokens' slots, the last slots.
    _whence: Int[Tensor, " TW"] = field(init=False, repr=False)
    _tokens: Int[Tensor, " T"] = field(init=False, repr=False)
    _last: Int[Tensor, "N W"] = field(init=False, repr=False)

    def __post_init__(self):
        bounds = self.cu_seqlens.tolist() if self.cu_seqlens.ndim == 1 else []
        if len(bounds) < 2 or bounds[0] != 0 or bounds != sorted(bounds):
            raise ValueError(
                f"cu_seqlens is {self.cu_seqlens.tolist()}; expected a vector of ascending bounds, the first being 0."
            )
        if self.T not in (None, bounds[-1]):
            raise ValueError(f"cu_seqlens is {bounds}; expected it to end at {self.T}, the tokens given.")
        for name, slots in zip(("_whence", "_tokens", "_last"), self._slots(bounds[-1]), strict=True):
            object.__setattr__(self, name, slots)

    @property
    def N(self) -> int:
        """Sequences."""
        return len(self.cu_seqlens) - 1

    def _slots(self, T: int) -> tuple[Tensor, Tensor, Tensor]:
        before, device = self.width - 1, self.cu_seqlens.device
        lengths, number = self.cu_seqlens.diff(), torch.arange(self.N, device=device)
        tokens = torch.arange(T, device=device) + (number.repeat_interleave(lengths) + 1) * before
        offset = torch.arange(before, device=device)
        tails = (self.cu_seqlens[:-1] + number * before)[:, None] + offset
        last = (self.cu_seqlens[1:] + number * before)[:, None] + offset
        whence = torch.empty(T + self.N * before, dtype=torch.long, device=device)
        whence[tails.flatten()] = torch.arange(self.N * before, device=device)
        whence[tokens] = torch.arange(T, device=device) + self.N * before
        return whence, tokens, last

    def join(self, tails: Float[Tensor, "N W C"], x: Float[Tensor, "1 T C"]) -> Float[Tensor, "1 TW C"]:
        """Put each sequence's tail, the width - 1 rows before its first token, in front of it."""
        return torch.cat([tails.flatten(0, 1), x[0]])[self._whence][None]

    def tokens(self, y: Float[Tensor, "1 TV C"]) -> Float[Tensor, "1 T C"]:
        """Keep of a row like `join`'s, less its first width - 1 slots, what stands at the tokens."""
        return y[:, self._tokens - (self.width - 1)]

    def tails(self, joined: Float[Tensor, "1 TW C"]) -> Float[Tensor, "N W C"]:
        """Return the last width - 1 rows of every sequence out of `join`'s row."""
        return joined[0][self._last]


@dataclass(frozen=True)
class Padding:
    """A batch [B, T] of which only some tokens are real: leaves the others out, and puts zeros in their place."""

    mask: Bool[Tensor, "B T"]

    @cached_property
    def cu_seqlens(self) -> Int[Tensor, " N1"]:
        """Bounds of the B rows among the real tokens."""
        return torch.nn.functional.pad(self.mask.sum(1).cumsum(0), (1, 0))

    def remove(self, x: Tensor) -> Tensor:
        """[B, T, ...] -> [1, real tokens, ...]."""
        return x[self.mask][None]

    def restore(self, x: Tensor) -> Tensor:
        """[1, real tokens, ...] -> [B, T, ...]."""
        whole = x.new_zeros((*self.mask.shape, *x.shape[2:]))
        return whole.masked_scatter(self.mask.view(*self.mask.shape, *[1] * (x.ndim - 2)), x)


def real_tokens(mask: Tensor, B: int, T: int) -> Padding | None:
    """Read a padding mask, [B, T] or longer on the left; None where every token is real.

    Raises ValueError for another shape, or values other than 0 and 1.
    """
    if mask.ndim != 2 or mask.shape[0] != B or mask.shape[1] < T:
        raise ValueError(f"mask has shape {list(mask.shape)}; expected [B, T] = [{B}, {T}], or tokens before those.")
    mask = mask[:, mask.shape[1] - T :]
    real = mask != 0
    if not torch.equal(real, mask == 1):
        raise ValueError("mask holds values other than 0 and 1; expected 1 for a token and 0 for padding.")
    return None if bool(real.all()) else Padding(real)


def sequence_starts(position_ids: Int[Tensor, "B T"], padding: Padding | None) -> Int[Tensor, " N1"] | None:
    """Return the bounds of sequences packed in rows, which begin where a position is not the one before plus 1.

    None where each row is one sequence. Padding counts as absent.
    """
    B, T = position_ids.shape
    positions, row = position_ids, torch.arange(B, device=position_ids.device)[:, None].expand(B, T)
    if padding is not None:
        positions, row = padding.remove(positions), padding.remove(row)
    positions, row = positions.flatten(), row.flatten()
    new_row = row.diff() != 0
    begins = new_row | (positions.diff() != 1)
    if torch.equal(begins, new_row):
        return None
    starts = begins.nonzero()[:, 0] + 1
    return torch.nn.functional.pad(torch.cat([starts, starts.new_tensor([len(row)])]), (1, 0))
