"""Means over blocks of tokens: a rate with its standard error."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..checks import require_count


@dataclass(frozen=True)
class Blocks:
    """`count` blocks of `size` tokens each, after `transient` tokens that are left out."""

    transient: int
    count: int
    size: int

    def attributes(self) -> dict[str, int]:
        """Return what a dataset says of them."""
        return {"transient_tokens": self.transient, "blocks": self.count, "block_tokens": self.size}

    def per_token(self, x: Tensor) -> Tensor:
        """Return the mean of x [N, T, ...] over the tokens of each block, [N, blocks, ...]."""
        return x[:, self.transient :].unflatten(1, (self.count, self.size)).mean(2)


def split(T: int, transient: int | None, blocks: int) -> Blocks:
    """Lay at most `blocks` equal blocks over the end of T tokens.

    transient: how many tokens to leave out (None: T // 8); those left over by the division are left out too.
    Raises ValueError for a transient that leaves no token, or no block.
    """
    transient = T // 8 if transient is None else transient
    require_count("transient", transient, 0, T - 1)
    require_count("blocks", blocks, 1)
    count = min(blocks, T - transient)
    size = (T - transient) // count
    return Blocks(T - count * size, count, size)


def mean_and_error(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean of x [N, blocks, ...] and its standard error std / sqrt(blocks); NaN with a single block.

    Right where blocks are longer than the process remembers.
    """
    count = x.shape[1]
    error = x.std(1) if count > 1 else x.new_full((x.shape[0], *x.shape[2:]), float("nan"))
    return x.mean(1), error / count**0.5
