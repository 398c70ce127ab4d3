"""Files: whole or not at all, through links, with the mode they had; what cannot be written is one sentence."""

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from qdelta_analysis import QDeltaInputs, generators
from qdelta_analysis.files import read_tensors, replacing, write, write_tensors


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def old(tmp_path) -> Path:
    path = tmp_path / "old.txt"
    path.write_text("what was there before, longer than what comes")
    path.chmod(0o640)
    return path


@pytest.mark.parametrize("folder", [".", "deeper"])
def test_a_symbolic_link_stays_and_what_it_points_to_is_replaced(old, tmp_path, folder):
    (tmp_path / "deeper").mkdir()
    link, chain = tmp_path / folder / "link.txt", tmp_path / "chain.txt"
    link.symlink_to(os.path.relpath(old, link.parent))
    chain.symlink_to(link)
    write(chain, "new")
    assert chain.is_symlink()
    assert link.is_symlink()
    assert old.read_text() == chain.read_text() == "new"
    assert mode(old) == 0o640
    assert {path.name for path in tmp_path.rglob("*")} == {"old.txt", "deeper", "chain.txt", "link.txt"}


def test_a_link_to_nothing_makes_what_it_points_to(tmp_path):
    (tmp_path / "link").symlink_to("target")
    write(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "new"
    (tmp_path / "far").symlink_to("nowhere/target")
    with pytest.raises(FileNotFoundError, match="far cannot be written; expected a file in a folder that exists"):
        write(tmp_path / "far", "new")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="loop cannot be written: Too many levels of symbolic links"):
        write(tmp_path / "loop", "new")


@pytest.mark.parametrize("content", ["new", "new, and longer than anything that was there before it came " * 9])
def test_all_names_of_a_file_show_what_was_written(old, tmp_path, content):
    other = tmp_path / "other.txt"
    other.hardlink_to(old)
    write(other, content)
    assert old.samefile(other)
    assert old.read_text() == content
    assert mode(old) == 0o640


def test_a_file_keeps_its_mode_and_a_new_one_gets_the_users(old, tmp_path):
    for bits in (0o600, 0o755, 0o666):
        old.chmod(bits)
        write(old, "new")
        assert mode(old) == bits
    mask = os.umask(0o027)
    try:
        write(tmp_path / "new.txt", "new")
    finally:
        os.umask(mask)
    assert mode(tmp_path / "new.txt") == 0o640


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_a_file_keeps_its_owner(old):
    os.chown(old, 1234, 2345)
    write(old, "new")
    assert (old.stat().st_uid, old.stat().st_gid, mode(old)) == (1234, 2345, 0o640)


def test_what_is_no_regular_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("fifo")
    bound = socket.socket(socket.AF_UNIX)
    here = Path.cwd()
    os.chdir(tmp_path)  # a socket's path is short
    try:
        bound.bind("socket")
    finally:
        os.chdir(here)
    kinds = {"fifo": "a FIFO", "folder": "a folder", "link": "a FIFO", "socket": "a socket", "new/": "a folder"}
    for name, kind in kinds.items():
        before = sorted(tmp_path.iterdir())
        with pytest.raises(OSError, match=f"{name} cannot be written, as it is {kind}; expected a file"):
            write(f"{tmp_path}/{name}", "new")
        assert sorted(tmp_path.iterdir()) == before
    with pytest.raises(OSError, match="/dev/null cannot be written, as it is a device"):
        write("/dev/null", "new")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    bound.close()


def test_paths_that_are_none(tmp_path, old):
    for path, sentence in {
        "a\0b": r"'a\\x00b' cannot be written; expected a path without NUL",
        tmp_path / ("x" * 300): "x cannot be written: File name too long",
        old / "below": "below cannot be written; expected a file in a folder that exists",
        "": "'' cannot be written; expected a path without NUL",
    }.items():
        with pytest.raises((OSError, ValueError), match=sentence):
            write(path, "new")


def test_a_file_that_may_not_be_written_is_left_alone(old, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, bits: False)  # as for any user but root
    with pytest.raises(PermissionError, match=r"old\.txt cannot be written, as it is read-only"):
        write(old, "new")
    monkeypatch.undo()

    def refuse(**_):
        raise PermissionError(13, "Permission denied", "elsewhere")

    monkeypatch.setattr("tempfile.TemporaryDirectory", refuse)
    with pytest.raises(PermissionError, match=r"new\.txt cannot be written: Permission denied\."):
        write(tmp_path / "new.txt", "new")
    assert old.read_text().startswith("what was there")


def test_a_block_that_fails_leaves_nothing(old, tmp_path):
    with pytest.raises(UnicodeEncodeError), replacing(old) as new:
        new.write_bytes(b"half" + "é".encode("ascii"))
    with pytest.raises(FileNotFoundError, match="another file"), replacing(old):
        raise FileNotFoundError("another file is not there")
    assert list(tmp_path.iterdir()) == [old]
    assert old.read_text().startswith("what was there")


WRITERS = [
    "files.write(path, 'x' * 300_000)",
    "trace('cone', output=str(path))",
    "generators.cone(T=2000).save(path)",
    "save_weights(model, path)",
    "save_checkpoint(path, (m := nn.Linear(200, 200)), optim.AdamW(m.parameters()), [], {})",
]
FULL = """
import resource, signal, sys
from pathlib import Path
from torch import nn, optim
from typer import Exit
from qdelta_analysis import files, generators
from qdelta_analysis.cli import trace
from qdelta_analysis.learning.checkpoints import save_checkpoint
from qdelta_analysis.learning.configs import LayerConfig, ModelConfig
from qdelta_analysis.learning.files import save_weights
from qdelta_analysis.learning.model import LanguageModel
from qdelta_analysis.learning.training import round_to_half

model = LanguageModel(ModelConfig(LayerConfig(64, 2, 16, 32), layers=1))
round_to_half(model)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
for written in sys.argv[2:]:
    path = Path(sys.argv[1], written.split("(")[0])
    try:
        exec(written)
    except OSError as error:
        print(f"qdelta: {error}", file=sys.stderr)
    except Exit as end:  # the command has said it
        assert end.exit_code == 2
    else:
        print("written", file=sys.stderr)
"""


def test_a_full_disk_is_one_sentence_and_the_old_file_survives(tmp_path):
    """A limit on the size of files stands for the disk: the writers meet the same failed write."""
    paths = [tmp_path / written.split("(")[0] for written in WRITERS]
    for path in paths:
        path.write_bytes(b"old")
    run = subprocess.run([sys.executable, "-c", FULL, tmp_path, *WRITERS], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, (run.returncode, run.stderr)
    for path, line in zip(paths, run.stderr.splitlines(), strict=True):
        assert line.startswith(f"qdelta: {path} cannot be written: ")
        assert "too large" in line.lower()
        assert path.read_bytes() == b"old"
    assert sorted(tmp_path.iterdir()) == sorted(paths)


def test_a_file_of_two_names_is_as_it_was_where_there_is_no_room(old, tmp_path, monkeypatch):
    (tmp_path / "other").hardlink_to(old)
    before = old.read_text()

    def full(file, start, size):
        os.ftruncate(file, size)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match=r"old\.txt cannot be written: No space left on device\."):
        write(old, "new" * 1000)
    assert old.read_text() == before


def test_tensors_that_were_read_do_not_change_with_their_file(tmp_path):
    x, path = generators.cone(T=50, K=4, V=3), tmp_path / "x.safetensors"
    x.save(path)
    (tmp_path / "other").hardlink_to(path)
    read = QDeltaInputs.load(path)
    x.with_lam(0).tokens(0, 10).save(path)
    assert QDeltaInputs.load(tmp_path / "other").T == 10
    assert torch.equal(read.q, x.q)
    assert torch.equal(read.lam, x.lam)


def test_what_is_no_file_of_tensors(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path, sentence in {
        tmp_path / "none": "none is not there; expected words",
        tmp_path: "is a folder; expected words",
        tmp_path / "fifo": "fifo is a FIFO; expected words",
        Path("/dev/null"): "/dev/null is a device; expected words",
    }.items():
        with pytest.raises((FileNotFoundError, ValueError), match=sentence):
            read_tensors(path, "words")
    write_tensors(tmp_path / "some", {"x": torch.ones(2)}, {"a": "b"})
    (tmp_path / "cut").write_bytes((tmp_path / "some").read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"cut is no safetensors file \(.*\); expected words"):
        read_tensors(tmp_path / "cut", "words")
    tensors, metadata = read_tensors(tmp_path / "some", "words")
    assert torch.equal(tensors["x"], torch.ones(2))
    assert metadata == {"a": "b"}
