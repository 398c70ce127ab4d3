"""Real scale: an envelope hides nothing, and a long trace is held against the definition where it ends."""

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from qdelta_analysis import generators, scale, trace
from qdelta_analysis.plots import envelope_figure


def series(values: np.ndarray) -> xr.DataArray:
    return xr.DataArray(values, dims="time", coords={"time": np.arange(len(values))})


@settings(deadline=None)
@given(st.integers(1, 400), st.integers(1, 120), st.integers(0, 10**6))
def test_an_envelope_is_the_extremes_of_every_token_exactly_once(T, columns, seed):
    values = np.random.default_rng(seed).normal(size=T)
    found = scale.envelope(series(values), columns)
    assert found.sizes == {"column": min(T, columns)}
    covered = [np.arange(a, b + 1) for a, b in zip(found["first"].values, found["last"].values, strict=True)]
    np.testing.assert_array_equal(np.concatenate(covered), np.arange(T))
    assert max(map(len, covered)) - min(map(len, covered)) <= 1
    np.testing.assert_array_equal(found.low, [values[at].min() for at in covered])
    np.testing.assert_array_equal(found.high, [values[at].max() for at in covered])


@pytest.mark.parametrize("at", [0, 1, 123_456, 777_777, 999_999])
@pytest.mark.parametrize("spike", [1e6, -1e6])
def test_a_spike_in_one_token_of_a_million_is_kept(at, spike):
    values = np.random.default_rng(0).normal(size=1_000_000).astype(np.float32)
    values[at] = spike
    found = scale.envelope(series(values), 600)
    side, other = (found.high, found.low) if spike > 0 else (found.low, found.high)
    where = int(abs(side).argmax("column"))
    assert side[where] == spike
    assert found["first"][where] <= at <= found["last"][where]
    assert abs(np.delete(side.values, where)).max() < 10
    assert abs(other).max() < 10
    assert found.low.dtype == np.float32
    drawn = envelope_figure({"state_norm": found}).data[0 if spike < 0 else 1]
    assert spike in drawn.y  # twice: the column's left and right edge
    assert len(drawn.x) == 2 * 600
    np.testing.assert_array_equal(np.sort(drawn.x), drawn.x)


def test_heads_and_sequences_have_envelopes_of_their_own():
    run = trace(generators.random_gates(300, 8, 4, 3, lam=[0, 0.5, 1]), snapshots=0)
    found = scale.envelope(run.state_norm, 7)
    assert found.low.dims == ("batch", "column", "head")
    assert found["head"].values.tolist() == [0, 1, 2]
    one = scale.envelope(run.state_norm.isel(batch=0, head=1), 7)
    np.testing.assert_array_equal(found.high[0, :, 1], one.high)
    assert one.attrs["long_name"] == run.state_norm.attrs["long_name"]


def test_a_stretch_keeps_its_tokens_and_what_is_not_a_number_is_a_gap():
    values = np.arange(100.0)
    found = scale.envelope(series(values)[40:60], 5)
    assert found["first"].values.tolist() == [40, 44, 48, 52, 56]
    assert found["last"][-1] == 59
    values[57] = np.nan
    assert np.isnan(scale.envelope(series(values)[40:60], 5).high).values.tolist() == [False] * 4 + [True]


@pytest.mark.parametrize(
    ("values", "columns", "sentence"),
    [
        (series(np.ones(3)), 0, "columns is 0; expected a whole number of at least 1"),
        (series(np.ones(0)), 5, r"values have sizes {'time': 0}; expected at least one token along time"),
        (xr.DataArray(np.ones(3), dims="head"), 5, r"values have sizes {'head': 3}; expected at least one token"),
    ],
)
def test_what_an_envelope_refuses(values, columns, sentence, as_users_call):
    with pytest.raises(ValueError, match=sentence):
        scale.envelope(values, columns)


def draw(T: int):
    return generators.random_gates(T, 8, 4, 2, lam=[0.2, 1])


def test_a_long_trace_is_the_trace_and_ends_as_the_definition_does():
    inputs, run = scale.long_trace(draw, seconds=0.05, most=3000)
    assert run.sizes["time"] == inputs.T <= 3000
    assert run.snapshot.values.tolist() == [inputs.T - 65, inputs.T - 1]
    xr.testing.assert_allclose(run, trace(inputs, snapshots=[inputs.T - 65, inputs.T - 1]))
    assert scale.reference_error(inputs, run) < 1e-5


@pytest.fixture
def clock(monkeypatch):
    """A clock that advances by `every` seconds a trace and `each` a token, while nothing is traced; and the sizes."""
    now, sizes, costs = [0.0], [], {"every": 0.0, "each": 1e-3}

    def traced(inputs, keep_last):
        sizes.append(inputs.T)
        now[0] += costs["every"] + inputs.T * costs["each"]
        return xr.Dataset()

    monkeypatch.setattr(scale, "_traced", traced)
    monkeypatch.setattr(scale.time, "perf_counter", lambda: now[0])
    return costs, sizes


def small(T: int):
    return generators.random_gates(T, 1, 1, 1)


def test_more_time_carries_more_tokens(clock):
    _, sizes = clock
    assert abs(scale.long_trace(small, seconds=6.0)[0].T - 6000) <= 1
    assert sizes[:2] == [512, 4096]  # one that warms up, one that is timed
    assert scale.long_trace(small, seconds=6.0, most=5000)[0].T == 5000
    assert scale.long_trace(small, seconds=0.001)[0].T == 4096  # what was timed is carried in any case
    assert scale.long_trace(small, seconds=0.001, most=65)[0].T == 65


def test_what_every_run_costs_alike_does_not_count_as_a_slow_machine(clock):
    costs, sizes = clock
    costs.update(every=0.1, each=1e-6)
    assert scale.long_trace(small, seconds=2.0, most=1 << 20)[0].T == 1 << 20  # 1.1 seconds
    assert sizes == [512, 4096, 16384, 65536, 262144, 1 << 20]
    runs = [0.1 + 1e-6 * T for T in sizes]
    assert sum(runs[:-1]) < runs[-1]  # finding out took less than the trace itself


def test_a_memory_that_is_wrong_shows():
    inputs, run = scale.long_trace(draw, seconds=0.001, most=200)
    wrong = run.copy(deep=True)
    wrong.state[0, 1] *= 1.01
    assert scale.reference_error(inputs, wrong) == pytest.approx(0.01, rel=1e-3)
    assert scale.reference_error(inputs.with_lam(0.0), run) > 1e-2


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"seconds": 0}, "seconds is 0; expected a number from 0.001 to inf"),
        ({"most": 64}, "most is 64; expected a whole number of at least 65"),
        ({"keep_last": 0}, "keep_last is 0; expected a whole number of at least 1"),
    ],
)
def test_what_a_long_trace_refuses(options, sentence, as_users_call):
    with pytest.raises(ValueError, match=sentence):
        scale.long_trace(draw, **options)


def test_a_trace_without_two_snapshots_cannot_be_held_against_the_definition(as_users_call):
    inputs = draw(20)
    with pytest.raises(ValueError, match="traced has 1 snapshots of 20 tokens; expected at least two, of the 20"):
        scale.reference_error(inputs, trace(inputs, snapshots=[3]))
    with pytest.raises(ValueError, match="traced has 2 snapshots of 20 tokens; expected at least two, of the 30"):
        scale.reference_error(draw(30), trace(inputs, snapshots=2))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_long_trace_on_a_gpu():
    on_gpu = {"device": "cuda", "dtype": torch.bfloat16}
    make = lambda T: generators.random_gates(T, 128, 128, 8, lam=np.arange(8) / 7, **on_gpu)
    inputs, run = scale.long_trace(make, seconds=5.0, most=1 << 18)
    assert "backend triton" in run.made_by
    assert scale.reference_error(inputs, run) < 1e-2
    assert all(np.isfinite(x).all() for x in run.values())
