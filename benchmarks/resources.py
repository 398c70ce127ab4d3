"""What every entry of the kernels' launch table needs of a chip, found by compiling it ahead of time."""

from __future__ import annotations

import os

from .report import Figure, Unavailable

TITLE = "Triton kernels compiled ahead of time: bytes of shared memory, of spilled registers, accesses to them in loops"


def measure(quick: bool = False) -> list[Figure]:
    """Compile the launch table, for one architecture with --quick."""
    try:
        from qdelta_kernels.triton.resources import SHARED_LIMIT, report
    except ImportError as error:
        raise Unavailable(f"it needs Triton ({error})") from error
    figures = []
    for arch in (90,) if quick else (80, 90):
        for entry, needs in report(arch, os.cpu_count() or 1):
            launch = entry.launch
            blocks = "".join(f" {name} {size}" for name, size in (("BK", launch.BK), ("BV", launch.BV)) if size)
            name = f"sm_{arch}, {entry.bits} bits, K {entry.K}: {entry.kernel}{blocks}, {launch.warps} warps"
            figures += [
                Figure(f"{name}, {launch.stages} stages: shared memory", needs.shared, "B", at_most=SHARED_LIMIT[arch]),
                Figure(f"{name}: registers", needs.registers, ""),
                Figure(f"{name}: spilled", needs.spilled, "B"),
            ]
            if needs.spills_in_loops is not None:
                figures.append(Figure(f"{name}: accesses to spills in loops", needs.spills_in_loops, ""))
    return figures
