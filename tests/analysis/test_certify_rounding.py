"""What a certificate says is true to the last bit: bounds are rounded up, values down, and ends may be left out."""

import math
import re
from decimal import Decimal
from fractions import Fraction

import mpmath
import numpy as np
import pytest

from qdelta_analysis.certify import DOUBLED_BOX, PAPER_BOX, certify
from tests.helpers import cases

NAMES = ("beta", "lam", "cos")
EXAMPLE = {"beta": (1, 1), "lam": (0.04097352393619469,) * 2, "cos": (0, 0)}


def exact(claim: str, beta, lam, cos):
    """The bounded quantity at a point, with 80 digits, by textbook formulas."""
    with mpmath.workdps(80):
        beta, lam, cos = (mpmath.mpf(x) for x in (beta, lam, cos))
        factor = abs(1 - beta * (1 + lam * cos))
        if claim == "G6":
            return factor
        if claim == "radius":
            return max(mpmath.mpf(1), factor)
        half = 1 - beta * (1 + lam * cos) + beta**2 * (1 + 2 * lam * cos + lam**2) / 2
        norm = mpmath.sqrt(half + mpmath.sqrt(max(half**2 - factor**2, 0)))
        return norm if claim == "norm" else norm / mpmath.sqrt(1 + lam**2)


def strictly(text: str):
    """The number that a decimal is, not the float that it reads as."""
    with mpmath.workdps(80):
        return mpmath.mpf(text)


def test_a_bound_that_was_proved_is_not_below_what_is_there():
    c = certify("norm", EXAMPLE, bound=1.000839062818668, slack=1e-16)
    assert c.verdict == "proved"
    assert c.bound >= exact("norm", 1, 0.04097352393619469, 0) >= c.value
    printed = re.search(r"Certified bound (\S+),", str(c))[1]
    assert float(printed) == c.bound
    assert strictly(printed) >= exact("norm", 1, 0.04097352393619469, 0)


@pytest.mark.cases
def test_thin_boxes_against_eighty_digits():
    """Limits within a few units in the last place of what is there, in float64, in decimals, and in the verdict."""
    draw, decided = np.random.default_rng(0), 0
    for _ in range(cases(40)):
        claim = ("norm", "radius")[draw.integers(2)]
        point = draw.uniform([0, 0, -1], [2, 2, 1])
        width = draw.choice([0.0, 1e-16, 1e-13], 3)
        box = {
            n: (float(x), min(float(x + w), 1.0 if n == "cos" else 3.0))
            for n, x, w in zip(NAMES, point, width, strict=True)
        }
        corners = np.array(np.meshgrid(*box.values())).reshape(3, -1).T
        true = max(exact(claim, *map(float, corner)) for corner in corners)
        limit = float(true)
        for _ in range(draw.integers(3)):
            limit = math.nextafter(limit, draw.choice([0.0, 9.0]))
        slack = float(draw.choice([0.0, 1e-17, 1e-16, 3e-16]))
        c = certify(claim, box, bound=limit, slack=slack, max_boxes=200)
        text = str(c)
        assert c.bound >= true >= c.value
        assert strictly(re.search(r"Certified bound (\S+),", text)[1]) >= true
        assert strictly(re.search(r"Largest value found: (\S+) at", text)[1]) <= true
        decided += c.verdict != "undecided"
        with mpmath.workdps(80):
            found, allowed = exact(claim, *c.point.values()), mpmath.mpf(limit) + mpmath.mpf(slack)
            assert c.value <= found
            assert mpmath.mpf(c.excess) <= found - allowed
            if c.verdict == "proved":
                assert true <= allowed <= c.bound
            elif c.verdict == "refuted":
                assert found > allowed
                assert c.excess > 0
    assert decided > 0.9 * cases(40)


def test_refuted_means_strictly_above():
    """A value that equals the limit refutes nothing, one above it by less than any float shows does."""
    touched = {"beta": (2, 2), "lam": (0.5, 0.5), "cos": (0.5, 0.5)}  # 1 - beta a = -1.5 exactly
    assert certify("radius", touched, bound=1.5).verdict == "proved"
    point = {"beta": (1, 1), "lam": (1, 1), "cos": (0, 0)}
    c = certify("norm", point, bound=math.nextafter(math.sqrt(2), 0))
    assert (c.verdict, c.value) == ("refuted", c.limit)  # both rounded down: `excess` tells them apart
    assert 0 < c.excess < 1e-15
    assert float(re.search(r"above the limit by at least (\S+)\.\n", str(c))[1]) == c.excess


def test_what_is_printed_is_what_was_proved():
    c = certify("radius", {"beta": (0, 2), "lam": (0, 4e-7), "cos": (-1, 1)}, bound=1.000001)
    assert c.verdict == "proved"
    largest = Decimal(re.search(r"Largest value found: (\S+) at", str(c))[1])
    assert largest > 1
    assert Decimal(re.search(r"is at most (\S+)\.\n", str(c))[1]) > largest
    box = {"beta": (0.1, 1 / 3), "lam": (1e-17, 0.12345678901234567), "cos": (-1 / 7, 0.3)}
    printed = re.findall(r"in \[([^,]+), ([^\]]+)\]", str(certify("G7", box)))
    assert [tuple(map(float, pair)) for pair in printed] == list(box.values())


def test_open_ends_are_left_out_of_what_refutes():
    doubled = {"beta": "[0, 2)", "lam": "(0, 2)", "cos": "(-1, 1)"}
    c = certify("G6", doubled)
    assert c.verdict == "refuted"
    assert all(low < c.point[name] < high for name, (low, high) in zip(NAMES, [(0, 2), (0, 2), (-1, 1)], strict=True))
    assert c.box == doubled
    assert certify("G6", c.box) == c
    assert str(c).startswith("G6 refuted on beta in [0, 2), lam in (0, 2), cos in (-1, 1)")
    # What is reached at an excluded end alone bounds the rest: 5 is not passed, and nothing less holds.
    assert certify("radius", doubled, bound=5.0).verdict == "proved"
    assert certify("radius", doubled, bound=4.999).verdict == "refuted"


def test_an_end_that_alone_refutes_does_not_when_it_is_left_out():
    """2 (1 + lam) - 1 is 3 at lam = 1 and 3 - 2^-52 one float before; the limit lies between."""
    near, box = math.nextafter(1, 0), {"beta": (2, 2), "cos": (1, 1)}
    limit = {"bound": math.nextafter(3, 0), "slack": 3e-16}
    assert certify("radius", box | {"lam": (near, 1)}, **limit).verdict == "refuted"
    left_out = certify("radius", box | {"lam": f"[{near!r}, 1)"}, max_boxes=50, **limit)
    assert left_out.verdict == "undecided"  # real numbers there refute it, no float does
    assert left_out.point["lam"] == near


def test_brackets_that_close_are_tuples():
    c = certify("G7", {"beta": "[0, 1]", "lam": " [ 0 , 1 ] ", "cos": (-1, 1)})
    assert c == certify("G7", PAPER_BOX)


def test_time_runs_out_with_what_was_reached():
    c = certify("norm", bound=math.sqrt(2), time_limit=0.0)
    assert (c.verdict, c.stopped, c.boxes) == ("undecided", "time", 0)
    assert c.value <= math.sqrt(2) <= c.bound < math.inf
    assert "Stopped: the time ran out.\n" in str(c)
    assert certify("norm", bound=1.42, time_limit=600.0).stopped == ""
    assert certify("norm", bound=math.sqrt(2), max_boxes=3).stopped == "boxes"
    # A corner that refutes needs no time.
    assert certify("G6", DOUBLED_BOX, time_limit=0.0).verdict == "refuted"


@pytest.mark.parametrize(
    ("change", "options", "sentence"),
    [
        ({"beta": "0, 1"}, {}, "beta in '0, 1'; expected \\(low, high\\), or a string such as"),
        ({"beta": "(0, x)"}, {}, "beta in \\(0.0, nan\\); expected finite bounds"),
        ({"lam": "(1, 1]"}, {}, "lam in \\(1.0, 1.0\\]; expected an interval that some float lies in"),
        ({"lam": "(1, 1.0000000000000002)"}, {}, "expected an interval that some float lies in"),
        ({"cos": "[-1.5, 1)"}, {}, "cos in \\[-1.5, 1.0\\); expected bounds in \\[-1, 1\\]"),
        ({"lam": (Fraction(1, 3), 1)}, {}, "the lower end of lam is Fraction\\(1, 3\\), which no float64 is"),
        ({}, {"bound": Fraction(4, 3)}, "bound is Fraction\\(4, 3\\), which no float64 is"),
        ({}, {"time_limit": -1.0}, "time_limit is -1.0; expected a number of seconds, at least 0"),
        ({}, {"time_limit": math.nan}, "time_limit is nan"),
    ],
)
@pytest.mark.usefixtures("as_users_call")
def test_bad_boxes(change, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        certify("norm", PAPER_BOX | change, **options)
