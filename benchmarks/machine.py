"""The machine that a figure was measured on, and how busy it was."""

from __future__ import annotations

import os
import platform
from datetime import datetime
from pathlib import Path

import torch


def use_threads(count: int) -> None:
    """Let torch compute on `count` threads."""
    torch.set_num_threads(count)


def facts() -> dict[str, str | int | list[float]]:
    """Return what a reader needs to judge a figure; the load average tells whether others were computing."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count() or 0,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "date": datetime.now().astimezone().isoformat(timespec="minutes"),
        "load_average_before": [round(x, 2) for x in os.getloadavg()],
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
