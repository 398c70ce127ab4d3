"""What the Triton kernels need of a chip, and how fast a GPU was found to run them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from qdelta_kernels.gpu import HAS_TRITON
from qdelta_kernels.triton.launch import table

from .checks import require, require_count
from .files import require_file

# In a checkout a link to what `make bench` writes; an installed package has a copy.
RECORDED = Path(__file__).with_name("recorded_kernels.json")
_SHAPE = re.compile(r"(?P<B>\d+) x (?P<T>\d+), H (?P<H>\d+), K (?P<K>\d+), V (?P<V>\d+): (?P<what>.+)")
_WRITTEN = "what `make bench` writes"
_POSITIVE = 1e-9, 1e9  # milliseconds and shares that are anything
_PASSES = ("forward", "forward + backward")


def launch_resources(arch: int = 90, bits: int = 16, K: int = 128) -> xr.Dataset:
    """Compile one row of the launch table ahead of time, without a GPU, and say what each kernel needs.

    Variables over `launch`: registers per thread, `shared` memory per program and `spilled` memory per thread in bytes,
    `spills_in_loops` (NaN where not looked for), and how many warp group (`wgmma`) and warp products (`mma`) the code
    has; coordinates kernel, BK, BV (0: all of it), warps, stages and `register_limit` (0: none); attribute
    `shared_limit`, what the chip has.

    arch 80 or 90 is the compute capability, bits the size of an element, K the width of a key. It takes seconds, and
    runs in a process of its own, since here Triton may be set to interpret.

    Raises ValueError for no row of the table, RuntimeError without Triton or where a kernel does not compile.
    """
    rows = sorted((int(name.removeprefix("sm_")), *sizes) for name, *sizes in table())
    if (arch, bits, K) not in rows:
        raise ValueError(f"(arch, bits, K) is {(arch, bits, K)}; expected a row of the launch table: {rows}.")
    if not HAS_TRITON:
        raise RuntimeError("Triton is not installed; expected `pip install triton` on Linux, or qdelta's extra 'gpu'.")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", __name__, str(arch), str(bits), str(K)]
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if run.returncode:
        raise RuntimeError(f"the launch table's row {(arch, bits, K)} did not compile: {run.stderr[-2000:]}")
    found = json.loads(run.stdout)
    launches = [{**row.pop("launch"), "kernel": row.pop("kernel")} for row in found["rows"]]
    for launch in launches:  # what a thread may have, beside the registers that it takes
        launch["register_limit"] = launch.pop("registers")
    needs = ("registers", "shared", "spilled", "spills_in_loops", "wgmma", "mma")
    variables = {name: ("launch", np.array([row[name] for row in found["rows"]], dtype=float)) for name in needs}
    coordinates = {name: ("launch", [launch[name] for launch in launches]) for name in launches[0]}
    limit = {"arch": f"sm_{arch}", "bits": bits, "K": K, "shared_limit": found["shared_limit"]}
    return xr.Dataset(variables, coordinates, limit)


def recorded_throughput(path: str | os.PathLike[str] = RECORDED) -> xr.Dataset | None:
    """Return what `make bench` recorded of the kernels on a GPU, or None where no such run has been recorded.

    `throughput` in tokens times heads per second, dims (pass, shape, kernel), NaN for what was not timed; `floor`, dims
    (shape), that of one ideal fused forward kernel; coordinates B, T, H, K, V; attributes `device` and `date`.

    Raises ValueError for a file that holds no such figures.
    """
    if not Path(path).exists():
        return None
    require_file(path, _WRITTEN)
    try:
        recorded = json.loads(Path(path).read_bytes())
        milliseconds, shares, device = _times(recorded["figures"])
        about = {"date": str(recorded["machine"]["date"]), "title": str(recorded["title"])}
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read ({type(error).__name__}: {error}); expected {_WRITTEN}.") from error
    if not milliseconds or device is None:
        raise ValueError(f"{path} holds no forward times with a device's name; expected {_WRITTEN}.")
    shapes = list(dict.fromkeys(shape for _, shape, _ in milliseconds))
    kernels = list(dict.fromkeys(kernel for *_, kernel in milliseconds))
    work = np.array([B * T * H for B, T, H, *_ in shapes])
    times = np.array([[[milliseconds.get((p, s, k), np.nan) for k in kernels] for s in shapes] for p in _PASSES])
    floors = [milliseconds.get(("forward", shape, "ours"), np.nan) * shares.get(shape, np.nan) for shape in shapes]
    per_second = {"units": "tokens x heads / s"}
    return xr.Dataset(
        {
            "throughput": (("pass", "shape", "kernel"), 1e3 * work[:, None] / times, per_second),
            "floor": ("shape", 1e3 * work / floors, per_second),
        },
        {
            "pass": list(_PASSES),
            "kernel": kernels,
            **{name: ("shape", [shape[i] for shape in shapes]) for i, name in enumerate("BTHKV")},
        },
        {"device": device, **about},
    )


def _times(figures: list[dict[str, Any]]) -> tuple[dict, dict, str | None]:
    """Return milliseconds by (pass, shape, kernel), the floor's share of our time by shape, and the device's name."""
    milliseconds, shares, device = {}, {}, None
    for figure in figures:
        name, value = figure["name"], figure["value"]
        if name.endswith(": device-to-device copy, read + write"):
            device = name.partition(":")[0]
        if not (found := _SHAPE.fullmatch(name)):
            continue
        shape = tuple(int(found[size]) for size in "BTHKV")
        for size, count in zip("BTHKV", shape, strict=True):
            require_count(f"{size} of {name}", count, 1, 2**31)
        what, _, kernel = found["what"].partition(", ")
        timed = what in _PASSES and figure["unit"] == "ms"
        if timed or what == "fused floor / ours":
            require(name, value, *_POSITIVE)
        if what == "fused floor / ours":
            shares[shape] = value
        elif timed:
            milliseconds[what, shape, kernel] = value
    return milliseconds, shares, device


def _compile_row(arch: int, bits: int, K: int) -> dict[str, Any]:
    from qdelta_kernels.triton.resources import SHARED_LIMIT, compile_entry, entries

    row = [entry for entry in entries(arch) if (entry.bits, entry.K) == (bits, K)]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        needs = list(pool.map(compile_entry, row))
    rows = [asdict(entry) | asdict(found) for entry, found in zip(row, needs, strict=True)]
    return {"shared_limit": SHARED_LIMIT[arch], "rows": rows}


if __name__ == "__main__":
    print(json.dumps(_compile_row(*map(int, sys.argv[1:]))))
