"""Experiments in processes of their own: several jobs at a time, and the command, which stops cleanly."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from qdelta_analysis.learning.experiments import results, run_experiment

from .test_experiments import QUIET, TINY

QDELTA = Path(sys.executable).parent / "qdelta"


def test_two_jobs_give_the_same_numbers(tmp_path):
    alone = run_experiment(TINY, range(2), tmp_path / "alone", **QUIET)
    paths = run_experiment(TINY, range(2), tmp_path / "together", jobs=2, **QUIET)
    assert results(paths).equals(results(alone))


def qdelta(*arguments, cwd: Path, **options):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [QDELTA, "experiment", *map(str, arguments)], cwd=cwd, env=environment, text=True, stderr=subprocess.PIPE,
        stdout=subprocess.PIPE, **options,
    )  # fmt: skip


def test_the_command_stops_at_ctrl_c_and_keeps_the_checkpoint(tmp_path):
    process = qdelta("mqar", "--seeds", 1, "--runs", tmp_path, "--no-tensorboard", cwd=tmp_path)
    assert process.stderr is not None
    seen = ""
    while "loss " not in seen:  # a step is done
        seen += (char := process.stderr.read(1))
        assert char, seen
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=240)
    assert process.returncode == 130
    assert "keeps what is done, and the same command goes on with it" in error
    assert len(list((tmp_path / "cpu/mqar").rglob("checkpoint.safetensors"))) == 1


def test_the_command_refuses_what_it_does_not_know(tmp_path):
    process = qdelta("poems", cwd=tmp_path)
    _, error = process.communicate(timeout=240)
    assert process.returncode == 2
    assert error == "qdelta: experiment is 'poems'; expected one of 'mqar', 'niah', 'lm', 'ablation', 'states'.\n"
