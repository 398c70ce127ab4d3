"""Two processes that torchrun starts, on the CPU by Gloo: they train as one, and stop together.

Each with the whole model (DDP), and with half of it (FSDP2).
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from qdelta_analysis.learning import fit, shard
from qdelta_analysis.learning.fitting import CHECKPOINT

from .test_fitting import CONFIG, batches, small

TWO = """
import sys
from qdelta_analysis.learning import Keeping, fit
from qdelta_analysis.learning.distributed import current, joined
from qdelta_analysis.threads import one_thread
from safetensors.torch import save_file
from pathlib import Path
from tests.learning.test_fitting import CONFIG, batches, small

folder = Path(sys.argv[1])
with joined("cpu"), one_thread():
    model = small()
    keeping = Keeping(folder / "run", tensorboard=False, log_every=1)
    try:
        fit(model, CONFIG, globals().get("stop") or batches, keeping=keeping, progress=False)
    except KeyboardInterrupt:
        pass
    save_file(dict(model.state_dict()), folder / f"rank{current().rank}.safetensors")
"""
ONE_IS_TOLD_TO_STOP = "import os, signal\nfrom tests.learning.test_fitting import stopping_at, batches\n" + (
    "stop = stopping_at(3, signal.SIGINT) if os.environ['RANK'] == '1' else None"
)


def two_processes(folder: Path, before: str = "") -> None:
    script = folder / "two.py"
    script.write_text(before + TWO)
    torchrun(script, folder)


def torchrun(*program: str | Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *program],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr


def test_two_processes_train_as_one(tmp_path):
    alone = small()
    alone_losses = fit(alone, CONFIG, batches, progress=False)
    two_processes(tmp_path)
    first, second = (load_file(tmp_path / f"rank{rank}.safetensors") for rank in (0, 1))
    for name, expected in alone.named_parameters():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], expected.detach(), rtol=1e-3, atol=1e-4)
    with (tmp_path / "run" / "steps.csv").open() as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    assert losses == pytest.approx(alone_losses, rel=1e-4)


def test_all_processes_stop_when_one_is_told_to(tmp_path):
    two_processes(tmp_path, ONE_IS_TOLD_TO_STOP)
    first, second = (load_file(tmp_path / f"rank{rank}.safetensors") for rank in (0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert len(load_file(tmp_path / "run" / CHECKPOINT)["losses"]) == 4


def test_two_processes_with_half_the_model_each_train_as_one(tmp_path):
    torchrun("-m", "tests.learning.spread_over_two", tmp_path)
    alone = small().double()
    alone_losses = fit(alone, CONFIG, batches, progress=False)
    found = {path.stem: load_file(path) for path in tmp_path.glob("*[01].safetensors")}
    straight = found["straight0"]
    for rank in (0, 1):
        mine, whole = (int(found[f"straight{rank}"][name]) for name in ("mine", "all"))
        assert whole == sum(p.numel() for p in alone.parameters())
        assert abs(mine / whole - 0.5) < 0.02
    for name, expected in alone.state_dict().items():
        assert all(torch.equal(x[name], straight[name]) for x in found.values()), name  # resumed to the same bits
        torch.testing.assert_close(straight[name], expected, rtol=1e-9, atol=1e-12)
    for run in ("straight", "stopped"):
        with (tmp_path / run / "steps.csv").open() as file:
            losses = [float(row["loss"]) for row in csv.DictReader(file)]
        assert losses == pytest.approx(alone_losses, rel=1e-10)
    assert len(load_file(tmp_path / "half.safetensors")["losses"]) == 4
    # A checkpoint is whole: a process of its own could read it.
    checkpoint = load_file(tmp_path / "straight" / CHECKPOINT)
    assert all(torch.equal(checkpoint[f"model/{name}"], straight[name]) for name in alone.state_dict())
    with (tmp_path / "straight" / "watched.csv").open() as file:
        watched = {(int(row["step"]), int(row["layer"])) for row in csv.DictReader(file)}
    assert watched == {(step, layer) for step in (0, 4, 8) for layer in (0, 1)}
    said = [(tmp_path / f"said{rank}.txt").read_text() for rank in (0, 1)]
    assert said == ["training stopped at step 0: the parameter blocks.1.mlp.down.weight is not finite."] * 2


def test_without_a_group_nothing_is_spread():
    with pytest.raises(ValueError, match="there is no group of processes; expected `shard` inside `joined`"):
        shard(small())
