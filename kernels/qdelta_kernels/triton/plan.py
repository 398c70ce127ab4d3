"""How the serial kernels go over the chunks of a call: in which blocks of V, and in spans of which length."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from .launch import Launch, ceil_power

# A span shorter than this many chunks costs more in transfer matrices than it gains.
SHORTEST_SPAN = 32
# A chunk takes so much longer in wide blocks than in narrow ones, of half the rows (H100, K = 128).
WIDE = 1.6
# More spans have to save this part of the time at least.
LEAST = 0.05


@dataclass(frozen=True)
class Widths:
    """A serial kernel's two launches, and how many programs run side by side: one on each multiprocessor."""

    wide: Launch
    narrow: Launch
    V: int
    processors: int

    def fastest(self, heads: int, rows: int) -> tuple[float, int, Launch]:
        """Return what suits so many heads with so many rows of S each: the time that a chunk of all of them takes, in
        that of narrow blocks side by side; how many rounds the programs go in; and the launch."""
        choices = []
        for launch, time in ((self.narrow, 1.0), (self.wide, 1.0 if self.wide == self.narrow else WIDE)):
            programs = heads * -(-rows // min(launch.BV, ceil_power(self.V)))
            rounds = -(-programs // self.processors)
            choices.append((rounds * time, rounds, launch))
        return min(choices, key=lambda choice: choice[0])


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
    time, _, launch = widths.fastest(heads, widths.V)
    least, found = time * longest, Plan(longest, launch, launch)
    for pieces in range(2, min(longest // SHORTEST_SPAN, widths.processors) + 1):
        length = -(-longest // pieces)
        before, rounds_before, products = widths.fastest(heads * (pieces - (not every_product)), widths.V + K)
        after, rounds_after, launch = widths.fastest(heads * pieces, widths.V)
        if max(rounds_before, rounds_after) == 1 and (before + after) * length < (1 - LEAST) * least:
            least, found = (before + after) * length, Plan(length, launch, products)
    return found
