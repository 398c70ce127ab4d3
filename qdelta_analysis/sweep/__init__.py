"""Sweeps: any function of inputs over a grid of gates and tokens, batched, resumable, on one machine or a cluster.

    ds = sweep.run("memory", {"lam": [0, 0.5, 1], "beta": [0.5, 1], "seed": range(5)}, path="memory.zarr")

Points that differ in lam, beta or alpha alone share their tokens and are computed side by side, as heads. Whatever is
done stays on disk; the same call again computes what is missing.
"""

from .averaging import cells
from .measures import MEASURES
from .running import run
from .sources import SOURCES
from .store import load

__all__ = ["MEASURES", "SOURCES", "cells", "load", "run"]
