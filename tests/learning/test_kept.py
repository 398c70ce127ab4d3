"""What a run keeps in its folder: killed at any step nothing of it is lost, and damaged it is named and left alone."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from qdelta_analysis.cli import app
from qdelta_analysis.learning import Keeping, TrainingConfig, fit
from qdelta_analysis.learning.checkpoints import load_checkpoint, save_checkpoint
from qdelta_analysis.learning.experiments import losses, results, run_experiment
from qdelta_analysis.learning.fitting import CHECKPOINT, adamw
from tests.helpers import cases

from .test_experiments import QUIET, TINY
from .test_fitting import CONFIG, batches, small

# Forks a child for every step at which something comes on disk, and kills it just before that step.
KILLER = """
import csv, itertools, os, pathlib, signal, sys
import torch
from qdelta_analysis.learning import Keeping, TrainingConfig, checkpoints, fit, logs
from tests.forked import child
from tests.learning.test_fitting import TASK, small

torch.set_num_threads(1)
CONFIG = TrainingConfig(steps=12, batch=2, length=24, warmup=2)
DIE = lambda: os.kill(os.getpid(), signal.SIGKILL)

def run(folder, at=None):
    def batches(step):
        if step == at:
            DIE()
        return TASK.examples(CONFIG.batch, 0, step)
    keeping = Keeping(folder, checkpoint_every=4, log_every=1, watch_every=4, tensorboard=False)
    return fit(small(), CONFIG, batches, keeping=keeping, progress=False)

def until_step(step, folder):
    left = itertools.count(step, -1)
    def killing(real):
        def wrapped(*arguments, **options):
            if next(left) == 0:
                DIE()
            return real(*arguments, **options)
        return wrapped
    os.replace, os.fsync = killing(os.replace), killing(os.fsync)
    logs.Logs.step, logs.Logs.watched = killing(logs.Logs.step), killing(logs.Logs.watched)
    run(folder)

def rows(folder):
    with (folder / "steps.csv").open() as file:
        return [(int(row["step"]), float(row["loss"])) for row in csv.DictReader(file)]

def finish(folder):
    run(folder)
    assert rows(folder) == WHOLE, rows(folder)

place = pathlib.Path(sys.argv[1])
WHOLE = list(enumerate(run(place / "whole")))
for step in itertools.count():
    folder = place / str(step)
    assert os.WTERMSIG(child(run, folder, 10)) == signal.SIGKILL  # at step 10, of which the checkpoint has 8
    assert rows(folder) == WHOLE[:10], rows(folder)
    ended = child(until_step, step, folder)
    kept = rows(folder)
    assert kept[:8] == WHOLE[:8] and set(kept) <= set(WHOLE), (step, kept)
    if os.WIFEXITED(ended):
        print(step, "steps")
        sys.exit(os.WEXITSTATUS(ended))
    assert os.WTERMSIG(ended) == signal.SIGKILL
    if child(finish, folder):
        sys.exit(f"step {step}")
"""


def test_a_kill_before_any_step_loses_no_row_of_the_log(tmp_path):
    command = [sys.executable, "-c", KILLER, tmp_path]
    run = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=Path(__file__).parents[2])
    assert (run.returncode, run.stderr) == (0, "")
    assert int(run.stdout.split()[0]) > 8  # steps at which a process was killed


def test_a_log_is_only_written_anew_where_rows_are_to_go(tmp_path):
    keeping = Keeping(tmp_path, checkpoint_every=3, log_every=1, tensorboard=False)
    fit(small(), CONFIG, batches, keeping=keeping, progress=False)
    log = tmp_path / "steps.csv"
    before = log.read_bytes(), log.stat().st_ino
    fit(small(), CONFIG, batches, keeping=keeping, progress=False)
    assert (log.read_bytes(), log.stat().st_ino) == before
    log.write_bytes(before[0] + b"9,0.5")  # a row that was cut off
    fit(small(), CONFIG, batches, keeping=keeping, progress=False)
    assert log.read_bytes() == before[0]
    log.write_bytes(b"")
    fit(small(), CONFIG, batches, keeping=keeping, progress=False)
    assert log.read_text() == "step,loss,learning_rate,gradient_norm,tokens,seconds\n"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"date,weight\n1,2\n", r"steps.csv has 'date,weight' in line 1; expected step, loss, learning_rate"),
        (b"step,loss,learning_rate,gradient_norm,tokens,seconds\n0,1,1,1,1,1\nmine\n", r"has 'mine' in line 3; exp"),
        (b"\xff\xfe\x00", r"steps.csv cannot be read \('utf-8' codec"),
        (None, r"steps.csv cannot be read \(.*[Dd]irectory"),
    ],
)
def test_a_table_that_is_no_log_is_left_alone(content, sentence, tmp_path):
    log = tmp_path / "steps.csv"
    log.mkdir() if content is None else log.write_bytes(content)
    with pytest.raises(ValueError, match=sentence):
        fit(small(), CONFIG, batches, keeping=Keeping(tmp_path, tensorboard=False), progress=False)
    assert log.is_dir() if content is None else log.read_bytes() == content


def damaged(content: bytes, make: np.random.Generator) -> bytes:
    """Cut a file off, overwrite a part of it, leave one out, or flip one bit."""
    a, b = sorted(make.integers(len(content), size=2).tolist())
    kinds: list[Callable[[], bytes]] = [
        lambda: content[:a],
        lambda: content[:a] + make.bytes(min(b - a, 40)) + content[a + min(b - a, 40) :],
        lambda: content[:a] + content[min(b, a + 9) :],
        lambda: content[:a] + bytes([content[a] ^ 1 << int(make.integers(8))]) + content[a + 1 :],
        lambda: content[: min(a, 600)] + bytes([make.integers(32, 127)]) + content[min(a, 600) + 1 :],  # in the header
    ]
    return kinds[make.integers(len(kinds))]()


def outcome(call: Callable, *arguments):
    """What a call returned, and what a ValueError said; anything else that it raises is a fault."""
    try:
        return call(*arguments), None
    except ValueError as error:
        return None, str(error)


@pytest.mark.cases
def test_a_damaged_checkpoint_is_named_and_changes_nothing(tmp_path):
    model = small()
    settings, path = {"model": "small"}, tmp_path / CHECKPOINT
    optimizer = adamw(model, CONFIG)
    model(batches(0).tokens).sum().backward()
    optimizer.step()
    save_checkpoint(path, model, optimizer, [1.0, 2.0], settings)
    whole, kept = path.read_bytes(), [p.detach().clone() for p in model.parameters()]
    other, make = small(seed=1), np.random.default_rng(0)
    first = [p.detach().clone() for p in other.parameters()]
    refused = 0
    for number in range(cases(150)):
        path.write_bytes(damaged(whole, make))
        found, error = outcome(load_checkpoint, path, other, adamw(other, CONFIG), settings)
        if error is not None:
            assert error.startswith(str(path)), (number, error)
            assert error.count("\n") == 0
            assert all(torch.equal(a, b) for a, b in zip(other.parameters(), first, strict=True)), number
            refused += 1
            continue
        assert found == [1.0, 2.0], number  # it was damaged where nothing is
        assert all(torch.equal(a, b) for a, b in zip(other.parameters(), kept, strict=True)), number
        other = small(seed=1)
    assert refused > 0.9 * number
    for spoil in (lambda: path.write_bytes(b""), lambda: (path.unlink(), path.mkdir())):
        spoil()
        with pytest.raises(ValueError, match=rf"{CHECKPOINT} is (no safetensors file|a folder)"):
            fit(small(), CONFIG, batches, keeping=Keeping(tmp_path, tensorboard=False), progress=False)


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    class Other(torch.nn.Linear):
        pass

    path, settings = tmp_path / CHECKPOINT, {"model": "None"}
    model = Other(2, 3)
    save_checkpoint(path, model, adamw_of(model), [], settings)
    other = Other(4, 3)
    with pytest.raises(ValueError, match=r"has weight of shape \[3, 2\]; expected \[3, 4\], or another folder"):
        load_checkpoint(path, other, adamw_of(other), settings)


def adamw_of(model: torch.nn.Module) -> torch.optim.AdamW:
    return adamw(model, TrainingConfig())


def test_a_truncated_checkpoint_is_bad_input_to_the_command(tmp_path, as_users_call):
    folder = tmp_path / "cpu/mqar/mqar-linear-attention-rate0.003-seed0"
    folder.mkdir(parents=True)
    (folder / CHECKPOINT).write_bytes(b"\x40\x00\x00\x00\x00\x00\x00\x00{")
    run = CliRunner().invoke(app, ["experiment", "mqar", "--seeds", "1", "--runs", str(tmp_path), "--no-tensorboard"])
    assert run.exit_code == 2, run.output
    assert f"qdelta: {folder / CHECKPOINT} is no safetensors file" in run.stderr
    assert "Traceback" not in run.stderr
    assert (folder / CHECKPOINT).exists()


def mutated(x, make: np.random.Generator):
    """Take away, or replace by something of another type, one thing somewhere in nested JSON."""
    if not isinstance(x, dict | list) or not x or make.random() < 0.15:
        return [None, [], {}, "text", 3.5, -1, True, [{}], {"a": 1}, 10**400, 2**64, np.nan, "\ud800"][
            make.integers(13)
        ]
    keys = sorted(x) if isinstance(x, dict) else range(len(x))
    key = keys[make.integers(len(keys))]
    copy = x.copy()
    if make.random() < 0.3:
        del copy[key]
    else:
        copy[key] = mutated(x[key], make)
    return copy


@pytest.mark.cases
def test_a_damaged_record_of_a_run_is_named(tmp_path):
    (path, *_) = run_experiment(TINY, [0], tmp_path, **QUIET)
    whole, make = path.read_bytes(), np.random.default_rng(0)
    for number in range(cases(300)):
        record = json.dumps(mutated(json.loads(whole), make)).encode()
        path.write_bytes(record if make.random() < 0.7 else damaged(whole, make))
        for call in (lambda: losses([path]), lambda: run_experiment(TINY, [0], tmp_path, **QUIET)):
            _, error = outcome(call)
            assert error is None or str(path) in error, (number, error)
    path.write_bytes(whole[:-30])
    with pytest.raises(ValueError, match=f"{path.name} cannot be read"):
        results([path])
    path.write_bytes(whole)
    log = path.with_suffix("") / "steps.csv"
    rows = (b"a,b,c", b"1.5,1,1", b"1,10,nan", b"1,10,inf", b"1,10", b"1e400,1,1", b"99999999999999999999999,1,1")
    for content in (b"", b"step,loss\n1,2\n", b"\xff\xff", *(b"step,tokens,loss\n" + row + b"\n" for row in rows)):
        log.write_bytes(content)
        with pytest.raises(ValueError, match=r"steps\.csv is damaged"):
            losses([path])


def test_the_log_of_a_run_that_goes_on_is_read_as_it_was(tmp_path):
    """What another program reads while a run is resumed is never a table without its rows."""
    keeping = Keeping(tmp_path, checkpoint_every=3, log_every=1, tensorboard=False)
    seen = []

    def looking(step):
        with (tmp_path / "steps.csv").open() as file:
            seen.append([int(row["step"]) for row in csv.DictReader(file)])
        return batches(step)

    fit(small(), CONFIG, looking, keeping=keeping, progress=False)
    assert seen == [list(range(n)) for n in range(CONFIG.steps)]
