"""What every entry of the launch table needs of a chip, found by compiling it ahead of time: no GPU is needed.

    python -m qdelta_kernels.triton.resources [--arch 90] [--json]

prints registers, shared memory, spills and tensor core instructions of each kernel.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from .backward import state_gradient_kernel, token_gradient_kernel
from .chunk import PRECISION, SOLVE
from .forward import forward_kernel
from .intra import intra_kernel
from .launch import Launch, table

# Shared memory that one program may have, in bytes: NVIDIA's CUDA programming guide, compute capabilities.
SHARED_LIMIT = {80: 166_912, 90: 232_448}
V = 256

_POINTERS = {
    **dict.fromkeys(("o", "eps", "states", "dstates", "dv", "dq", "dk"), "*{dtype}"),
    **dict.fromkeys(("g", "beta", "lam", "factors", "through", "initial", "final", "dfinal", "dinitial"), "*fp32"),
    **dict.fromkeys(("products", "norm2", "snapshots", "dg", "dbeta", "dlam"), "*fp32"),
    **dict.fromkeys(("chunk_start", "chunk_end", "span_start", "span_end", "span_chunk", "slots"), "*i64"),
    **dict.fromkeys(("H", "HV"), "i32"),
    "scale": "fp32",
}


@dataclass(frozen=True)
class Entry:
    """One kernel as one row of the table launches it."""

    arch: int
    bits: int
    K: int
    kernel: str
    launch: Launch

    @property
    def C(self) -> int:
        """Tokens per chunk."""
        return 64 if self.bits == 16 else 32


@dataclass(frozen=True)
class Resources:
    """What the compiler says of it."""

    registers: int  # per thread
    shared: int  # bytes per program
    spilled: int  # bytes of stack per thread
    spills_in_loops: int | None  # loads from and stores to it inside loops; looked for in half precision only
    wgmma: int  # warp group products (sm_90)
    mma: int  # warp products


def entries(arch: int) -> Iterator[Entry]:
    """List the table's entries for an architecture, each kernel once for every launch that it has."""
    for (name, bits, K), row in table().items():
        if name != f"sm_{arch}":
            continue
        yield Entry(arch, bits, K, "intra", row.intra)
        for kernel, launches in (
            ("forward", row.forward),
            ("trace", row.forward),
            ("state_gradient", row.state_gradient),
        ):
            for launch in dict.fromkeys(launches.values()):
                yield Entry(arch, bits, K, kernel, launch)
        yield Entry(arch, bits, K, "token_gradient", row.token_gradient)


def compile_entry(entry: Entry) -> Resources:
    """Compile one entry and read what it needs."""
    dtype = "bf16" if entry.bits == 16 else "fp32"
    kernel, constants = _kernel(entry)
    C, K, BV = entry.C, entry.K, entry.launch.BV
    forward = {"q": K, "k": K, "v": BV, "inverse": C, "readout": C}
    tiles = {
        "intra": {},
        "forward": forward,
        "trace": forward | {"o_hat": BV, "reads": BV},
        "state_gradient": {"q": K, "k": K, "do": BV, "inverse": C, "readout": C},
        "token_gradient": {},
    }[entry.kernel]
    signature, attributes = {}, {}
    for i, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
        elif name in tiles:
            signature[name] = f"tensordesc<{dtype}[{C}, {tiles[name]}]>"
        else:
            signature[name] = _POINTERS.get(name, "*{dtype}").format(dtype=dtype)
            if signature[name].startswith("*"):
                attributes[(i,)] = [["tt.divisibility", 16]]
    places = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=places, attrs=attributes)
    options = entry.launch.threads | {"num_stages": entry.launch.stages}
    compiled: Any = triton.compile(source, target=GPUTarget("cuda", entry.arch, 32), options=options)
    usage = _cuobjdump(compiled.asm["cubin"], "--dump-resource-usage")
    found = {name: int(n) for name, n in re.findall(r"\b(REG|STACK):(\d+)", usage)}
    ptx = compiled.asm["ptx"]
    return Resources(
        registers=found["REG"],
        shared=compiled.metadata.shared,
        spilled=found["STACK"],
        spills_in_loops=_spills_in_loops(_cuobjdump(compiled.asm["cubin"], "-sass")) if entry.bits == 16 else None,
        wgmma=ptx.count("wgmma.mma_async"),
        mma=len(re.findall(r"\bmma\.sync", ptx)),
    )


def _kernel(entry: Entry) -> tuple[Any, dict[str, Any]]:
    sizes = {"K": entry.K, "C": entry.C, "DOT": PRECISION}
    launch = entry.launch
    if entry.kernel == "intra":
        flags = {
            "BK": min(launch.BK or entry.K, entry.K),
            "HAS_G": True,
            "HAS_LAM": True,
            "L2NORM": False,
            "TRACE": False,
        }
        return intra_kernel, sizes | flags | {"SOLVE": SOLVE[torch.bfloat16 if entry.bits == 16 else torch.float32]}
    serial = sizes | {"V": V, "BV": launch.BV, "HAS_LAM": True, "STAGES": launch.stages}
    if entry.kernel in ("forward", "trace"):
        traced = entry.kernel == "trace"
        flags = {"HAS_INITIAL": True, "TAILS": False, "TRANSFER": False, "STORE_O": not traced, "STORE_TRACE": traced}
        flags["HOLLOW"] = traced
        unused = dict.fromkeys(("STORE_EPS", "STORE_STATES"), False)
        return forward_kernel, serial | flags | unused | {"STORE_FINAL": True, "UPRIGHT": launch.upright}
    if entry.kernel == "state_gradient":
        return state_gradient_kernel, serial | {"HAS_DFINAL": True, "TAILS": False, "STORE_CHUNKS": True}
    flags = {"V": V, "BK": launch.BK, "BV": launch.BV, "HAS_G": True, "HAS_LAM": True, "L2NORM": False}
    return token_gradient_kernel, sizes | flags


def _cuobjdump(cubin: bytes, what: str) -> str:
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([tool, what, file.name], capture_output=True, text=True, check=True).stdout


def _spills_in_loops(sass: str) -> int:
    """Count accesses to local memory between the target of a backward branch and the branch."""
    lines = [(int(m[1], 16), m[2]) for m in re.finditer(r"^\s+/\*([0-9a-f]{4,})\*/\s+(.*?);", sass, re.MULTILINE)]
    loops = [(int(m[1], 16), at) for at, text in lines if (m := re.search(r"\bBRA\b.*0x([0-9a-f]+)", text))]
    local = [at for at, text in lines if re.search(r"\b(LDL|STL)\b", text)]
    return sum(any(first <= at <= last for first, last in loops if first < last) for at in local)


def report(arch: int, processes: int = 1) -> list[tuple[Entry, Resources]]:
    """Compile every entry for an architecture."""
    every = list(entries(arch))
    with ProcessPoolExecutor(processes) as pool:
        return list(zip(every, pool.map(compile_entry, every), strict=True))


def main() -> None:
    """Print the report."""
    parser = argparse.ArgumentParser(description="What every entry of the launch table needs of a chip.")
    parser.add_argument("--arch", type=int, choices=sorted(SHARED_LIMIT), action="append")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    os.environ.pop("TRITON_INTERPRET", None)
    found = [row for arch in options.arch or SHARED_LIMIT for row in report(arch, os.cpu_count() or 1)]
    if options.json:
        print(json.dumps([asdict(entry) | asdict(resources) for entry, resources in found]))
        return
    print("arch   bits    K  kernel           BK   BV  warps  stages  registers  shared  spilled  in loops  wgmma  mma")
    for e, r in found:
        print(
            f"sm_{e.arch}    {e.bits}  {e.K:>3}  {e.kernel:<14}  {e.launch.BK:>3}  {e.launch.BV:>3}"
            f"  {e.launch.warps:>5}  {e.launch.stages:>6}  {r.registers:>9}  {r.shared:>6}  {r.spilled:>7}"
            f"  {'' if r.spills_in_loops is None else r.spills_in_loops:>8}  {r.wgmma:>5}  {r.mma:>3}"
        )


if __name__ == "__main__":
    main()
