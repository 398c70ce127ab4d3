"""The training loop: exact resumption, a clean stop, what is logged, lower precision, and two processes as one."""

from __future__ import annotations

import csv
import math
import os
import signal
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from qdelta_analysis.learning import Keeping, LanguageModel, LayerConfig, ModelConfig, TrainingConfig, fit
from qdelta_analysis.learning.distributed import joined
from qdelta_analysis.learning.fitting import CHECKPOINT
from qdelta_analysis.learning.tasks import IGNORED, MQAR, Examples

TASK = MQAR(length=24, pairs=(2, 4), keys=8, values=8, tested=(24,), rows=16)
CONFIG = TrainingConfig(steps=9, batch=6, length=24, learning_rate=1e-2, warmup=2)


def small(seed: int = 0) -> LanguageModel:
    layer = LayerConfig(hidden_size=24, heads=2, key_dim=8, value_dim=12, chunk_size=8)
    return LanguageModel(ModelConfig(layer, layers=2, mlp_size=32, vocabulary=TASK.vocabulary), seed)


def batches(step: int) -> Examples:
    return TASK.examples(CONFIG.batch, 0, step)


def stopping_at(step: int, number: int):
    """The same batches, with a signal to this process while one of them is made."""

    def make(now: int) -> Examples:
        if now == step:
            os.kill(os.getpid(), number)
        return batches(now)

    return make


def weights(model: torch.nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.parameters()]


@pytest.fixture(scope="module")
def whole() -> tuple[list[float], list[torch.Tensor]]:
    model = small()
    return fit(model, CONFIG, batches, progress=False), weights(model)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_goes_on_to_the_same_bits(number, tmp_path, whole):
    before = signal.getsignal(number)
    keeping = Keeping(tmp_path / "run", checkpoint_every=100, log_every=1)
    with pytest.raises(KeyboardInterrupt, match="training was stopped after step 4"):
        fit(small(), CONFIG, stopping_at(4, number), keeping=keeping, progress=False)
    assert signal.getsignal(number) == before
    assert len(load_file(tmp_path / "run" / CHECKPOINT)["losses"]) == 5
    torch.manual_seed(1234)
    model = small(seed=7)  # whose weights the checkpoint replaces
    losses = fit(model, CONFIG, batches, keeping=keeping, progress=False)
    assert losses == whole[0]
    for a, b in zip(weights(model), whole[1], strict=True):
        assert torch.equal(a, b)
    with (tmp_path / "run" / "steps.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == list(range(9))
    assert [float(row["loss"]) for row in rows] == losses
    again = fit(small(), CONFIG, batches, keeping=keeping, progress=False)  # finished: nothing is left to do
    assert again == losses


def test_a_crash_loses_the_steps_since_the_checkpoint_only(tmp_path, whole):
    def failing(step: int) -> Examples:
        if step == 7:
            raise OSError("the data is gone")
        return batches(step)

    keeping = Keeping(tmp_path, checkpoint_every=3, log_every=1, tensorboard=False)
    with pytest.raises(OSError, match="the data is gone"):
        fit(small(), CONFIG, failing, keeping=keeping, progress=False)
    assert len(load_file(tmp_path / CHECKPOINT)["losses"]) == 6
    model = small()
    assert fit(model, CONFIG, batches, keeping=keeping, progress=False) == whole[0]
    assert all(torch.equal(a, b) for a, b in zip(weights(model), whole[1], strict=True))
    steps = (tmp_path / "steps.csv").read_text().splitlines()[1:]
    assert [int(line.split(",")[0]) for line in steps] == list(range(9))  # row 6 of the lost steps is not there twice


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    keeping = Keeping(tmp_path, tensorboard=False, settings={"task": "mqar"})
    fit(small(), replace(CONFIG, steps=1), batches, keeping=keeping, progress=False)
    with pytest.raises(ValueError, match=r"is of a run with training = .*'steps': 1.*; expected .*'steps': 9"):
        fit(small(), CONFIG, batches, keeping=keeping, progress=False)
    other = replace(keeping, settings={"task": "parity"})
    with pytest.raises(ValueError, match="is of a run with task = 'mqar'; expected 'parity'"):
        fit(small(), replace(CONFIG, steps=1), batches, keeping=other, progress=False)
    (tmp_path / CHECKPOINT).write_bytes(
        (tmp_path / CHECKPOINT).read_bytes().replace(b"qdelta training", b"another program")
    )
    with pytest.raises(ValueError, match="is no checkpoint of a training run"):
        fit(small(), replace(CONFIG, steps=1), batches, keeping=keeping, progress=False)


def test_a_nan_leaves_the_last_checkpoint_and_names_step_and_tensor(tmp_path):
    model = small()

    def poisoned(step: int) -> Examples:
        if step == 5:
            with torch.no_grad():
                model.get_parameter("blocks.0.mixer.v_proj.weight")[0, 0] = torch.nan
        return batches(step)

    keeping = Keeping(tmp_path, checkpoint_every=2, tensorboard=False)
    with pytest.raises(
        FloatingPointError, match=r"step 5: the parameter blocks\.0\.mixer\.v_proj\.weight is not finite"
    ):
        fit(model, CONFIG, poisoned, keeping=keeping, progress=False)
    saved = load_file(tmp_path / CHECKPOINT)
    assert len(saved["losses"]) == 4
    assert all(x.isfinite().all() for x in saved.values())


def test_logs_hold_what_happened(tmp_path):
    keeping = Keeping(tmp_path, log_every=2, watch_every=4)
    losses = fit(small(), CONFIG, batches, keeping=keeping, progress=False)
    with (tmp_path / "steps.csv").open() as file:
        rows = [{name: float(x) for name, x in row.items()} for row in csv.DictReader(file)]
    assert [row["step"] for row in rows] == [0, 2, 4, 6, 8]
    assert [row["loss"] for row in rows] == losses[::2]
    assert [row["learning_rate"] for row in rows] == [CONFIG.rate(step) for step in range(0, 9, 2)]
    assert [row["tokens"] for row in rows] == [(step + 1) * 6 * 24 for step in range(0, 9, 2)]
    assert all(row["gradient_norm"] > 0 for row in rows)
    with (tmp_path / "watched.csv").open() as file:
        watched = list(csv.DictReader(file))
    assert {(int(row["step"]), int(row["layer"])) for row in watched} == {(s, n) for s in (0, 4, 8) for n in (0, 1)}
    assert {"beta_a", "lam", "cosine", "state_norm", "outside/G6"} <= {row["name"] for row in watched}
    board = EventAccumulator(str(tmp_path)).Reload()
    shown = board.Scalars("training/loss")
    assert [event.step for event in shown] == [0, 2, 4, 6, 8]
    assert [event.value for event in shown] == pytest.approx(losses[::2])
    assert len(board.Scalars("layer 1/beta_a")) == 3


def test_the_loss_is_the_mean_over_targets():
    model, examples = small(), batches(0)
    expected = F.cross_entropy(model(examples.tokens).flatten(0, 1), examples.targets.flatten(), ignore_index=IGNORED)
    (loss,) = fit(model, replace(CONFIG, steps=1), batches, progress=False)
    assert loss == pytest.approx(expected.item(), rel=1e-6)


def test_bfloat16_runs_the_products_and_keeps_the_weights_in_float32(whole):
    model, seen = small(), []
    model.head.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    losses = fit(model, replace(CONFIG, precision="bfloat16"), batches, progress=False)
    assert set(seen) == {torch.bfloat16}
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert losses != whole[0]
    assert losses == pytest.approx(whole[0], rel=0.05)


def test_the_bar_shows_loss_tokens_and_time(capsys):
    fit(small(), CONFIG, batches, name="q-delta seed 0")
    shown = capsys.readouterr().err
    assert "q-delta seed 0: 100%" in shown
    assert "tokens/s, loss " in shown
    assert "<00:00" in shown  # the remaining time


@pytest.mark.usefixtures("as_users_call")
def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="steps is 0; expected a whole number of at least 1"):
        TrainingConfig(steps=0)
    with pytest.raises(ValueError, match="precision is 'float8'; expected 'float32' or 'bfloat16'"):
        TrainingConfig(precision="float8")
    with pytest.raises(ValueError, match="device is 'tpu'; expected 'auto', 'cpu' or 'cuda'"), joined("tpu"):
        pass
    assert math.isclose(CONFIG.rate(1), CONFIG.learning_rate)
