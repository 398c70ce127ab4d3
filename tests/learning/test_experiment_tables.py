"""The tables of experiments: mean, spread and the paired test, as one would compute them by hand."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from qdelta_analysis.learning.experiments import BASELINE, results, summary, summary_frame, summary_text, write_results


def made_up(values: dict[str, list[float]], **columns) -> pd.DataFrame:
    same = {"experiment": "e", "task": "t", "condition": "c", "metric": "accuracy", "tokens": 10, "parameters": 1000}
    same["learning_rate"] = 0.01
    rows = [same | {"variant": v, "seed": s, "value": x} for v, xs in values.items() for s, x in enumerate(xs)]
    return pd.DataFrame(rows).assign(**columns)


def test_the_test_is_paired_by_seed():
    values = {"q-delta": [0.52, 0.64, 0.71, 0.83], BASELINE: [0.50, 0.60, 0.70, 0.80]}
    table = made_up(values).sample(frac=1, random_state=0)  # in any order
    found = summary(table).set_index("variant")
    d = np.array(values["q-delta"]) - values[BASELINE]
    t = d.mean() / (d.std(ddof=1) / 2)
    assert found.difference["q-delta"] == pytest.approx(0.025)
    assert found.p["q-delta"] == pytest.approx(2 * stats.t.sf(t, 3))
    half = stats.t.ppf(0.975, 3) * d.std(ddof=1) / 2
    assert found.low["q-delta"] == pytest.approx(0.025 - half)
    assert found.high["q-delta"] == pytest.approx(0.025 + half)
    assert found["mean"]["q-delta"] == pytest.approx(0.675)
    assert found.sd[BASELINE] == pytest.approx(np.std(values[BASELINE], ddof=1))
    assert np.isnan(found.p[BASELINE])
    text = summary_text(summary(table))
    assert "0.6750 ± 0.1297" in text
    assert "+0.0250 [+0.0045, +0.0455], p = 0.030" in text
    frame = summary_frame(summary(table)).loc["c"]
    assert frame.loc["q-delta"].tolist() == ["0.6750 ± 0.1297", "+0.0250 [+0.0045, +0.0455], p = 0.030"]
    assert frame.loc[BASELINE].tolist()[1] == ""


def test_one_seed_has_no_spread_and_no_test():
    found = summary(made_up({"q-delta": [0.5], BASELINE: [0.4]}))
    assert found.sd.isna().all()
    assert found.p.isna().all()
    assert "0.5000 (1 seed)" in summary_text(found)
    same = summary(made_up({"q-delta": [0.5, 0.5], BASELINE: [0.5, 0.5]})).set_index("variant")
    assert same.difference["q-delta"] == 0
    assert np.isnan(same.p["q-delta"])


def test_what_is_not_alike_is_not_compared():
    with pytest.raises(ValueError, match="baseline is 'gated-deltanet'; expected one of 'q-delta'"):
        summary(made_up({"q-delta": [0.5]}))
    with pytest.raises(ValueError, match="gated-deltanet lacks seed 1, which q-delta has"):
        summary(made_up({"q-delta": [0.5, 0.6], BASELINE: [0.5]}))
    table = made_up({"q-delta": [0.5, 0.6], BASELINE: [0.5, 0.6]})
    mine = table.variant == "q-delta"
    with pytest.raises(ValueError, match="q-delta has 1020 parameters, gated-deltanet 1000; expected at most 1% apart"):
        summary(table.assign(parameters=table.parameters.mask(mine, 1020)))
    with pytest.raises(ValueError, match=r"q-delta has the learning rates 0\.01 and 0\.1; expected one"):
        summary(table.assign(learning_rate=table.learning_rate.mask(mine & (table.seed == 1), 0.1)))
    with pytest.raises(ValueError, match="q-delta has 11 tokens, gated-deltanet 10; expected at most 0% apart"):
        summary(table.assign(tokens=table.tokens.mask(mine, 11)))


def record(path, *where, value=0.5, variant="q-delta"):
    """Write a finished run's record with one value, a score's or the one that stands `where`; return its path."""
    found = {"experiment": "e", "task": "t", "variant": variant, "seed": 0, "tokens": 10, "task_settings": {}}
    found |= {"model": {}, "made": {}, "training": {"steps": 1, "learning_rate": 0.01}}
    found["result"] = {"parameters": 9, "last_losses": 1.0, "seconds_training": 1.0, "seconds_measuring": 1.0}
    found["result"]["scores"] = [{"condition": "c", "metric": "nats", "value": 0.5}]
    *names, last = where or ("result", "scores", 0, "value")
    inner = found
    for name in names:
        inner = inner[name]
    inner[last] = value
    path.write_text(json.dumps(found))
    path.with_suffix("").mkdir(exist_ok=True)
    (path.with_suffix("") / "steps.csv").write_text("step,tokens,loss\n0,10,2.0\n")
    return path


@pytest.mark.parametrize(
    ("where", "values"),
    [
        (("training", "learning_rate"), [10**400, np.nan, np.inf, "0.01", True]),
        (("training", "steps"), [10**400, 2**64, 1.5, np.nan]),
        (("result", "last_losses"), [10**400, np.nan, -np.inf]),
        (("result", "seconds_training"), [10**400, np.nan]),
        (("result", "parameters"), [2**63, 10**30]),
        (("seed",), [2**64, 0.5]),
        (("variant",), ["\ud800", 3]),
        (("result", "scores", 0, "value"), [10**400, "1", None, True]),
        (("result", "scores", 0, "metric"), ["\ud800"]),
    ],
)
def test_a_number_that_no_run_records_is_named(where, values, tmp_path):
    name = ".".join(where[:2])
    for value in values:
        path = record(tmp_path / "run.json", *where, value=value)
        with pytest.raises(ValueError, match=rf"run\.json is damaged: (it has )?{name}.*; expected the record of a"):
            results([path])


@pytest.mark.parametrize("value", [10**30, 2**64, 1, np.nan, np.inf])
def test_a_score_is_any_number_as_a_model_that_diverges_has_it(value, tmp_path):
    paths = [record(tmp_path / "a.json", value=value), record(tmp_path / "b.json", variant=BASELINE)]
    found = summary(results(paths)).set_index("variant")["mean"]
    np.testing.assert_equal(found.to_dict(), {"q-delta": float(value), BASELINE: 0.5})
    assert len(write_results(paths, tmp_path)) == 3


def test_a_score_is_what_the_table_says_and_nothing_more(tmp_path):
    path = record(tmp_path / "run.json", "result", "scores", 0, "more", value="\ud800")
    assert "more" not in results([path])
    assert len(write_results([path], tmp_path)) == 3
