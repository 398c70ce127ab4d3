"""`qdelta` as users run it: a real process."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import xarray as xr

from qdelta_analysis import generators

QDELTA = Path(sys.executable).parent / "qdelta"


def qdelta(*arguments, cwd=None) -> subprocess.CompletedProcess:
    return subprocess.run([QDELTA, *map(str, arguments)], capture_output=True, text=True, cwd=cwd, timeout=120)


def test_help_does_not_wait_for_torch():
    slow = subprocess.run(
        [sys.executable, "-c", "import sys, qdelta_analysis.cli; sys.exit('torch' in sys.modules)"], timeout=60
    )
    assert slow.returncode == 0
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        assert "Usage: qdelta" in qdelta("--help").stdout
        seconds.append(time.perf_counter() - start)
    print(f"qdelta --help: {min(seconds):.2f} s")


def test_version():
    assert qdelta("--version").stdout.strip() == "qdelta 0.1.0"


def test_trace_of_a_preset_is_a_table_and_a_file(tmp_path):
    run = qdelta("trace", "cone", "--snapshots", 3, "--lam", 0.25, "-o", "cone.nc", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert "cone, seed=0, cos=0.5" in run.stdout
    assert "error_after" in run.stdout
    dataset = xr.load_dataset(tmp_path / "cone.nc", engine="h5netcdf")
    assert dataset.sizes["snapshot"] == 3
    assert float(dataset.alignment[0, 0, 0]) == pytest.approx(1 + 0.25 * 0.5, abs=1e-6)


def test_trace_of_a_file(tmp_path):
    generators.isotropic(T=12, K=4, V=3, H=2).save(tmp_path / "mine.safetensors")
    run = qdelta("trace", tmp_path / "mine.safetensors")
    assert run.returncode == 0, run.stderr
    assert "1 x 12 tokens, 2 heads, memory 3 x 4" in run.stdout


def test_check_says_by_its_status_whether_all_claims_hold(tmp_path):
    run = qdelta("check", "two-token cycle")
    assert run.returncode == 1
    assert re.search(r"G4 .*✓ holds", run.stdout)
    assert re.search(r"G9 .*hypotheses not met", run.stdout)
    worst, gates, typical, observed = (f"+{growth:.4f}" for growth in (0.34657, 0.34657, 0.3465, 0.3466))
    assert re.search(rf"\n +0 +\{worst} +\{gates} +\{typical} ± 0.0000 +\{observed} ± .*0\.7071\n$", run.stdout)
    generators.isotropic(T=2000, K=4, V=3, beta=0.05, lam=0.05, alpha=0.9).save(tmp_path / "calm.safetensors")
    calm = qdelta("check", tmp_path / "calm.safetensors", "--json")
    report = json.loads(calm.stdout)
    assert report["ok"] == (calm.returncode == 0)
    assert set(report["claims"]) == {f"G{i}" for i in range(1, 15)}
    assert calm.returncode == 0, {name: claim["verdict"] for name, claim in report["claims"].items()}
    growth = report["growth"]
    assert growth["worst_case"][0][0] < 0
    assert growth["typical"][0][0] < growth["worst_case_gates"][0][0]
    assert growth["unit"] == [[True]]


def test_check_of_what_has_no_numbers(tmp_path):
    generators.isotropic(T=20, K=1, V=2).save(tmp_path / "line.safetensors")
    line = qdelta("check", tmp_path / "line.safetensors", "--json")
    assert line.returncode == 1
    assert json.loads(line.stdout)["growth"]["worst_case"] == [[None]]
    generators.isotropic(T=20, K=4, H=2).tokens(0, 0).save(tmp_path / "empty.safetensors")
    empty = qdelta("check", tmp_path / "empty.safetensors", "--json")
    assert (empty.returncode, json.loads(empty.stdout)["growth"]) == (1, {})
    assert "there are no tokens" in qdelta("check", tmp_path / "empty.safetensors").stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["check", "nothing"], "source is 'nothing', no file and no preset"),
        (["trace", "nothing"], "source is 'nothing', no file and no preset; the presets are trained, isotropic"),
        (["trace", "cone", "--lam", "7"], "lam has values in [7, 7]; expected values in [0, 2]."),
        (["trace", "cone", "-o", "no/such/folder.nc"], "expected a file in a folder that exists."),
        (["trace", "trained", "--layer", "99"], "layer is 99; expected 0 to"),
        (["trace", str(Path(__file__))], "is no safetensors file"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(arguments, sentence, tmp_path):
    run = qdelta(*arguments, cwd=tmp_path)
    assert run.returncode == 2
    assert sentence in run.stderr
    assert run.stderr.startswith("qdelta: ")
    assert run.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
