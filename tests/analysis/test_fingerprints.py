"""What tells one drawing from another: numbers as numbers, words as words, on every processor."""

import base64
import json

import numpy as np
import plotly.graph_objects as go
import pytest

from qdelta_analysis import gallery
from qdelta_analysis.fingerprints import data_hash, differences, fingerprint, same_text

# The shape checker would take longer than what it checks: a figure has a thousand parts.
pytestmark = pytest.mark.usefixtures("as_users_call")
FOLDER = gallery.figures_folder()
RECIPES = gallery.recipes(FOLDER)


def scaled(x, factor):
    """The same nested lists, arrays and dicts, every inexact number times a factor; what may end at 1 stays below."""
    if isinstance(x, dict):
        return {key: scaled(value, factor) for key, value in x.items()}
    if isinstance(x, list | tuple):
        return [scaled(value, factor) for value in x]
    if isinstance(x, np.ndarray) and x.dtype.kind == "f":
        return x.astype(np.float64) * factor
    if not isinstance(x, float):
        return x
    return min(x * factor, 1.0) if 0 <= x <= 1 else x * factor


def of(trace, **layout):
    return fingerprint(go.Figure(trace, layout))


def through_json(found):
    return json.loads(json.dumps(found, allow_nan=False))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_a_shipped_figure_forgives_rounding_everywhere_and_no_change_of_any_trace(recipe):
    figure, _ = recipe.draw()
    recorded = json.loads((FOLDER / f"{recipe.name}.json").read_text())["drawing"]
    layout = figure.layout.to_plotly_json()
    template = layout.pop("template")
    for factor in (1 + 1e-9, 1 - 1e-9):
        traces = [scaled(trace.to_plotly_json(), factor) for trace in figure.data]
        rounded = go.Figure(traces, {**scaled(layout, factor), "template": template})
        assert differences(recorded, through_json(fingerprint(rounded))) == []
    for i, trace in enumerate(figure.data):
        values = {key: np.asarray(value) for key, value in trace.to_plotly_json().items() if key in "xyz"}
        numbers = [key for key, array in values.items() if array.dtype.kind in "fiu" and array.any()]
        key = numbers[i % len(numbers)]
        trace[key] = values[key] * 1.01
        found = differences(recorded, fingerprint(figure))
        trace[key] = values[key]
        assert found, (i, key)
        assert all(name.startswith(f"data[{i}].{key}") for name in found), found


@pytest.mark.parametrize("n", [1, 5, 9, 64, 65, 1000, 4096])
def test_one_number_among_many_is_noticed(n):
    rng = np.random.default_rng(n)
    y = rng.normal(size=n)
    noise = 1e-9 * rng.normal(size=n)
    assert differences(of(go.Scatter(y=y)), of(go.Scatter(y=y * (1 + noise)))) == []
    assert differences(of(go.Scatter(y=y)), of(go.Scatter(y=y + noise))) == []
    at = int(np.abs(y).argmax())
    y[at] *= 1.01
    assert differences(of(go.Scatter(y=rng.permutation(y))), of(go.Scatter(y=y))) or n == 1
    original = y.copy()
    original[at] /= 1.01
    name = f"data[0].y[{at}]" if n <= 8 else "data[0].y"
    assert differences(of(go.Scatter(y=original)), of(go.Scatter(y=y))) == [name]


def test_numbers_near_zero_are_rounding_unless_their_axis_is_logarithmic():
    y = np.array([1.0, 1e-17, 2.0, -3e-16, 0.0, 1e-9])
    other = np.array([1.0, 7e-17, 2.0, 5e-16, -0.0, 2e-9])
    for repeat in (1, 40):
        a, b = (go.Scatter(y=np.tile(values, repeat)) for values in (y, other))
        assert differences(of(a), of(b)) == []
    powers = 10.0 ** -np.arange(12)
    moved = powers * np.where(np.arange(12) == 9, 1.01, 1)
    a, b = (go.Scatter(y=values, yaxis="y2") for values in (powers, moved))
    assert differences(of(a), of(b)) == []
    log = {"yaxis2": {"type": "log"}}
    assert differences(of(a, **log), of(b, **log)) == ["data[0].y"]


FORMS = {
    "customdata": lambda x: go.Scatter(y=[0] * 30, customdata=np.stack([x, 100 * x], axis=1)),
    "nested lists": lambda x: go.Heatmap(z=np.reshape(x, (5, 6)).tolist()),
    "rows of several lengths": lambda x: go.Scatter(y=[1], customdata=[x[:4].tolist(), x[4:].tolist()]),
    "gaps": lambda x: go.Scatter(y=[None if i == 7 else float(y) for i, y in enumerate(x)]),
    "NaN": lambda x: go.Scatter(y=np.where(np.arange(30) == 7, np.nan, x)),
    "error bars": lambda x: go.Scatter(y=[0] * 30, error_y={"array": x}),
    "sizes": lambda x: go.Scatter(y=[0] * 30, marker={"size": np.abs(x)}),
    "many texts": lambda x: go.Scatter(y=[0] * 30, text=[f"token {i}: {float(y)!r}" for i, y in enumerate(x)]),
    "few texts": lambda x: go.Scatter(y=[0] * 5, mode="text", text=[f"‖A‖ = {y:.6g}!" for y in x[:5]]),
    "small texts": lambda x: go.Scatter(y=[0] * 5, mode="text", text=[f"p = {y * 1e-5:.4e}" for y in x[:5]]),
    "numbers that are texts": lambda x: go.Scatter(y=[0] * 30, x=[f"{y:.17g}" for y in x]),
    "pairs of text and number": lambda x: go.Scatter(y=[1], customdata=[["a", float(y)] for y in x]),
    "many traces": lambda x: [go.Scatter(y=[y, 2 * y]) for y in x],
    "integers": lambda x: go.Scatter(y=np.round(1e12 * x).astype(int)),
    "float32": lambda x: go.Scatter(y=x.astype(np.float32)),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("through", [lambda x: x, lambda x: go.Figure(json.loads(x.to_json()))], ids=["", "JSON"])
def test_numbers_are_numbers_in_every_form(form, through):
    x = np.random.default_rng(0).uniform(0.5, 2, 30)
    found = lambda values: through_json(fingerprint(through(go.Figure(form(values)))))
    assert differences(found(x), found(x * (1 + 1e-9))) == []
    assert differences(found(x), found(x * (1 - 1e-9))) == []
    assert differences(found(x), found(x * 1.01))
    assert differences(found(x), found(x * np.where(np.arange(30) == 2, 1.01, 1)))
    assert differences(found(x), found(x[::-1]))
    assert differences(fingerprint(go.Figure(form(x))), found(x)) == []


def test_plotly_s_base64_is_what_it_stands_for():
    z = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    code = {"dtype": "f4", "bdata": base64.b64encode(z.tobytes()).decode(), "shape": "5, 7"}
    figures = [go.Figure({"data": [{"type": "heatmap", "z": values}]}) for values in (z, code, z.tolist())]
    assert all(differences(fingerprint(figures[0]), fingerprint(other)) == [] for other in figures)
    assert len({data_hash(figure) for figure in figures}) == 1


def test_layouts_annotations_ticks_and_dates():
    layout = lambda x, day="2026-11-23": {
        "annotations": [{"text": f"mean {x:.12g}", "x": x} for _ in range(12)],
        "shapes": [{"type": "line", "x0": x, "y0": 0} for _ in range(12)],
        "xaxis": {"tickvals": [x] * 20, "ticktext": [f"{x:.5f}"] * 20, "range": [0, x]},
        "meta": day,
    }
    of_layout = lambda *x: fingerprint(go.Figure(go.Scatter(x=["2026-11-23", x[1]], y=[1, 2]), layout(*x)))
    usual = of_layout(0.123456789, "2026-11-24")
    assert differences(usual, of_layout(0.123456789 * (1 + 1e-9), "2026-11-24")) == []
    changed = differences(usual, of_layout(0.123456789 * 1.01, "2026-11-25"))
    parts = (
        "annotations[0].text",
        "annotations[11].x",
        "shapes[3].x0",
        "xaxis.ticktext",
        "xaxis.tickvals",
        "xaxis.range[1]",
    )
    assert {f"layout.{part}" for part in parts} <= set(changed)
    assert "data[0].x[1]" in changed
    dates = lambda year: of(go.Scatter(y=np.arange(20), x=np.arange(f"{year}-01-01", f"{year}-01-21", dtype="M8[D]")))
    assert differences(dates(2026), dates(2026)) == []
    assert differences(dates(2026), dates(2027))


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("‖A‖ = 1.0023", "‖A‖ = 1.0024", True),  # the last digit
        ("‖A‖ = 1.0023", "‖A‖ = 1.0123", False),
        ("0.1", "0.2", False),  # a last digit that says much
        ("p = 1.234e-5", "p = 1.2339e-05", True),
        ("p = 1.234e-5", "p = 1.246e-5", False),
        ("λ = −0.0000", "λ = 0.0000", True),
        ("rounding: 2.2e-16", "rounding: 4.4e-16", True),
        ("1", "0.99999999", True),
        ("token 512", "token 513", False),
        ("1,024 tokens", "1,025 tokens", False),
        ("2026-11-23", "2026-11-24", False),
        ("#1e5000", "#1e5001", False),
        ("version 2.13.0", "version 2.14.0", False),
        ("10<sup>−3</sup>", "10<sup>−4</sup>", False),
        ("A = 1.5", "B = 1.5", False),
        ("1.5 of 2", "1.5 of", False),
        ("0.12345678901234567890", "0.12345678901234567891", True),
    ],
)
def test_texts_have_the_same_words_and_numbers(a, b, same):
    assert same_text(a, b) is same
    assert same_text(b, a) is same
