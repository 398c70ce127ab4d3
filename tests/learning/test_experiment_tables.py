"""The tables of experiments: mean, spread and the paired test, as one would compute them by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from qdelta_analysis.learning.experiments import BASELINE, summary, summary_frame, summary_text


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
