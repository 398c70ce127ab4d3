"""The machine that a figure was measured on, and how busy others kept it."""

from __future__ import annotations

import os
import platform
import time
from collections import defaultdict
from datetime import datetime
from pathlib import Path

import torch


def use_threads(count: int) -> None:
    """Let torch compute on `count` threads."""
    torch.set_num_threads(count)


def facts() -> dict[str, str | int | float | list[float]]:
    """Return what a reader needs to judge a figure; takes two seconds to see how many cores are busy already."""
    before = other_seconds()
    time.sleep(2)
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count() or 0,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "date": datetime.now().astimezone().isoformat(timespec="minutes"),
        "load_average_before": [round(x, 2) for x in os.getloadavg()],
        "busy_cores_before": round((other_seconds() - before) / 2, 2),
    }


def other_seconds() -> float:
    """Return the processor time used so far by all but this process and its children; 0 where there is no /proc."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    user, nice, system, _idle, _wait, irq, softirq, steal = map(int, stat.read_text().split(maxsplit=9)[1:9])
    return (user + nice + system + irq + softirq + steal - _family_ticks()) / os.sysconf("SC_CLK_TCK")


def _family_ticks() -> int:
    """Return the ticks of this process, its living descendants, and the children that they have waited for."""
    ticks: dict[int, int] = {}
    children: defaultdict[int, list[int]] = defaultdict(list)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended since
            continue
        pid = int(stat.parent.name)
        children[int(fields[1])].append(pid)
        ticks[pid] = sum(map(int, fields[11:15]))  # user, system, and both of the children that ended
    total, family = 0, [os.getpid()]
    while family:
        pid = family.pop()
        total += ticks.get(pid, 0)
        family += children[pid]
    return total


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
