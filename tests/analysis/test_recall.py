"""The recall lab against a dense token loop, closed forms, and what its draws promise."""

import numpy as np
import pytest
import torch

from qdelta_analysis import recall
from qdelta_analysis.plots import recall_figure
from qdelta_analysis.recall import _draw
from tests.helpers import relative_error

GRID = {"lam": [0.0, 0.5, 1.0], "beta": [0.3, 1.0], "alpha": [0.9, 1.0], "cue": [1.0, 0.8, 0.0]}


def looped(N, writes, D, cos, lam, beta, alpha, cue, seed, d, V) -> tuple[float, float]:
    """Error and accuracy, with every S formed in float64 NumPy and every key asked for by itself."""
    q, k, v, asked, across, answers = (x.numpy() for x in _draw(N, writes, D, cos, d, V, seed))
    S = np.zeros((V, d))
    for t in range(len(k)):
        x = k[t] + lam * q[t]
        S = alpha * S @ (np.eye(d) - beta * np.outer(x, k[t])) + beta * np.outer(v[t], k[t])
    errors, right = [], []
    for i in range(N):
        read = S @ (cue * asked[i] + np.sqrt(1 - cue * cue) * across[i])
        errors.append(((read - answers[i]) ** 2).sum() / (answers[i] ** 2).sum())
        right.append(int(np.argmax([read @ other for other in answers])) == i)
    return float(np.mean(errors)), float(np.mean(right))


@pytest.mark.parametrize(
    "task",
    [
        {"pairs": 1},
        {"pairs": [5, 12], "cos": [-0.4, 0.0]},
        {"pairs": 7, "writes": [1, 3], "distractors": [0, 9], "cos": 0.6},
        {"pairs": 40, "V": 3},
    ],
    ids=str,
)
def test_equal_to_the_token_loop(task):
    task = {"d": 8, "V": 6, "seeds": [3, 0], **task}
    found = recall.measure(**GRID, **task, dtype=torch.float64)
    for name in ("pairs", "writes", "distractors", "cos"):
        if name not in found.dims:
            found = found.expand_dims(name)
    stacked = found.stack(point=[*found.dims])
    assert stacked.sizes["point"] >= 72
    for i in range(stacked.sizes["point"]):
        point = stacked.isel(point=i)
        c = {name: point[name].item() for name in point.coords if name not in ("point", "occupancy")}
        c = {"N": c.pop("pairs"), "D": c.pop("distractors"), **c}
        error, accuracy = looped(**c, d=task["d"], V=task["V"])
        assert point.error.item() == pytest.approx(error, rel=1e-11)
        assert point.accuracy.item() == accuracy


def test_one_pair_in_closed_form():
    """S r = beta cue v whatever lam is: nothing is there to be erased."""
    found = recall.measure(**GRID, pairs=1, d=5, dtype=torch.float64)
    np.testing.assert_allclose(found.error, ((1 - found.beta * found.cue) ** 2).broadcast_like(found.error), atol=1e-13)


def test_overwriting_one_key_leaves_the_last_value_and_a_share_of_the_others():
    """Again and again one key with lam = 0: S k = beta sum over r of (1 - beta)^r v_(last - r)."""
    found = recall.measure(lam=0.0, beta=0.5, pairs=1, writes=[1, 2, 30], d=4, seeds=200, dtype=torch.float64)
    expected = [0.25, 0.25 + 1 / 16, 0.25 + 0.25 * (1 / 4 - 4.0**-30) / (1 - 1 / 4)]  # independent unit values
    np.testing.assert_allclose(found.error.mean("seed"), expected, rtol=0.1)


def test_full_erasure_recalls_the_key_written_last():
    """beta = 1, lam = 0: a delta rule answers the last key exactly, so that with two keys half of them are right."""
    found = recall.measure(lam=0.0, beta=1.0, pairs=2, d=16, dtype=torch.float64)
    _, k, v, *_ = _draw(2, 1, 0, 0.0, 16, 16, 0)
    overlap = float(k[0] @ k[1])
    left = overlap * (v[1] - overlap * v[0])  # S k_first - v_first
    assert found.error.sel(seed=0).item() == pytest.approx(float(left @ left) / 2, rel=1e-12)


def test_batching_changes_nothing(monkeypatch):
    task = {"pairs": [6, 20], "cos": 0.3, "d": 8, "seeds": 3, "dtype": torch.float64}
    whole = recall.measure(**GRID, **task)
    monkeypatch.setattr(recall, "_MOST_FLOATS", 1)
    slabs = recall.measure(**GRID, **task)
    np.testing.assert_allclose(slabs.error, whole.error, rtol=1e-12)
    alone = recall.measure(lam=0.5, beta=0.3, alpha=0.9, cue=0.8, **task)
    np.testing.assert_allclose(alone.error, whole.error.sel(lam=0.5, beta=0.3, alpha=0.9, cue=0.8), rtol=1e-12)
    single = recall.measure(**GRID, **task | {"dtype": torch.float32})
    assert single.error.dtype == np.float32
    assert relative_error(single.error.values, whole.error.values) < 1e-5


def test_draws_have_the_angles_that_were_asked_for():
    q, k, v, asked, across, answers = _draw(N=9, writes=4, D=5, cos=-0.3, d=7, V=3, seed=1)
    assert len(k) == 9 * 4 + 5
    unit = lambda x: torch.allclose(x.norm(dim=-1), torch.ones(len(x), dtype=x.dtype))
    assert all(unit(x) for x in (q, k, v, asked, across, answers))
    torch.testing.assert_close((q * k).sum(-1), torch.full((41,), -0.3, dtype=torch.float64))
    torch.testing.assert_close((across * asked).sum(-1), torch.zeros(9, dtype=torch.float64))
    for i in range(9):
        at = (k[:36] == asked[i]).all(-1).nonzero()[:, 0]
        assert len(at) == 4
        assert torch.equal(v[at[-1]], answers[i])
    assert not torch.equal(_draw(9, 4, 5, -0.3, 7, 3, 2)[1], k)


def test_a_given_number_is_no_dim_and_occupancy_stands_beside_the_pairs():
    found = recall.measure(lam=[0.0, 1.0], pairs=[4, 8], d=16, seeds=2)
    assert dict(found.sizes) == {"pairs": 2, "lam": 2, "seed": 2}
    assert found.occupancy.values.tolist() == [0.25, 0.5]
    assert float(found.beta) == 1.0
    assert found.attrs["d"] == 16


def test_capacity_is_the_largest_load_before_the_first_that_fails():
    found = recall.measure(pairs=[30, 10, 20, 40], d=10, seeds=2)
    scripted = found.accuracy.copy(data=np.array([[1.0, 0.5], [1.0, 0.9], [0.8, 0.9], [1.0, 0.2]]))
    capacity = recall.capacity(found.assign(accuracy=scripted), accuracy=0.9)
    assert capacity.dims == ("seed",)
    assert capacity.values.tolist() == [1.0, 2.0]
    assert recall.capacity(found.assign(accuracy=0 * scripted)).values.tolist() == [0, 0]


def test_the_curve_is_mean_and_spread_over_seeds():
    found = recall.measure(lam=[0.0, 0.5], pairs=[4, 40], d=8, seeds=5)
    curve = recall.curve(found)
    assert curve.error.dims == ("pairs", "lam")
    np.testing.assert_allclose(curve.error, found.error.mean("seed"))
    np.testing.assert_allclose(curve.error_sd, np.std(found.error.values, axis=-1, ddof=1), rtol=1e-5)
    assert (curve.error.sel(pairs=40) > curve.error.sel(pairs=4)).all()


def test_a_memory_that_leaves_the_dtype_recalls_nothing():
    found = recall.measure(lam=2, beta=2, cos=1, pairs=64, writes=20, d=8, seeds=2)
    assert np.isnan(found.accuracy).all()
    assert not np.isfinite(found.error).any()


BAD = {
    "lam": ({"lam": 3}, r"lam has values in \[3, 3\]; expected values in \[0, 2\]"),
    "alpha": ({"alpha": [0.5, 0.0]}, "alpha has values in .*; expected values in"),
    "cos": ({"cos": 2}, "cos has values in"),
    "cue": ({"cue": [0.1, np.nan]}, "cue has values in"),
    "twice": ({"beta": [0.5, 0.5]}, r"beta is \[0.5, 0.5\]; expected one number, or distinct ones in a list"),
    "none": ({"pairs": []}, r"pairs is \[\]; expected one number, or distinct ones"),
    "table": ({"lam": [[0.1, 0.2]]}, r"lam is \[\[0.1, 0.2\]\]; expected one number"),
    "pairs": ({"pairs": [4, 0]}, "pairs is 0; expected a whole number of at least 1"),
    "half": ({"writes": [1.5]}, "writes is 1.5; expected a whole number of at least 1"),
    "distractors": ({"distractors": -1}, "distractors is -1; expected a whole number of at least 0"),
    "d": ({"d": 1}, "d is 1; expected a whole number of at least 2"),
    "V": ({"V": 0}, "V is 0; expected a whole number of at least 1"),
    "seeds": ({"seeds": 0}, "seeds is 0; expected a whole number of at least 1"),
    "a large seed": ({"seeds": [2**64]}, "seeds is 18446744073709551616; expected a whole number from 0 to"),
    "a fraction": ({"pairs": 4.0}, "pairs is 4.0; expected a whole number of at least 1"),
    "no seeds": ({"seeds": None}, "seeds is None; expected a whole number of at least 1"),
    "complex": ({"dtype": torch.complex64}, "dtype is torch.complex64; expected float16, bfloat16, float32 or float64"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case, as_users_call):
    arguments, message = BAD[case]
    with pytest.raises(ValueError, match=message) as error:
        recall.measure(**arguments)
    assert str(error.value).count(".\n") == 0


def test_what_was_not_measured_cannot_be_summed_up(as_users_call):
    found = recall.measure(pairs=4, d=4, seeds=2)
    with pytest.raises(ValueError, match=r"recalled has dims \['seed'\]; expected pairs among them"):
        recall.capacity(found)
    with pytest.raises(ValueError, match="expected seed among them"):
        recall.curve(found.isel(seed=0))
    with pytest.raises(ValueError, match="accuracy is 2; expected a number from 0 to 1"):
        recall.capacity(found, accuracy=2)


def test_a_figure_draws_the_curve_that_it_is_asked_for():
    curve = recall.curve(recall.measure(lam=[0.0, 1.0], pairs=[8, 16, 64], d=16, seeds=4))
    figure = recall_figure(curve, along="pairs", by="lam", of="accuracy")
    band, line = figure.data[2:]
    at = curve.sel(lam=1.0)
    assert line.name == "λ = 1"
    np.testing.assert_array_equal(line.x, [0.5, 1.0, 4.0])  # N/d
    np.testing.assert_array_equal(line.y, at.accuracy)
    np.testing.assert_allclose(band.y[:3], at.accuracy + at.accuracy_sd)
    np.testing.assert_allclose(band.y[:2:-1], at.accuracy - at.accuracy_sd)
    with pytest.raises(ValueError, match=r"curve has dims \['pairs', 'lam'\]; expected cue and lam"):
        recall_figure(curve, along="cue", by="lam")
    many = recall.curve(recall.measure(lam=np.linspace(0, 1, 5), pairs=[2, 4], d=4, seeds=2))
    with pytest.raises(ValueError, match="curve has 5 values of lam; expected at most 4"):
        recall_figure(many, along="pairs", by="lam")
