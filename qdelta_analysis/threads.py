"""How many threads to compute with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_outside: list[int] = []  # how many threads each `one_thread` that is open found


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread: a head's matrices are small, and on a busy machine threads wait for each other.

    Measured on two busy cores: a view of the explorer, T = 1024, K = V = 32, in 27 ms on one thread and 2.7 s on two; a
    Lyapunov spectrum of 8 heads, T = 4096, K = 64, in 0.6 s on one and 3 to 30 s on two.
    """
    _outside.append(torch.get_num_threads())
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(_outside.pop())


@contextmanager
def all_threads() -> Iterator[None]:
    """Within `one_thread`, compute on as many threads as outside of it: for large products, which gain from them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(_outside[0] if _outside else threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
