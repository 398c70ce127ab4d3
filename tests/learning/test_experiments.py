"""Experiments: planned fairly, run once, resumed, and summed up as one would by hand."""

from __future__ import annotations

import functools
import json
import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from qdelta_analysis.data import FOLDER
from qdelta_analysis.learning import LanguageModel, LayerConfig, ModelConfig, TrainingConfig, ablation
from qdelta_analysis.learning.experiments import (
    BASELINE,
    EXPERIMENTS,
    SIZES,
    Plan,
    at_best_rates,
    losses,
    paper_ablation,
    paper_results,
    plan,
    results,
    run_experiment,
    stored,
    summary,
    write_results,
)
from qdelta_analysis.learning.tasks import MQAR

TASK = MQAR(length=24, pairs=(2,), keys=8, values=8, tested=(24,), rows=16)
SIZE = ModelConfig(LayerConfig(24, 2, 8, 12, chunk_size=8), layers=1, mlp_size=256)
TINY = Plan(
    "mqar",
    {"mqar": TASK},
    {rule: replace(SIZE, layer=replace(SIZE.layer, rule=rule)) for rule in ("gated-deltanet", "q-delta")},
    TrainingConfig(steps=3, batch=4, length=24, warmup=1),
)
QUIET = {"tensorboard": False, "progress": False, "device": "cpu"}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[Path, list[Path]]:
    folder = tmp_path_factory.mktemp("runs")
    return folder, run_experiment(TINY, range(2), folder, **QUIET)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_plan_compares_like_with_like(name, size):
    p = plan(name, size)
    assert BASELINE in p.models
    for task in p.tasks:
        counts = {}
        for variant in p.models:
            with torch.device("meta"):
                model = LanguageModel(p.model(task, variant), seed=None)
            counts[variant] = sum(x.numel() for x in model.parameters())
        assert max(counts.values()) <= 1.01 * counts[BASELINE], counts
        assert min(counts.values()) >= 0.99 * counts[BASELINE], counts
        assert p.tasks[task].length == p.training.length


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_plan_s_models_read_its_tasks(name):
    p = plan(name)
    for task, chosen in p.tasks.items():
        e = chosen.examples(1, 0, 0)
        logits = LanguageModel(p.model(task, "q-delta"))(e.tokens)
        assert logits.shape == (*e.tokens.shape, chosen.vocabulary)


def test_a_finished_run_is_never_repeated(run):
    folder, paths = run
    assert len(paths) == 4
    before = [(p.read_bytes(), p.stat().st_mtime_ns) for p in paths]
    again = run_experiment(TINY, range(3), folder, **QUIET)
    assert set(paths) < set(again)
    assert len(again) == 6
    assert [(p.read_bytes(), p.stat().st_mtime_ns) for p in paths] == before
    again[-1].unlink()
    again[-2].unlink()


def test_a_run_says_how_it_was_made(run):
    record = json.loads(run[1][0].read_text())
    assert record["training"]["steps"] == 3
    assert record["task_settings"]["kind"] == "MQAR"
    assert record["model"]["layer"]["rule"] == record["variant"] == "gated-deltanet"
    assert record["made"]["versions"]["torch"] == torch.__version__
    assert record["made"]["threads"] == 1
    assert record["tokens"] == 3 * 4 * 24
    assert not re.search(r"(^|[\s='])/", record["made"]["command"])  # no path of this machine
    assert not list(run[0].rglob("checkpoint.safetensors"))
    assert all((path.with_suffix("") / "steps.csv").exists() for path in run[1])


def test_memories_are_watched_where_there_are_delta_rules(run, tmp_path):
    rules = ("gated-deltanet", "linear-attention")
    two = replace(TINY, models={rule: replace(SIZE, layer=LayerConfig(24, 2, 8, 12, rule=rule)) for rule in rules})
    paths = run_experiment(two, [0], tmp_path, watch_every=2, **QUIET)
    watched = [pd.read_csv(path.with_suffix("") / "watched.csv") for path in paths]
    assert set(watched[0].step) == {0, 2}
    assert {"beta_a", "cosine", "outside/G6"} <= set(watched[0].name)
    assert watched[1].empty
    assert not any("watch" in setting for setting in json.loads(paths[0].read_text()))


def test_other_settings_are_refused(run):
    other = replace(TINY, training=replace(TINY.training, steps=4))
    with pytest.raises(ValueError, match=r"seed0\.json has training = .*'steps': 3.*; expected .*'steps': 4"):
        run_experiment(other, range(1), run[0], **QUIET)
    with pytest.raises(ValueError, match="experiment is 'poems'; expected one of 'mqar', 'niah'"):
        plan("poems")
    with pytest.raises(ValueError, match="size is 'huge'; expected one of 'cpu', 'gpu'"):
        plan("mqar", "huge")
    with pytest.raises(ValueError, match="paths is empty"):
        results([])


def test_results_are_tidy_and_are_stored_whole(run, tmp_path):
    table = results(run[1])
    assert len(table) == 2 * 2 * 3
    assert set(table.metric) == {"accuracy", "exact", "nats"}
    assert not table.duplicated(["task", "variant", "seed", "condition", "metric"]).any()
    csv, note, _ = write_results(run[1], tmp_path)
    back = stored("mqar", folder=tmp_path)
    assert back is not None
    pd.testing.assert_frame_equal(back, table, check_dtype=False)
    said = json.loads(note.read_text())
    assert csv.name == "experiment_mqar.csv"
    rate = {"learning_rate": said["runs"][0]["learning_rate"]}
    assert said["training"] | rate == json.loads(run[1][0].read_text())["training"]
    assert {(r["variant"], r["seed"]) for r in said["runs"]} == {(v, s) for v in TINY.models for s in (0, 1)}
    assert said["models"]["mqar"]["q-delta"]["vocabulary"] == TASK.vocabulary
    assert stored("lm", folder=tmp_path) is None
    curves = stored("mqar", "losses", tmp_path)
    assert curves is not None
    assert list(curves.columns) == ["task", "variant", "seed", "step", "tokens", "loss"]
    pd.testing.assert_frame_equal(curves, losses(run[1]), check_dtype=False, rtol=1e-4)
    assert "learning_rates" not in said


def test_each_variant_is_reported_at_the_learning_rate_that_trained_it_best(tmp_path):
    rates = (1e-5, 3e-2)
    paths = run_experiment(replace(TINY, rates=rates), range(2), tmp_path, **QUIET)
    assert len({path.name for path in paths}) == len(paths) == 2 * 2 * 2
    runs = [json.loads(path.read_text()) for path in paths]
    assert [run["training"]["learning_rate"] for run in runs] == [*rates] * 4
    assert all(run["training"] | {"learning_rate": 0} == runs[0]["training"] | {"learning_rate": 0} for run in runs)
    # Training losses are made up, one rate's for each variant less; what is measured takes no part in the choice.
    for path, run in zip(paths, runs, strict=True):
        run["result"]["last_losses"] = 1.0 if run["training"]["learning_rate"] == 1e-5 else 1.5
        if run["variant"] == "q-delta":
            run["result"]["last_losses"] = 3 - run["result"]["last_losses"] - 0.1 * run["seed"]
        path.write_text(json.dumps(run))
    table = results(paths)
    best = {"gated-deltanet": 1e-5, "q-delta": 3e-2}
    assert table.groupby("variant").learning_rate.unique().map(list).to_dict() == {v: [x] for v, x in best.items()}
    assert not table.duplicated(["task", "variant", "seed", "condition", "metric"]).any()
    csv, note, _ = write_results(paths, tmp_path / "out")
    pd.testing.assert_frame_equal(pd.read_csv(csv), table, check_dtype=False)
    said = json.loads(note.read_text())
    assert {(r["variant"], r["learning_rate"]) for r in said["runs"]} == set(best.items())
    took = [run["result"]["seconds_training"] + run["result"]["seconds_measuring"] for run in runs]
    assert said["seconds"] == pytest.approx(sum(took), abs=0.1)
    assert said["learning_rates"]["mqar"]["q-delta"] == {"1e-05": 1.95, "0.03": 1.45}
    assert len(losses(paths)) == len(losses(run_paths := [p for p in paths if p in set(at_best_rates(paths))]))
    assert len(run_paths) == 4


def test_the_paper_s_ablation_is_a_list_of_our_configs():
    assert set(paper_ablation().index) < set(ablation(LayerConfig()))
    assert "arXiv 2606.08804" in paper_results().attrs["source"]


@functools.cache
def parameters_of(sizes: str) -> int:
    """How many parameters a model has; seeds share one."""
    found = json.loads(sizes)
    with torch.device("meta"):
        model = LanguageModel(ModelConfig(**{**found, "layer": LayerConfig(**found["layer"])}), seed=None)
    return sum(x.numel() for x in model.parameters())


def test_every_shipped_number_says_how_it_was_made():
    shipped = [name for name in EXPERIMENTS if stored(name) is not None]
    for name in shipped:
        table, note = stored(name), json.loads((FOLDER / f"experiment_{name}.json").read_text())
        assert table is not None
        runs = {(r["task"], r["variant"], r["seed"]): r for r in note["runs"]}
        assert set(zip(table.task, table.variant, table.seed, strict=True)) == set(runs)
        for row in table.itertuples():
            made = runs[row.task, row.variant, row.seed]
            assert row.parameters == made["parameters"]
            assert row.steps == note["training"]["steps"]
            assert row.learning_rate == made["learning_rate"]
            assert {"command", "versions", "machine", "device", "processes", "threads"} == set(made["made"])
            sizes = note["models"][row.task][row.variant]
            assert parameters_of(json.dumps(sizes)) == row.parameters
        assert not summary(table)["mean"].isna().any()
