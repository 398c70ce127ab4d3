"""Certificates over boxes: what is proved is never contradicted by sampling, and what is refuted comes with a point."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qdelta_analysis.certify import (
    DOUBLED_BOX,
    PAPER_BOX,
    _alignment_forms,
    _envelope_forms,
    _norm_forms,
    _number,
    _Point,
    certify,
)

CLAIMS = ("G6", "G7", "radius", "norm")


def quantity(claim: str, beta, lam, cos):
    """The bounded quantity by textbook formulas, in float64 and independent of the code under test."""
    a = 1 + lam * cos
    factor = np.abs(1 - beta * a)
    if claim == "G6":
        return factor
    if claim == "radius":
        return np.maximum(1, factor)
    half = 1 - beta * a + beta**2 * (1 + 2 * lam * cos + lam**2) / 2
    norm = np.sqrt(half + np.sqrt(np.maximum(half**2 - factor**2, 0)))
    return norm if claim == "norm" else norm / np.sqrt(1 + lam**2)


def sampled(claim: str, box, n=20_000, seed=0) -> float:
    draw = np.random.default_rng(seed)
    inside = [draw.uniform(*box[name], n) for name in ("beta", "lam", "cos")]
    corners = np.array(np.meshgrid(*(box[name] for name in ("beta", "lam", "cos")))).reshape(3, -1)
    return float(quantity(claim, *np.concatenate([inside, corners], axis=1)).max())


@pytest.mark.parametrize("claim", ["G6", "G7", "radius"])
def test_the_paper_s_region_is_proved_in_one_box_though_the_bounds_touch(claim):
    c = certify(claim)
    assert (c.verdict, c.boxes, c.bound, c.value, c.slack) == ("proved", 1, 1.0, 1.0, 0.0)
    assert "exact" in c.method


def test_the_envelope_needs_no_bound_on_lam():
    assert certify("G7", {"beta": (0, 1), "lam": (0, 2), "cos": (-1, 1)}).verdict == "proved"
    c = certify("G7", {"beta": (0.1, 0.9), "lam": (0.3, 0.7), "cos": (-0.3, 0.9)})
    assert c.verdict == "proved"
    assert c.value < 1


@pytest.mark.parametrize("claim", CLAIMS)
def test_doubled_gates_are_refuted_by_a_point(claim):
    c = certify(claim, DOUBLED_BOX)
    assert c.verdict == "refuted"
    assert c.value > 1
    assert c.bound >= sampled(claim, DOUBLED_BOX)


def test_the_extremes_of_doubled_gates_are_those_of_the_theory():
    c = certify("G6", DOUBLED_BOX)
    assert c.point == {"beta": 2.0, "lam": 2.0, "cos": 1.0}
    assert (c.value, c.bound) == (5.0, 5.0)
    assert certify("radius", DOUBLED_BOX, bound=5.0).verdict == "proved"
    assert certify("radius", DOUBLED_BOX, bound=4.99).verdict == "refuted"


def test_a_step_that_never_expands_is_a_false_claim():
    c = certify("norm", bound=1.0)
    assert c.verdict == "refuted"
    t = c.transition()
    assert np.linalg.norm(t.matrix(), 2) == pytest.approx(c.value, abs=1e-12)
    assert c.value > 1
    assert 0 < t.beta * t.alignment < 2  # although the error contracts


def test_without_feedback_no_step_expands():
    c = certify("norm", {"beta": (0, 2), "lam": (0, 0), "cos": (-1, 1)}, bound=1.0)
    assert (c.verdict, c.bound) == ("proved", 1.0)


def test_a_norm_bound_is_closed_in_by_bisection():
    over, under = certify("norm", bound=1.42), certify("norm", bound=1.41)
    assert over.verdict == "proved"
    assert over.boxes > 100
    assert under.verdict == "refuted"
    assert 1.41 < under.value < math.sqrt(2) < over.bound


def test_a_limit_that_is_touched_is_undecided_without_slack_and_says_so():
    c = certify("norm", bound=math.sqrt(2), max_boxes=300)
    assert (c.verdict, c.boxes) == ("undecided", 300)
    assert c.value <= math.sqrt(2) <= c.bound < 1.6
    with_slack = certify("norm", bound=math.sqrt(2), slack=1e-2)
    assert (with_slack.verdict, with_slack.slack) == ("proved", 1e-2)
    assert with_slack.bound == math.sqrt(2) + 1e-2
    assert "slack" in with_slack.method
    assert "+ 0.01" in str(with_slack)


def test_a_point_and_a_plane_are_boxes_too():
    assert certify("G7", {"beta": (1, 1), "lam": (1, 1), "cos": (0, 0)}).verdict == "proved"
    c = certify("norm", {"beta": (1, 1), "lam": (1, 1), "cos": (0, 0)}, bound=1.4142)
    assert c.verdict == "refuted"
    assert c.value == pytest.approx(math.sqrt(2), abs=1e-15)
    assert c.value <= math.sqrt(2)
    # sqrt(2) rounded down is passed by sqrt(2), which float64 could not tell
    assert certify("norm", c.box, bound=math.nextafter(math.sqrt(2), 0)).verdict == "refuted"


def test_the_rewritten_forms_are_the_claims():
    """Each pair of forms equals the polynomial that the claim means, at random points."""
    from flint import arb

    draw, limit = np.random.default_rng(0), _number(1.3)
    for beta, lam, cos in zip(draw.uniform(0, 2, 50), draw.uniform(0, 2, 50), draw.uniform(-1, 1, 50), strict=True):
        p = _Point(*(_number(float(x)) for x in (beta, lam, cos)))
        value = lambda forms: [float((f.lo + f.hi) / arb(2)) for f in forms]
        a = 1 + lam * cos
        np.testing.assert_allclose(value(_alignment_forms(p, limit)), [beta * a, 2 - beta * a], atol=1e-12)
        total, product = 2 - 2 * beta * a + beta**2 * (1 + 2 * lam * cos + lam**2), (1 - beta * a) ** 2
        for r, forms in ((1 + lam**2, _envelope_forms(p, limit)), (1.69, _norm_forms(p, limit)[1:])):
            np.testing.assert_allclose(value(forms), [r * r - total * r + product, 2 * r - total], atol=1e-12)


@st.composite
def boxes(draw):
    """Boxes in and beyond the paper's region, thin and thick, with bounds that floats and halves can be."""
    side = lambda low, high: st.tuples(*[st.floats(low, high, width=32)] * 2).map(lambda x: (min(x), max(x)))
    return {"beta": draw(side(0, 2)), "lam": draw(side(0, 2)), "cos": draw(side(-1, 1))}


@settings(max_examples=120, deadline=None, derandomize=True)
@given(claim=st.sampled_from(CLAIMS), box=boxes(), bound=st.sampled_from([1.0, 1.1, 1.5, 3.0]))
def test_sampling_never_contradicts_a_certificate(claim, box, bound):
    bound = 1.0 if claim in ("G6", "G7") else bound
    c = certify(claim, box, bound=bound, max_boxes=400)
    largest = sampled(claim, box, 2000)
    assert largest <= c.bound + 1e-7  # the textbook formula loses half the digits where s+ = s-
    assert c.value <= c.bound
    assert all(box[name][0] <= value <= box[name][1] for name, value in c.point.items())
    assert quantity(claim, *c.point.values()) == pytest.approx(c.value, abs=1e-7)
    if c.verdict == "proved":
        assert largest <= bound + 1e-7
    elif c.verdict == "refuted":
        assert c.value >= bound
        dense = np.linalg.svd(c.transition().matrix(), compute_uv=False)[0]
        if claim == "norm":
            assert dense > bound - 1e-12
    else:
        assert c.boxes == 400 or claim == "norm"


@pytest.mark.parametrize(
    ("arguments", "options", "sentence"),
    [
        (("G99",), {}, "claim is 'G99'; expected one of G6, G7, radius, norm"),
        (("G6", {"beta": (0, 1)}), {}, "box has \\['beta'\\]; expected beta, lam and cos"),
        (("G6", PAPER_BOX | {"beta": (1, 0)}), {}, "beta in \\[1, 0\\]; expected finite bounds, the lower one first"),
        (("G6", PAPER_BOX | {"lam": (0, math.nan)}), {}, "lam in \\[0, nan\\]; expected finite"),
        (("G6", PAPER_BOX | {"cos": (-2, 1)}), {}, "cos in \\[-2, 1\\]; expected bounds in \\[-1, 1\\]"),
        (("G7",), {"bound": 2.0}, "bound is 2.0; expected 1"),
        (("norm",), {"slack": -1.0}, "bound and slack are 1.0 and -1.0"),
        (("norm",), {"max_boxes": 0}, "max_boxes is 0; expected at least 1"),
    ],
)
def test_bad_input(arguments, options, sentence, as_users_call):
    with pytest.raises(ValueError, match=sentence):
        certify(*arguments, **options)


def test_a_certificate_can_be_read():
    words = str(certify("G7"))
    assert "G7 proved on beta in [0, 1], lam in [0, 1], cos in [-1, 1]" in words
    assert "Certified bound 1, 1 box looked at.\n" in words
    assert "Largest value found: 1 at beta = 0, lam = 0, cos = -1.\n" in words
    assert "Certified bound 5, 0 boxes looked at.\n" in str(certify("G6", DOUBLED_BOX))
