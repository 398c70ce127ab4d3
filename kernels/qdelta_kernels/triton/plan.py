"""How the serial kernels go over the chunks of a call: in which blocks of V, and in spans of which length."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from .launch import Launch, ceil_power

# A span shorter than this many chunks costs more in transfer matrices than it gains.
SHORTEST_SPAN = 32
# A chunk takes so much longer in wide blocks than in narrow ones (forwards on an H100, K = 128, of 128 and 64 rows).
WIDE = 1.6
# More spans have to save this part of the time at least.
LEAST_SAVING = 0.05


@dataclass(frozen=True)
class Widths:
    """A serial kernel's two launches, and how many programs run side by side: one on each multiprocessor."""

    wide: Launch
    narrow: Launch
    V: int
    processors: int

    def fastest(self, heads: int, transfer: int = 0) -> tuple[float, int, Launch]:
        """Return what suits so many heads, with `transfer` rows more than V: how long one chunk of all of them takes,
        in rounds of narrow blocks; how many rounds its programs take; and the launch."""
        narrow = block_rows(self.narrow, self.V, transfer > 0)
        choices = []
        for launch in (self.narrow, self.wide):
            BV = block_rows(launch, self.V, transfer > 0)
            rounds = -(-heads * -(-(self.V + transfer) // BV) // self.processors)
            choices.append((rounds * (1.0 if narrow == BV else WIDE), rounds, launch))
        return min(choices, key=lambda choice: choice[0])


def block_rows(launch: Launch, V: int, transfer: bool) -> int:
    """Return how many rows of S one program has; with a transfer matrix below S no block may hold rows of both."""
    return min(launch.BV, V & -V if transfer else ceil_power(V))


@dataclass(frozen=True)
class Plan:
    """Chunks per span, the launch of the pass over all of them, and that of the pass before it that finds the spans'
    products (unused where each sequence is one span)."""

    length: int
    launch: Launch
    products: Launch


@lru_cache(maxsize=256)
def plan(widths: Widths, heads: int, K: int, longest: int, *, every_product: bool) -> Plan:
    """Return the fastest way over chunks that follow one another.

    heads: of all sequences together. longest: chunks of the longest sequence. every_product: whether that of a
    sequence's last span is needed too, as backwards. Spans are for chips that would be idle otherwise: where both
    passes over them take one round (measured: more rounds share what there is to share, and gain nothing).
    """
    time, _, launch = widths.fastest(heads)
    shortest, found = time * longest, Plan(longest, launch, launch)
    for pieces in range(2, min(longest // SHORTEST_SPAN, widths.processors) + 1):
        length = -(-longest // pieces)
        before, rounds_before, products = widths.fastest(heads * (pieces - (not every_product)), transfer=K)
        after, rounds_after, launch = widths.fastest(heads * pieces)
        time = (before + after) * length
        if max(rounds_before, rounds_after) == 1 and time < (1 - LEAST_SAVING) * shortest:
            shortest, found = time, Plan(length, launch, products)
    return found
