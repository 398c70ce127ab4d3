"""`qdelta` on files that are damaged or strange, in this process: a result, or one sentence that names the file."""

import json
import os
import random
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import xarray as xr
from safetensors.torch import save
from typer.testing import CliRunner

from qdelta_analysis.cli import app
from tests.helpers import cases, tokens

METADATA = {"format": "qdelta-inputs", "format_version": "1", "source": "test"}
NAMES = ("q", "k", "v", "g", "beta", "lam", "initial_state")
DTYPES = [
    *(torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.complex64),
    *(torch.int32, torch.uint8, torch.bool),
]
STRANGE = [float("nan"), float("inf"), -float("inf"), 1e-45, 1e-300, 3e38, 1e300, 1e19, 7e4, -1.0, 3.0, 0.0]


def drawn(seed: int, **sizes) -> dict[str, torch.Tensor]:
    x = tokens(**{"T": 8, "H": 1, "HV": 2, "K": 3, "V": 2} | sizes, seed=seed, dtype=torch.float32)
    return dict(zip(NAMES, x, strict=True))


def run(*arguments) -> tuple[int, str, str]:
    """Return status, output and errors; nothing may end in a traceback, and bad input is one sentence."""
    found = CliRunner().invoke(app, [str(x) for x in arguments])
    if not isinstance(found.exception, SystemExit | None):
        raise found.exception
    if found.exit_code == 2:
        assert found.stderr.startswith("qdelta: ")
        assert found.stderr.count("\n") == 1
        assert found.stdout == ""
    return found.exit_code, found.stdout, found.stderr


def mutated(make: random.Random) -> bytes:
    """Draw a file: its tensors are changed, or its bytes, or both."""
    sizes = [{}, {"T": 0}, {"T": 1}, {"B": 2, "T": 3}, {"K": 1}, {"H": 2}, {"V": 1}, {"T": 70}]
    seed = make.randrange(1000)
    tensors, metadata = drawn(seed, **make.choice(sizes)), dict(METADATA)
    for _ in range(make.choice([0, 1, 1, 1, 2])):
        name = make.choice([*tensors])
        x = tensors[name]
        change = make.randrange(9)
        if change == 0:
            del tensors[name]
        elif change == 1:
            tensors[make.choice(["more", "Q", "q ", ""])] = x.clone()
        elif change == 2:
            tensors[name] = x.to(make.choice(DTYPES))
        elif change == 3:
            shapes = [(0,), (), (*x.shape, 1), x.shape[:-1], (*x.shape[:-1], x.shape[-1] + 1), (0, *x.shape[1:])]
            tensors[name] = torch.ones(make.choice(shapes))
        elif change == 4 and x.numel() and x.is_floating_point():
            x.view(-1)[make.randrange(x.numel())] = torch.tensor(make.choice(STRANGE), dtype=torch.float64).to(x.dtype)
        elif change == 5 and x.is_floating_point():
            tensors |= {name: x.double() * 10 ** make.uniform(-320, 300)}
        elif change == 6:
            dtype = make.choice([torch.float16, torch.bfloat16, torch.float64])
            tensors = {each: y.to(dtype) for each, y in tensors.items()}
        elif change == 7:
            size = make.choice([4.2, 1e3, 1e-3, 0.0, 1e20])
            tensors |= {each: tensors[each] * size for each in ("q", "k") if each in tensors}
        else:
            key = make.choice([*METADATA])
            metadata[key] = make.choice(["", "2", "a\nb", "é✓", "x" * 1000])
            if make.random() < 0.3:
                del metadata[key]
    content = save({name: x.contiguous() for name, x in tensors.items()}, metadata)
    for _ in range(make.choice([0, 0, 0, 1, 3])):
        damage = make.randrange(5)
        if damage == 0:
            content = content[: make.randrange(len(content) + 1)]
        elif damage == 1 and content:
            flipped = bytearray(content)
            flipped[make.randrange(len(flipped))] ^= 1 << make.randrange(8)
            content = bytes(flipped)
        elif damage == 2:
            content += make.randbytes(make.randrange(20))
        elif damage == 3:
            content = struct.pack("<Q", make.choice([0, 1, 100, 2**40, 2**64 - 1])) + content[8:]
        else:
            header = json.dumps({"__metadata__": METADATA, "q": make.choice([1, [], {}, {"dtype": "F32"}])}).encode()
            content = struct.pack("<Q", len(header)) + header
    return content


@pytest.mark.cases
@pytest.mark.parametrize("command", ["trace", "check"])
def test_any_file_is_a_result_or_one_sentence(command, tmp_path, as_users_call):
    path, output = tmp_path / "some.safetensors", tmp_path / "out.nc"
    make = random.Random(f"files for {command}")
    statuses = {0: 0, 1: 0, 2: 0}
    output.write_bytes(b"old")
    for number in range(cases(100)):
        path.write_bytes(content := mutated(make))
        choices = {"trace": [["--snapshots", "70"], ["-o", output]], "check": [[], ["--json"], ["--details"]]}
        options = make.choice(choices[command])
        before = output.read_bytes()
        try:
            status, said, wrong = run(command, path, *options)
        except Exception as error:
            raise AssertionError(f"case {number} ends in {error!r}") from error
        statuses[status] += 1
        assert path.read_bytes() == content
        assert sorted(tmp_path.iterdir()) == [output, path]
        if status == 2:
            assert str(path) in wrong, wrong
            assert output.read_bytes() == before
        elif output in options:
            assert xr.load_dataset(output, engine="h5netcdf").sizes["time"] < 100
        elif options == ["--json"]:
            json.loads(said)
    assert statuses[2] >= sum(statuses.values()) / 4
    assert statuses[0] + statuses[1] >= sum(statuses.values()) / 8


def test_a_memory_out_of_range_is_a_table_that_says_so(tmp_path, as_users_call):
    x = drawn(0, T=60, K=8, V=6)
    x |= {"q": 4.2 * x["q"], "k": 4.2 * x["k"], "g": 0 * x["g"], "beta": x["beta"] * 0 + 1, "lam": x["lam"] * 0 + 1}
    path = tmp_path / "long.safetensors"
    path.write_bytes(save(x, METADATA))
    status, said, _ = run("trace", path, "-o", tmp_path / "long.nc")
    assert status == 0
    assert "the memory leaves the range of float32; inf and nan stand for what is beyond it." in said
    assert "overflow" in xr.load_dataset(tmp_path / "long.nc", engine="h5netcdf").attrs
    assert run("check", path)[0] == 1


def test_a_file_without_tokens_is_a_table_without_numbers(tmp_path, as_users_call):
    path = tmp_path / "none.safetensors"
    path.write_bytes(save({name: x.contiguous() for name, x in drawn(0, T=0).items()}, METADATA))
    status, said, _ = run("trace", path, "-o", tmp_path / "none.nc")
    assert status == 0
    assert "1 x 0 tokens, 2 heads" in said
    assert "there are no tokens" in said
    assert xr.load_dataset(tmp_path / "none.nc", engine="h5netcdf").sizes["time"] == 0


@pytest.mark.parametrize("command", ["trace", "check"])
def test_what_is_no_file_is_said(command, tmp_path, as_users_call):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "gone").symlink_to("nowhere")
    for path, sentence in {
        tmp_path: "is a folder; expected a file written by QDeltaInputs.save.",
        tmp_path / "fifo": "is a FIFO; expected a file written by QDeltaInputs.save.",
        "/dev/null": "is a device; expected",
        tmp_path / "gone": "no file and no preset",
        tmp_path / ("x" * 300): "File name too long",
        "a\nb": "no file and no preset",
        "": "source is '', no file and no preset",
        **({memory: f"{memory} cannot be read"} if Path(memory := "/proc/self/mem").exists() else {}),
    }.items():
        status, _, wrong = run(command, path)
        assert status == 2
        assert sentence in wrong
    status, _, wrong = run(command, "cone", "--layer", "1")
    assert (status, wrong) == (
        2,
        "qdelta: layer is 1; expected it for the preset trained only, as cone has no layers.\n",
    )


def test_output_goes_through_links_and_never_over_the_input(tmp_path, as_users_call):
    source, target, link = tmp_path / "x.safetensors", tmp_path / "target.nc", tmp_path / "link.nc"
    source.write_bytes(content := save(drawn(0), METADATA))
    link.symlink_to("target.nc")
    assert run("trace", source, "-o", link)[0] == 0
    assert link.is_symlink()
    target.chmod(0o600)
    assert run("trace", source, "-o", link)[0] == 0
    assert target.stat().st_mode & 0o777 == 0o600
    (tmp_path / "same").symlink_to(source)
    os.mkfifo(tmp_path / "fifo")
    for output, sentence in {
        source: "the file that is read; expected another",
        tmp_path / "same": "the file that is read; expected another",
        tmp_path: "it is a folder",
        f"{tmp_path}/new/": "it is a folder",
        tmp_path / "fifo": "it is a FIFO",
        "/dev/null": "it is a device",
        tmp_path / "no" / "x.nc": "expected a file in a folder that exists",
        "": "'' cannot be written; expected a path",
    }.items():
        status, _, wrong = run("trace", source, "-o", output)
        assert status == 2
        assert sentence in wrong
    assert source.read_bytes() == content
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--lam", "0-1"], "lam is '0-1'; expected values such as 0,0.5,1 or FIRST:LAST:HOW-MANY."),
        (["--lam", "0:1"], "lam is '0:1'; expected values such as"),
        (["--lam", ""], "lam is ''; expected values such as"),
        (["-N", "8,many"], "N is '8,many'; expected values such as"),
        (["--lam", "0:inf:3"], "lam is '0:inf:3'; expected values such as"),
        (["--lam", "0:1:99999999999"], "99999999999 values of lam would take about 9,999 GB; expected at most"),
        (["--lam", "0:1:100000", "--beta", "0:1:100000"], "(lam 100,000 x beta 100,000) would take about 1,000 GB"),
        (["--lam", "0,1", "--jobs", "0"], "jobs is 0; expected 1 to 4096 workers"),
        (["--lam", "0,1", "--jobs", "1000000"], "jobs is 1000000; expected 1 to 4096 workers"),
    ],
)
def test_sweeps_that_cannot_be(arguments, sentence, tmp_path, as_users_call):
    status, _, wrong = run("sweep", "error", "-o", tmp_path / "s.zarr", *arguments)
    assert status == 2
    assert sentence in wrong
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("module", ["raise ZeroDivisionError('at import')", "x =", "measure = None", "import no_such"])
def test_measures_that_cannot_be_imported(module, tmp_path, monkeypatch, as_users_call):
    monkeypatch.chdir(tmp_path)
    name = f"measures_{abs(hash(module))}"
    (tmp_path / f"{name}.py").write_text(module)
    for measure in (f"{name}:measure", f"{name}:", ":f", ".:f"):
        status, _, wrong = run("sweep", measure, "-o", "s.zarr", "--lam", "0,1")
        assert status == 2
        assert wrong.startswith("qdelta: measure is ")
    assert not (tmp_path / "s.zarr").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is full")
@pytest.mark.parametrize("arguments", [["trace", "cone"], ["check", "cone"], ["--help"]])
def test_output_that_cannot_be_written_or_read(arguments):
    """Real processes: a terminal that lacks the symbols, a full device, a pipe that nobody reads."""
    call = [sys.executable, "-c", "from qdelta_analysis.cli import app; app()", *arguments]
    options = {"stderr": subprocess.PIPE, "text": True, "timeout": 300}
    terminal = os.environ | {"PYTHONIOENCODING": "latin-1"}
    found = subprocess.run(call, stdout=subprocess.PIPE, env=terminal, encoding="latin-1", **options)
    assert (found.returncode, found.stderr) == (int(arguments[0] == "check"), "")
    assert arguments[0] != "check" or "\\u2713 holds" in found.stdout
    with open("/dev/full", "w") as full:
        found = subprocess.run(call, stdout=full, **options)
    assert (found.returncode, found.stderr) == (2, "qdelta: the output cannot be written: No space left on device.\n")
    reading, writing = os.pipe()
    os.close(reading)
    found = subprocess.run(call, stdout=writing, **options)
    os.close(writing)
    assert (found.returncode, found.stderr) == (1 if arguments == ["--help"] else 141, "")
