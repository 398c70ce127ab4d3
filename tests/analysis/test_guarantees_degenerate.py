"""No inputs violate a claim: degenerate ones, none at all, and many that hypothesis draws."""

import dataclasses
import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qdelta_analysis import QDeltaInputs, generators, guarantees
from tests.helpers import tokens

from .claims import HOLDS, UNMET, VIOLATED, inputs, unmet

DEGENERATE = {
    "one token": inputs(T=1),
    "two tokens": inputs(T=2),
    "one dimension": inputs(K=1, T=40),
    "one value": inputs(V=1, T=40),
    "zero vectors": QDeltaInputs(*torch.zeros(3, 1, 30, 2, 4), None, torch.full((1, 30, 2), 0.5), None),
    "zero keys": dataclasses.replace(inputs(T=40), k=torch.zeros(1, 40, 2, 8).double()),
    "zero queries": dataclasses.replace(inputs(T=40), q=torch.zeros(1, 40, 2, 8).double()),
    "nothing written": inputs(T=40).with_beta(0.0),
    "q = k": dataclasses.replace(inputs(T=40), q=inputs(T=40).k),
    "q = -k": dataclasses.replace(inputs(T=40), q=-inputs(T=40).k),
    "zero values": dataclasses.replace(inputs(T=40), v=torch.zeros(1, 40, 2, 6).double(), initial_state=None),
    "x = 0": generators.cone(cos=-1.0, beta=1.0, lam=1.0),
    "decay to nothing": dataclasses.replace(inputs(T=40), g=torch.full((1, 40, 2), -2000.0).double()),
    "x of rounding alone": generators.cone(T=128, K=2, cos=-1.0, beta=1.0, lam=1.0).to(torch.float64),
    "reflections": generators.cone(T=900, K=2, V=1, cos=1.0, beta=1.0, lam=1.0),
    "memory erased at once": dataclasses.replace(
        inputs(T=150, K=1, HV=4), initial_state=torch.full((1, 4, 1, 6), 1e6).double()
    ).to(torch.float32),
    "few repeated keys": generators.repeated_keys(T=547, K=2, V=3, H=3, beta=0.199, lam=0.947, alpha=0.5, seed=911268),
    "past float64": generators.two_token_cycle(T=4096, K=3, V=2),
    "past float32": generators.two_token_cycle(T=400, K=3, V=2).to(torch.float32),
    "bfloat16": inputs(T=100).to(torch.bfloat16),
    "float16": inputs(T=100).to(torch.float16),
}


@pytest.mark.parametrize("case", DEGENERATE)
def test_degenerate_inputs_violate_nothing(case):
    report = guarantees.check(DEGENERATE[case])
    assert VIOLATED not in report.verdicts.values()
    assert report["G1"].verdict == HOLDS
    json.loads(report.to_json())
    assert str(report)


def test_what_degenerate_inputs_are_said_to_be():
    verdict = lambda case, claim: guarantees.GUARANTEES[claim].check(DEGENERATE[case])
    for claim in ("G2", "G3", "G8", "G13", "G14"):
        assert unmet(verdict("one dimension", claim)) >= {"d >= 2"}
    for claim in ("G6", "G7", "G12"):  # zero vectors lie in the unit ball
        assert verdict("zero vectors", claim).verdict == HOLDS
    assert unmet(verdict("zero vectors", "G10")) >= {"unit q, k"}
    for claim in ("G4", "G5", "G12"):
        assert unmet(verdict("past float64", claim)) == {"finite memory"}
        assert unmet(verdict("past float32", claim)) == {"finite memory"}
    for claim in ("G10", "G11"):
        assert "i.i.d. tokens" in unmet(verdict("one token", claim))
    assert verdict("zero values", "G5").verdict == HOLDS
    assert verdict("zero keys", "G7").verdict == verdict("zero queries", "G7").verdict == HOLDS
    assert verdict("zero queries", "G13").verdict == HOLDS
    assert unmet(verdict("nothing written", "G4")) == {"beta a in (0, 2)"}
    for case in ("q = k", "q = -k"):  # x is parallel to k: no step expands
        assert verdict(case, "G3").numbers["largest_over_alpha"] == pytest.approx((1, 1), abs=1e-12)


def test_no_tokens():
    empty = QDeltaInputs(*torch.zeros(3, 1, 0, 2, 4), None, torch.zeros(1, 0, 2), None)
    report = guarantees.check(empty)
    assert set(report.verdicts.values()) == {UNMET}
    assert not report.ok
    assert "there is at least one token" in str(report)
    assert json.loads(report.to_json())["claims"]["G1"]["margin"] is None


def test_nan_is_refused_before_any_check(as_users_call):
    x = generators.isotropic(T=5).arguments()
    x["k"] = x["k"].clone()
    x["k"][0, 3, 0, 1] = math.nan
    with pytest.raises(ValueError, match="k holds nan at index"):
        QDeltaInputs(**x)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 999),
    T=st.integers(1, 90),
    K=st.integers(1, 5),
    beta=st.floats(0, 2, width=32),
    lam=st.floats(0, 2, width=32),
    alpha=st.floats(0.125, 1, width=32),
    length=st.sampled_from([1.0, 1.0, 0.5, 2.0]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_no_inputs_violate_a_claim(seed, T, K, beta, lam, alpha, length, dtype):
    x = tokens(T=T, K=K, V=3, seed=seed)
    scale = lambda gate, top: gate / gate.max().clamp(min=1e-9) * top
    x = QDeltaInputs(
        x.q, length * x.k, x.v, math.log(alpha) + 0 * x.g, scale(x.beta, beta), scale(x.lam, lam), x.state
    ).to(dtype)
    report = guarantees.check(x)
    assert VIOLATED not in report.verdicts.values(), str(report)
    json.loads(report.to_json())
