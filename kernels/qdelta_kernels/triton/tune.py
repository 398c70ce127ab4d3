"""Measure other launches than the table's on the GPU at hand, and write the table anew where one is faster.

    python -m qdelta_kernels.triton.tune --K 128 --V 256 [--dtype bfloat16] [--write]

Nothing else tunes: not the import, not a first call. A launch is taken over only if what it computes is right.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace

import torch
from torch.nn.functional import logsigmoid, normalize
from triton.testing import do_bench

from . import chunk
from .launch import TABLE, Launch, Launches, ceil_power, chunk_limit, key_of, table

# A launch has to be faster by this factor: less is noise.
GAIN = 1.03


def candidates(launch: Launch, turns: tuple[bool, ...]) -> Iterator[Launch]:
    """Yield other blocks, warps and stages for a kernel that has what this launch has; turns: upright or not."""
    blocks_v = (16, 32, 64, 128) if launch.BV else (0,)
    blocks_k = (32, 64, 128) if launch.BK else (0,)
    registers = (255,) if launch.BV else (0, 128, 168)
    choices = itertools.product(blocks_k, blocks_v, (4, 8), (1, 2, 3), registers, turns)
    for BK, BV, warps, stages, most, upright in choices:
        if upright and stages == 1:
            continue  # refused: it would end the process with accesses out of bounds
        yield Launch(warps=warps, stages=stages, BV=BV, BK=BK, registers=most, upright=upright)


def best(
    launch: Launch, run: Callable[[Launch], tuple[torch.Tensor, ...]], turns: tuple[bool, ...]
) -> tuple[Launch, float, float]:
    """Return the fastest right launch, its milliseconds, and those of the launch given."""
    expected = run(launch)
    found, now = launch, do_bench(lambda: run(launch), return_mode="median")
    fastest = now
    for other in candidates(launch, turns):
        try:
            same = all(_close(a, b) for a, b in zip(run(other), expected, strict=True))
            time = do_bench(lambda other=other: run(other), return_mode="median") if same else float("inf")
        except Exception as error:  # too much shared memory, or a block that the compiler refuses
            print(f"  {other}: {type(error).__name__}", flush=True)
            continue
        print(f"  {other}: {time:.3f} ms{'' if same else ', wrong'}", flush=True)
        if time * GAIN < fastest:
            found, fastest = other, time
    return found, fastest, now


def tune(K: int, V: int, dtype: torch.dtype) -> Launches:
    """Tune one row: the wide launches on many heads, the narrow ones on few."""
    row = table()[key_of(dtype, K, torch.device("cuda"))]
    for width, sizes in (("wide", (8, 4096, 16)), ("narrow", (1, 4096, 8))):
        for kernel in ("forward", "state_gradient"):
            row = _tune_kernel(row, kernel, width, _call(*sizes, K, V, dtype))
    for kernel in ("intra", "token_gradient"):
        row = _tune_kernel(row, kernel, None, _call(8, 4096, 16, K, V, dtype))
    return row


def _tune_kernel(row: Launches, kernel: str, width: str | None, inputs: tuple[chunk.Call, torch.Tensor]) -> Launches:
    """Return the row with the best launch of one kernel, of one width if it has two."""
    call, do = inputs
    launch = getattr(row, kernel)
    change = lambda new: replace(row, **{kernel: new if width is None else {**launch, width: new}})
    # Measured as both widths, so that no other is chosen in its place.
    alone = lambda new: replace(row, **{kernel: new if width is None else {"wide": new, "narrow": new}})
    print(kernel if width is None else f"{kernel}, {width}", flush=True)
    run = lambda new: _run(call, do, alone(new), backward=kernel in ("state_gradient", "token_gradient"))
    turns = (False, True) if kernel == "forward" else (False,)
    found, fastest, now = best(launch if width is None else launch[width], run, turns)
    print(f"best: {found}, {fastest:.3f} ms; the table's: {now:.3f} ms", flush=True)
    return change(found)


def write(key: tuple[str, int, int], row: Launches) -> None:
    """Put one row into the table's file."""
    rows = json.loads(TABLE.read_text())
    keep = lambda launch: {name: n for name, n in asdict(launch).items() if n}
    by_width = lambda launches: {width: keep(launch) for width, launch in launches.items()}
    rows[f"{key[0]}/{key[1]}"][str(key[2])] = {
        "intra": keep(row.intra),
        "forward": by_width(row.forward),
        "state_gradient": by_width(row.state_gradient),
        "token_gradient": keep(row.token_gradient),
    }
    TABLE.write_text(_format(rows))


def _format(rows: dict) -> str:
    """One line for each kernel of a row."""
    parts = []
    for key, by_K in rows.items():
        lines = [
            f'    "{K}": {{\n'
            + ",\n".join(f'      "{kernel}": {json.dumps(x)}' for kernel, x in row.items())
            + "\n    }"
            for K, row in by_K.items()
        ]
        parts.append(f'  "{key}": {{\n' + ",\n".join(lines) + "\n  }")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _call(B: int, T: int, H: int, K: int, V: int, dtype: torch.dtype) -> tuple[chunk.Call, torch.Tensor]:
    normal = lambda *shape: torch.randn(*shape, device="cuda")
    q, k = (normalize(normal(B, T, H, K), dim=-1).to(dtype) for _ in range(2))
    v, do = (normal(B, T, H, V).to(dtype) for _ in range(2))
    g, beta, lam = logsigmoid(normal(B, T, H) + 3), normal(B, T, H).sigmoid(), normal(B, T, H).sigmoid()
    return chunk.Call.of(q, k, v, g, beta, lam, None, None, K**-0.5, False, chunk_limit(dtype)), do


def _run(call: chunk.Call, do: torch.Tensor, row: Launches, backward: bool) -> tuple[torch.Tensor, ...]:
    original = chunk.launches
    chunk.launches = lambda *_: row
    try:
        o, final, prepared = chunk.chunk_forward(call)
        if not backward:
            return o, final
        return tuple(x for x in chunk.chunk_backward(call, prepared, do, None) if x is not None)
    finally:
        chunk.launches = original


def _close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool((a.double() - b.double()).norm() <= 1e-2 * b.double().norm())


def main() -> None:
    """Tune one row and, if asked, write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--K", type=int, default=128)
    parser.add_argument("--V", type=int, default=128)
    parser.add_argument("--dtype", choices=["bfloat16", "float16", "float32"], default="bfloat16")
    parser.add_argument("--write", action="store_true", help="write the table anew; without it, only print")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("tuning needs a CUDA device, and this machine has none")
    dtype = getattr(torch, options.dtype)
    row = tune(ceil_power(options.K), options.V, dtype)
    if options.write:
        write(key_of(dtype, options.K, torch.device("cuda")), row)


if __name__ == "__main__":
    main()
