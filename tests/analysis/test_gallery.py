"""The gallery: what was built matches its recipes, is fit for print, and a change is noticed."""

import ast
import dataclasses
import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest
from plotly.colors import hex_to_rgb, unconvert_from_RGB_255
from typer.testing import CliRunner

from qdelta_analysis import gallery, rendering
from qdelta_analysis.cli import app
from qdelta_analysis.fingerprints import differences, fingerprint
from qdelta_analysis.plots.memory import mean_by_distance
from qdelta_analysis.plots.printing import SMALLEST
from qdelta_analysis.plots.theme import DIVERGING, SEQUENTIAL

from .test_export import needs_chrome, page_size, smallest_text

FOLDER = Path(__file__).resolve().parents[2] / "figures"
NOTEBOOKS = FOLDER.parent / "notebooks"
RECIPES = gallery.recipes(FOLDER)

RECIPE = """
import plotly.graph_objects as go
VENUE, HEIGHT, CAPTION = "icml-column", 2.0, "Two points."
def draw():
    return go.Figure(go.Scatter(x=[0, 1], y=[0, 2])), {"seed": 0}
"""


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_a_figure_matches_its_recipe(recipe):
    assert gallery.check(FOLDER, recipe) == []


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_a_notebook_shows_it_by_the_same_function(recipe):
    tree = ast.parse((FOLDER / "recipes" / f"{recipe.name}.py").read_text())
    imports = [x for x in tree.body if isinstance(x, ast.ImportFrom) and x.module.startswith("qdelta_analysis.plots")]
    (function,) = (alias.name for x in imports for alias in x.names)
    # The explorer's widget draws it live, and exports it by this function.
    shown = {"explorer_figure": "Explorer()"}.get(function, f"{function}(")
    cells = [c for path in NOTEBOOKS.glob("*.ipynb") for c in json.loads(path.read_text())["cells"]]
    assert any(shown in "".join(c["source"]) for c in cells if c["cell_type"] == "code"), function


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_a_figure_is_fit_for_print(recipe):
    assert smallest_text(FOLDER / f"{recipe.name}.svg") >= SMALLEST
    width, height = json.loads((FOLDER / f"{recipe.name}.json").read_text())["size_in"]
    np.testing.assert_allclose(page_size(FOLDER / f"{recipe.name}.pdf"), (width, height), atol=0.01)


def lightness(color: str) -> float:
    """How light a colour is in greyscale, from 0 to 255."""
    return float(np.array(unconvert_from_RGB_255(hex_to_rgb(color))) @ [0.299, 0.587, 0.114]) * 255


def look(trace) -> tuple:
    """What tells a trace from others without colour: its dash and its symbol."""
    if trace.type == "bar":
        return ("bar",)
    lines, markers = ("lines" in (trace.mode or "lines")), ("markers" in (trace.mode or ""))
    symbol = trace.marker.symbol
    return (
        lines and (trace.line.dash or "solid"),
        markers and (tuple(symbol) if isinstance(symbol, list | tuple) else symbol or "circle"),
    )


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_what_a_legend_names_is_told_apart_in_greyscale(recipe):
    figure, _ = recipe.draw()
    named = [t for t in figure.data if t.type in ("scatter", "bar") and t.name and t.showlegend is not False]
    for a, b in itertools.combinations(named, 2):
        if a.legend == b.legend and look(a) == look(b):
            lines = a.type == "scatter" and "markers" not in (a.mode or "")
            shades = [lightness(t.line.color if lines else t.marker.color) for t in (a, b)]
            assert abs(shades[0] - shades[1]) > 25, (a.name, b.name)


def test_colours_of_maps_keep_their_order_in_greyscale():
    shades = np.array([lightness(color) for _, color in SEQUENTIAL])
    assert (np.diff(shades) > 5).all()
    shades = np.array([lightness(color) for color in DIVERGING])
    middle = len(shades) // 2
    assert (np.diff(shades[: middle + 1]) > 0).all()
    assert (np.diff(shades[middle:]) < 0).all()


def test_the_gallery_shows_all_of_them_and_is_small():
    assert gallery.check_page(FOLDER) == []
    built = [path for path in FOLDER.iterdir() if path.suffix in {".pdf", ".svg", ".png", ".json"}]
    assert {path.stem for path in built} == {recipe.name for recipe in RECIPES}
    assert sum(path.stat().st_size for path in built) < 2_500_000  # a heat map at 300 dots an inch takes 100 to 350 kB


@needs_chrome
def test_a_change_is_noticed_from_the_terminal(tmp_path):
    (tmp_path / "recipes").mkdir()
    recipe = tmp_path / "recipes" / "mine.py"
    recipe.write_text(RECIPE)

    def figures(*arguments):
        command = [Path(sys.executable).parent / "qdelta", "figures", "--folder", tmp_path, *arguments]
        run = subprocess.run(command, capture_output=True, text=True, timeout=240)
        return run.returncode, run.stdout + run.stderr

    assert figures("--check") == (1, "mine: no longer matches: it has not been built\n" + WRONG_PAGE)
    status, said = figures()
    assert (status, "mine.pdf" in said, "README.md" in said) == (0, True, True), said
    assert figures("--check") == (0, "mine: matches\n")
    recipe.write_text(RECIPE.replace("y=[0, 2]", "y=[0, 2.001]").replace('"seed": 0', '"seed": 1'))
    assert figures("--check") == (
        1,
        "mine: no longer matches: parameters were {'seed': 0} and are {'seed': 1}; data[0].y[1] is another\n",
    )
    recipe.write_text(RECIPE.replace("Two points", "2 points"))
    (tmp_path / "mine.png").unlink()
    (tmp_path / "mine.svg").write_text("edited")
    status, said = figures("--check")
    assert status == 1
    assert "mine.svg is not the file that was built; mine.png is missing" in said
    assert said.endswith(WRONG_PAGE)
    assert figures("yours") == (2, "qdelta: name is 'yours'; expected one of mine.\n")
    recipe.write_text("draw = None\n")
    status, said = figures()
    assert status == 2
    assert "mine.py is no recipe" in said
    shutil.rmtree(tmp_path / "recipes")
    assert figures()[0] == 2


def damaged(text: str) -> list[str]:
    """A sidecar cut short, of another kind, or with a part missing or of another kind."""
    whole = json.loads(text)
    found = ["", text[: len(text) // 2], "[]", "null", "3", '"text"', "{}", text.replace('"', "", 1)]
    for key in ("parameters", "venue", "size_in", "drawing", "files"):
        found += [json.dumps({**whole, key: other}) for other in (None, 3, "text", [])]
        found.append(json.dumps({name: x for name, x in whole.items() if name != key}))
    numbers = next(name for name, x in whole["drawing"].items() if isinstance(x, dict))
    for part in whole["drawing"][numbers]:
        for other in (None, "text", [1, [2]]):
            found.append(
                json.dumps(whole | {"drawing": whole["drawing"] | {numbers: whole["drawing"][numbers] | {part: other}}})
            )
    return found


def test_a_damaged_sidecar_or_recipe_is_said_and_is_no_traceback(tmp_path, as_users_call):
    (recipe,) = gallery.recipes(FOLDER, ["01_norm_against_lam"])
    sidecar = tmp_path / f"{recipe.name}.json"
    shutil.copytree(FOLDER, tmp_path, dirs_exist_ok=True)
    text = sidecar.read_text()
    assert gallery.check(tmp_path, recipe) == []
    for broken in damaged(text):
        sidecar.write_text(broken)
        wrong = gallery.check(tmp_path, recipe)
        assert wrong, broken[:80]
        assert all("\n" not in sentence for sentence in wrong)
    sidecar.write_bytes(b"\xff\xfe\x00")
    assert gallery.check(tmp_path, recipe) == [f"{sidecar} is damaged; expected a sidecar as `export` writes it"]
    sidecar.write_text(text)
    fails = dataclasses.replace(recipe, draw=lambda: 1 / 0)
    assert gallery.check(tmp_path, fails) == ["its recipe fails with ZeroDivisionError: division by zero"]


DRAWS = '    return go.Figure(go.Scatter(x=[0, 1], y=[0, 2])), {"seed": 0}'
# What comes before draw() or instead of its body, and what is said of it.
UNREAD = {
    "def (": "SyntaxError: ",
    "raise KeyError('x')": "KeyError: 'x'",
    "assert False": "AssertionError;",
    "import sys; sys.exit()": "SystemExit;",
    "import no_such_module": "ModuleNotFoundError: No module named 'no_such_module'",
    "raise ValueError('two\\nlines')": "ValueError: two lines",
    "CAPTION = 3": "AttributeError: 'int' object has no attribute 'split'",
}
UNDRAWN = {
    "return None, {}": "TypeError: draw() returned (NoneType, dict); expected a go.Figure and a dict",
    "return go.Figure()": "TypeError: draw() returned Figure; expected a go.Figure and a dict",
    "return go.Figure(), {}, 3": "TypeError: draw() returned (Figure, dict, int); expected a go.Figure and a dict",
    "return": "TypeError: draw() returned NoneType; expected a go.Figure and a dict",
    "return {}['x'], {}": "KeyError: 'x'",
    "return 1 / 0, {}": "ZeroDivisionError: division by zero",
    "assert False": "AssertionError",
    "raise SystemExit": "SystemExit",
    "raise RuntimeError('two\\nlines')": "RuntimeError: two lines",
}


@pytest.fixture
def figures(tmp_path, monkeypatch, as_users_call):
    """Call `qdelta figures` on the recipes a, of the given text, and b; all but the browser runs."""

    def export(figure, name, *_, **__):
        gallery.provenance(figure, __["parameters"])
        return (name.with_suffix(".pdf"),)

    def call(text: str, *arguments: str) -> tuple[int, list[str], str]:
        (tmp_path / "recipes").mkdir(exist_ok=True)
        (tmp_path / "recipes" / "a.py").write_text(text)
        (tmp_path / "recipes" / "b.py").write_text(RECIPE)
        run = CliRunner().invoke(app, ["figures", "--folder", str(tmp_path), *arguments])
        assert run.exception is None or isinstance(run.exception, SystemExit), run.exception
        return run.exit_code, run.stdout.splitlines(), run.stderr

    monkeypatch.setattr(gallery, "export", export)
    monkeypatch.setattr(rendering, "find_browser", lambda: "chromium")
    return call


@pytest.mark.parametrize(("line", "reason"), UNREAD.items())
def test_a_file_that_is_no_recipe_is_said_and_the_next_is_done(line, reason, figures, tmp_path):
    text = RECIPE.replace("\ndef draw", f"\n{line}\ndef draw")
    path, readme = tmp_path / "recipes" / "a.py", tmp_path / "README.md"
    for arguments, done in (((), f"wrote {tmp_path / 'b.pdf'}"), (("--check",), "b: no longer matches: it has not")):
        status, lines, wrong = figures(text, *arguments)
        assert status == 2
        assert len(lines) == 1
        assert lines[0].startswith(done)
        assert f"qdelta: {path} is no recipe: {reason}" in wrong
        assert f"qdelta: {readme} was not looked at, as not every recipe can be read.\n" in wrong
        assert wrong.count("\n") == 2
    assert not readme.exists()
    with pytest.raises(ValueError, match=r"a.py is no recipe: .*; expected VENUE, HEIGHT, CAPTION and draw\(\)\."):
        gallery.recipes(tmp_path)


@pytest.mark.parametrize(("line", "reason"), UNDRAWN.items())
def test_a_recipe_that_fails_is_said_and_the_next_is_done(line, reason, figures, tmp_path):
    text = RECIPE.replace(DRAWS, f"    {line}")
    (tmp_path / "a.json").write_text("{}")
    status, lines, wrong = figures(text, "--check")
    assert (status, wrong) == (1, "")
    assert lines[0] == f"a: no longer matches: its recipe fails with {reason}"
    assert lines[1].startswith("b: no longer matches: it has not been built")
    status, lines, wrong = figures(text)
    assert status == 2
    assert lines == [f"wrote {tmp_path / 'b.pdf'}", f"wrote {tmp_path / 'README.md'}"]
    assert wrong == f"qdelta: {tmp_path / 'recipes' / 'a.py'}: draw() fails with {reason}.\n"


def test_parameters_that_json_cannot_hold_are_said_and_the_next_is_done(figures, tmp_path):
    text = RECIPE.replace('"seed": 0', '"seed": object()')
    (tmp_path / "a.json").write_text("{}")
    status, lines, wrong = figures(text, "--check")
    assert (status, len(lines), wrong) == (1, 3, "")
    assert "a: no longer matches: its recipe fails with TypeError: a parameter is a object; expected" in lines[0]
    status, lines, wrong = figures(text)
    assert (status, len(lines)) == (2, 2)
    assert wrong.startswith(f"qdelta: {tmp_path / 'recipes' / 'a.py'}: a parameter is a object; expected")


@pytest.mark.parametrize("place", ["\ndef draw", DRAWS])
@pytest.mark.parametrize("arguments", [(), ("--check",)])
def test_ctrl_c_in_a_recipe_ends_it(place, arguments, figures, tmp_path):
    (tmp_path / "a.json").write_text("{}")
    indent = "    " * place.startswith(" ")
    status, lines, _ = figures(RECIPE.replace(place, f"\n{indent}raise KeyboardInterrupt\n{place}"), *arguments)
    assert status in (1, 130)
    assert lines == []


def test_without_a_browser_that_is_said_once(figures, monkeypatch):
    def none():
        raise RuntimeError("no Chrome could be started")

    monkeypatch.setattr(rendering, "find_browser", none)
    assert figures(RECIPE) == (2, [], "qdelta: no Chrome could be started\n")
    assert figures(RECIPE, "--check")[0] == 1  # it needs none


WRONG_PAGE = "README.md does not show the recipes' captions\n"


def test_fingerprints_forgive_rounding_and_nothing_else():
    y = np.random.default_rng(0).normal(size=50)
    print_of = lambda values, **style: fingerprint(go.Figure(go.Scatter(y=values, **style)))
    assert differences(print_of(y), print_of(y * (1 + 1e-9))) == []
    assert differences(print_of(y), print_of(y[::-1])) == ["data[0].y"]  # another order
    screen = go.Figure(go.Scatter(y=y), {"width": 500, "height": 300, "margin": {"l": 60}, "title": {"text": "a"}})
    assert differences(print_of(y), fingerprint(screen)) == []  # a venue has its own
    assert differences(print_of(y), fingerprint(screen.update_layout(bargap=0.1)))
    moved = y.copy()
    moved[17] += 0.01
    assert differences(print_of(y), print_of(moved)) == ["data[0].y"]
    assert differences(print_of(y), print_of(y, name="other")) == ["data[0].name"]
    with_gap = np.where(np.arange(50) == 3, np.nan, y)
    assert differences(print_of(y), print_of(with_gap)) == ["data[0].y"]


def test_mean_by_distance_is_the_mean_over_diagonals():
    M = np.tril(np.random.default_rng(0).normal(size=(12, 12)))
    distance, mean = mean_by_distance(M)
    assert distance[0] == 1
    assert mean[0] == pytest.approx(np.abs(np.diagonal(M, -1)).mean())
    assert len(distance) == len(mean)
    assert np.isfinite(mean).all()
