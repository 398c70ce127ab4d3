"""The pinned launch table: block sizes, warps and pipeline stages by architecture, element size and K.

Nothing is tuned at import or at a first call. `python -m qdelta_kernels.triton.tune` measures on the GPU at hand
and rewrites the rows of `launch_table.json` that it can improve.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

TABLE = Path(__file__).with_name("launch_table.json")


@dataclass(frozen=True)
class Launch:
    """How one kernel is launched; BK and BV are its blocks of K and V where it has them, registers the most that a
    thread may have (0: as the assembler sees fit), upright whether kernel 2 holds S as [K, BV], not as [BV, K].

    With registers = 0 a kernel that needs more than the 255 that there are may be given 32 by CUDA 12.8's assembler,
    and spill the rest; with 255 it is given 255.
    """

    warps: int
    stages: int
    BV: int = 0
    BK: int = 0
    registers: int = 0
    upright: bool = False

    def __post_init__(self):
        if self.upright and self.stages < 2:
            raise ValueError(f"stages is {self.stages}; expected at least 2: upright with 1, Triton 3.6 miscompiles.")

    @property
    def threads(self) -> dict[str, int | None]:
        """The options of Triton that this stands for, but for the stages."""
        return {"num_warps": self.warps, "maxnreg": self.registers or None}


@dataclass(frozen=True)
class Launches:
    """One row of the table. The serial kernels have two launches, with wide and with narrow blocks of V: `plan.py`
    chooses, for each call, what keeps the chip busy."""

    intra: Launch
    forward: dict[str, Launch]
    state_gradient: dict[str, Launch]
    token_gradient: Launch


Key = tuple[str, int, int]


@lru_cache(maxsize=1)
def table() -> dict[Key, Launches]:
    """Return the table: (architecture, bits per element, K rounded up to 64, 128 or 256) -> launches."""
    return {
        (key.split("/")[0], int(key.split("/")[1]), int(K)): Launches(
            intra=Launch(**row["intra"]),
            forward={width: Launch(**launch) for width, launch in row["forward"].items()},
            state_gradient={width: Launch(**launch) for width, launch in row["state_gradient"].items()},
            token_gradient=Launch(**row["token_gradient"]),
        )
        for key, by_K in json.loads(TABLE.read_text()).items()
        for K, row in by_K.items()
    }


def key_of(dtype: torch.dtype, K: int, device: torch.device) -> Key:
    """Return the row for these inputs; a chip that the table does not know gets the nearest older one's."""
    newer = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)
    return "sm_90" if newer else "sm_80", 32 if dtype == torch.float32 else 16, max(64, ceil_power(K))


@lru_cache(maxsize=64)
def launches(dtype: torch.dtype, K: int, device: torch.device) -> Launches:
    """Return the launches for these inputs."""
    return table()[key_of(dtype, K, device)]


def chunk_limit(dtype: torch.dtype) -> int:
    """Return the longest chunk: matrices of 64 x 64 in float32 leave no registers for anything else."""
    return 32 if dtype == torch.float32 else 64


@lru_cache(maxsize=8)
def processors(device: torch.device) -> int:
    """Return how many multiprocessors the device has (1 where kernels are interpreted)."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def ceil_power(n: int) -> int:
    """Return the smallest power of two that is at least n and at least 16, the least that a product takes."""
    return max(16, 1 << (n - 1).bit_length())
