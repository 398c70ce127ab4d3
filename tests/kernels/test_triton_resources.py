"""Every entry of the launch table, compiled ahead of time: no GPU is needed to see whether it fits a chip."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")


@pytest.fixture(scope="module", params=[80, 90])
def found(request):
    """The report, from a process of its own: here the kernels may belong to the interpreter."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "qdelta_kernels.triton.resources", "--json", "--arch", str(request.param)]
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout)


def test_every_entry_compiles_and_fits_the_chip(found):
    from qdelta_kernels.triton.launch import table
    from qdelta_kernels.triton.resources import SHARED_LIMIT

    arch = found[0]["arch"]
    rows = [key for key in table() if key[0] == f"sm_{arch}"]
    assert {(entry["bits"], entry["K"]) for entry in found} == {key[1:] for key in rows}
    assert {entry["kernel"] for entry in found} == {"intra", "forward", "trace", "state_gradient", "token_gradient"}
    for entry in found:
        assert entry["shared"] <= SHARED_LIMIT[arch], entry
        assert entry["registers"] <= 255, entry


def test_little_is_spilled_and_hardly_anything_in_loops_up_to_K_128(found):
    for entry in found:
        # A kernel that needs more than there are may be given 32 by the assembler: see `Launch.registers`.
        assert entry["spilled"] == 0 or entry["registers"] > 100, entry
        assert entry["spilled"] <= (640 if entry["bits"] == 16 else 1200), entry
        if entry["bits"] == 16 and entry["K"] <= 128:
            assert entry["spilled"] <= 96, entry
            assert entry["spills_in_loops"] <= 10, entry


def test_half_precision_on_hopper_spills_nothing_in_loops_up_to_K_128_and_uses_warp_group_products(found):
    if found[0]["arch"] != 90:
        pytest.skip("warp group products are Hopper's")
    for entry in found:
        if entry["bits"] == 16 and entry["K"] <= 128:
            assert entry["spills_in_loops"] <= (8 if entry["kernel"] == "state_gradient" else 0), entry
            # Blocks of 32 rows of S are below the 64 rows that a warp group multiplies at least.
            expected = "mma" if entry["launch"]["BV"] == 32 else "wgmma"
            assert entry[expected] > 0, entry
        if entry["bits"] == 16 and entry["launch"]["upright"]:
            assert entry["wgmma"] > 0, entry  # what it is upright for
            assert entry["launch"]["stages"] > 1, entry  # with one, Triton 3.6 miscompiles it
