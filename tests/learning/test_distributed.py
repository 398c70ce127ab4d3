"""Two processes that torchrun starts, on the CPU by Gloo: they train as one, and stop together."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from qdelta_analysis.learning import fit
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
    run = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", script, folder],
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
