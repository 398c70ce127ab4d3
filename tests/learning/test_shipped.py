"""What the package says of the experiments whose results it holds."""

from __future__ import annotations

import json
import shutil

import pandas as pd
import pytest

from qdelta_analysis.data import FOLDER
from qdelta_analysis.learning.experiments import (
    EXPERIMENTS,
    beside_paper,
    guessing,
    made,
    overview,
    paper_ablation,
    stored,
    summary,
)


def table(variants: list[str], conditions: list[str], metric: str = "accuracy") -> pd.DataFrame:
    same = {"experiment": "e", "task": "t", "metric": metric, "tokens": 10, "parameters": 1000}
    same["learning_rate"] = 0.01
    return pd.DataFrame(
        same | {"variant": v, "condition": c, "seed": s, "value": i + s / 10}
        for i, v in enumerate(variants) for c in conditions for s in (0, 1)
    )  # fmt: skip


def test_the_overview_has_a_row_for_every_experiment_and_says_which_were_not_run(tmp_path):
    for end in (".csv", ".json"):
        shutil.copy(FOLDER / f"experiment_mqar{end}", tmp_path)
    found = overview(tmp_path)
    assert tuple(found.index) == EXPERIMENTS
    assert found.loc["lm"].isna().all()
    note = json.loads((tmp_path / "experiment_mqar.json").read_text())
    row, runs = found.loc["mqar"], note["runs"]
    assert row.seeds * row.variants == len(runs)
    assert row.tokens == note["tokens"]
    assert row.parameters == max(run["parameters"] for run in runs)
    assert row.hours == pytest.approx(note["seconds"] / 3600, abs=0.01)
    assert note["seconds"] >= sum(r["seconds_training"] + r["seconds_measuring"] for r in runs)
    assert made("lm", tmp_path) is None


def test_guessing_is_one_of_the_values_or_of_the_states():
    note = {
        "tasks": {
            "mqar": {"kind": "MQAR", "values": 24},
            "parity": {"kind": "StateTracking", "group": "parity"},
            "s3": {"kind": "StateTracking", "group": "s3"},
            "uuid": {"kind": "NeedleInHaystack"},
        }
    }
    assert guessing(note) == {"mqar": 1 / 24, "parity": 1 / 2, "s3": 1 / 6}


def test_the_paper_stands_beside_the_same_variants():
    found = summary(table(["gated-deltanet", "q-delta", "q-delta, lam = 0.2", "q-delta, norm-compensated"], ["b", "a"]))
    both = beside_paper(found, "accuracy")
    assert list(both.columns[:2]) == ["b", "a"]
    assert both.loc["q-delta", "a"] == "1.0500 ± 0.0707"
    assert both.loc["q-delta, lam = 0.2", "paper: LAMBADA perplexity"] == 35.39
    assert both.filter(like="paper").loc[["gated-deltanet", "q-delta, norm-compensated"]].isna().all(axis=None)
    assert len(both.columns) == 2 + len(paper_ablation().columns)
    rules = beside_paper(summary(table(["linear-attention", "gated-deltanet", "q-delta"], ["a"])), "accuracy")
    assert rules["paper: S-NIAH, 1.3B"].tolist()[1:] == [83.51, 90.02]
    assert rules["paper: S-NIAH, 1.3B"].isna().tolist() == [True, False, False]


def test_whatever_is_shipped_can_be_summed_up_and_laid_beside_the_paper():
    shipped = {name: found for name in EXPERIMENTS if (found := stored(name)) is not None}
    assert "mqar" in shipped
    for name, found in shipped.items():
        note = made(name)
        assert note is not None
        assert all(0 < chance < 1 for chance in guessing(note).values())
        metric = "bits per byte" if name in ("lm", "ablation") else "accuracy"
        assert list(beside_paper(summary(found), metric).index) == list(dict.fromkeys(found.variant))
