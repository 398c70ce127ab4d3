"""A figure under sliders: what it draws when they move, and what its button exports."""

import json
import re

import numpy as np
import plotly.graph_objects as go
import pytest

from qdelta_analysis.fingerprints import differences, fingerprint
from qdelta_analysis.widgets import Slides

from .test_export import needs_chrome


def powers(exponent, shifted):
    x = np.linspace(0, 1, 5)
    return go.Figure(go.Scatter(x=x, y=x**exponent + shifted))


def test_it_draws_what_the_sliders_say():
    slides = Slides(powers, exponent=(1, 3, 0.5, 2), shifted=False)
    assert slides.values == {"exponent": 2, "shifted": False}
    slides.sliders["exponent"].value = 3
    slides.sliders["shifted"].value = True
    np.testing.assert_allclose(slides.figure.figure.data[0].y, np.linspace(0, 1, 5) ** 3 + 1)


@needs_chrome
def test_its_button_exports_what_is_drawn(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    slides = Slides(powers, exponent=(1, 3, 0.5, 2), shifted=False)
    slides.sliders["exponent"].value = 2.5
    slides.children[-1].children[0].click()
    assert {path.name for path in tmp_path.iterdir()} == {f"powers-1.{kind}" for kind in ("pdf", "svg", "png", "json")}
    sidecar = json.loads((tmp_path / "powers-1.json").read_text())
    assert sidecar["parameters"] == {"exponent": 2.5, "shifted": False}
    drawn = lambda exponent: json.loads(json.dumps(fingerprint(powers(exponent, shifted=False))))
    assert differences(sidecar["drawing"], drawn(2.5)) == []
    assert differences(sidecar["drawing"], drawn(2.45)) != []


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ((0, 1, 0.1, 5), "expected low < high, a step above 0, and a start from low to high"),
        ((0, 1, 0, 0.5), "a step above 0"),
        ((1, 0, 0.1, 0.5), "expected low < high"),
        ((1, 1, 0.1, 1), "expected low < high"),
        ((0, 1, 0.1, float("nan")), r"expected \(low, high, step, start\) in finite numbers, or True or False"),
        ((0, 1, 0.1), r"expected \(low, high, step, start\)"),
        ((0, 1, 0.1, "1"), r"expected \(low, high, step, start\)"),
        (None, r"expected \(low, high, step, start\)"),
    ],
)
def test_what_is_no_slider_is_refused(given, sentence, as_users_call):
    with pytest.raises(ValueError, match=rf"exponent is {re.escape(repr(given))}; .*{sentence}"):
        Slides(powers, exponent=given, shifted=False)


def test_numbers_of_numpy_are_numbers(as_users_call):
    slides = Slides(powers, exponent=np.array([1, 3, 0.5, 2]), shifted=np.True_)
    assert slides.values == {"exponent": 2.0, "shifted": True}
