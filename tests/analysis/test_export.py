"""Figures for papers: what is in the files that were written, and what happens where they cannot be."""

import datetime
import errno
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
import torch
from PIL import Image

import qdelta_analysis.export as export_module
from qdelta_analysis import Transition, provenance, rendering
from qdelta_analysis.export import VENUES, export
from qdelta_analysis.fingerprints import data_hash
from qdelta_analysis.plots import norm_against_lam
from qdelta_analysis.plots.printing import SMALL, SMALLEST, for_print
from qdelta_analysis.plots.theme import template
from qdelta_analysis.printed import check_texts, parts_of

try:
    rendering.find_browser()
    CHROME = True
except RuntimeError:
    CHROME = False


def needs_chrome(test):
    """Mark a test that draws with a browser; skip it where there is none."""
    missing = not CHROME and not os.environ.get("CI")
    return pytest.mark.browser(pytest.mark.skipif(missing, reason="there is no Chrome on this machine")(test))


PARAMETERS = {"lam": np.linspace(0, 2, 3), "beta": 0.8, "seed": np.int64(3)}


def lines() -> go.Figure:
    lam = np.linspace(0, 2, 41)
    unit = lambda *x: np.tile(x, (41, 1))
    return norm_against_lam(Transition(unit(1.0, 0.0), unit(0.6, 0.8), 0.8, lam, 1.0)).update_layout(title="no title")


def heat_map(n: int = 8) -> go.Figure:
    z = np.random.default_rng(0).normal(size=(n, n))
    return go.Figure(go.Heatmap(z=z, colorscale="RdBu")).update_layout(template=template(), width=300, height=300)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("written")
    export(lines(), folder / "lines", "icml-column", parameters=PARAMETERS)
    return folder


def poppler(program: str, *arguments) -> str:
    if shutil.which(program) is None and not os.environ.get("CI"):
        pytest.skip(f"{program} is not on this machine")
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=True).stdout


def page_size(pdf: Path) -> list[float]:
    return [float(x) / 72 for x in re.search(r"Page size: +([\d.]+) x ([\d.]+) pts", poppler("pdfinfo", pdf)).groups()]


@needs_chrome
@pytest.mark.parametrize("venue", [*VENUES, (2.5, 4.0)], ids=str)
def test_every_file_has_the_venue_s_size(venue, tmp_path):
    paths = export(lines(), tmp_path / "figure", venue)
    assert [path.name for path in paths] == ["figure.pdf", "figure.svg", "figure.png", "figure.json"]
    width, height = json.loads(paths[-1].read_text())["size_in"]
    assert width == (VENUES[venue] if isinstance(venue, str) else venue[0])
    np.testing.assert_allclose(page_size(paths[0]), (width, height), atol=0.01)
    svg = ET.parse(paths[1]).getroot()
    assert (svg.get("width"), svg.get("height")) == (f"{width:g}in", f"{height:g}in")
    with Image.open(paths[2]) as image:
        np.testing.assert_allclose(image.size, (300 * width, 300 * height), atol=1)
        np.testing.assert_allclose(image.info["dpi"], 300, atol=0.01)
    assert "Pages:           1" in poppler("pdfinfo", paths[0])


@needs_chrome
def test_fonts_are_embedded_and_none_is_of_type_3(written):
    rows = poppler("pdffonts", written / "lines.pdf").splitlines()[2:]
    assert len(rows) >= 1
    for row in rows:
        assert "Type 3" not in row
        assert re.search(r" yes +(yes|no) +(yes|no) +\d+ +\d+$", row), row
    fonts = json.loads((written / "lines.json").read_text())["fonts"]
    assert {row.split()[0].split("+")[1] for row in rows} == set(fonts)


@needs_chrome
def test_text_is_text_lines_are_vectors_and_there_is_no_title(written):
    svg = ET.parse(written / "lines.svg").getroot()
    texts = ["".join(text.itertext()) for text in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert {"query feedback λ", "ρ(A)", "α(1 − βa)"} <= set(texts)
    assert not any("no title" in text for text in texts)
    paths = [path.get("class") for path in svg.iter("{http://www.w3.org/2000/svg}path")]
    assert paths.count("js-line") == 2 * 4  # in the panel and in the legend
    assert not list(svg.iter("{http://www.w3.org/2000/svg}image"))
    assert "query feedback" in poppler("pdftotext", written / "lines.pdf", "-")
    assert len(poppler("pdfimages", "-list", written / "lines.pdf").splitlines()) == 2  # the table's head


@needs_chrome
def test_no_text_is_too_small_for_print(written):
    assert smallest_text(written / "lines.svg") >= SMALLEST


def smallest_text(svg: Path) -> float:
    """The smallest text of a file, in points; subscripts have a size relative to what they stand in."""
    sizes = []

    def walk(element, size):
        style = element.get("style") or ""
        if found := re.search(r"font-size: ?([\d.]+)(px|%)", style):
            size = float(found[1]) if found[2] == "px" else size * float(found[1]) / 100
        if element.tag.endswith(("}text", "}tspan")) and (element.text or "").strip("\u200b "):
            sizes.append(size * 72 / 96)
        for child in element:
            walk(child, size)

    walk(ET.parse(svg).getroot(), float("nan"))
    assert sizes
    assert np.isfinite(sizes).all()
    return min(sizes)


@needs_chrome
def test_the_sidecar_and_the_files_say_what_they_were_made_from(written):
    sidecar = json.loads((written / "lines.json").read_text())
    assert sidecar["parameters"] == {"lam": [0.0, 1.0, 2.0], "beta": 0.8, "seed": 3}
    assert {"python", "qdelta", "torch", "plotly", "kaleido"} <= set(sidecar["versions"])
    assert re.fullmatch(r"[0-9a-f]{40}(\+changes)?", sidecar["commit"] or provenance.commit() or "0" * 40)
    assert sidecar["data_sha256"] == data_hash(lines())
    inside = {key: value for key, value in sidecar.items() if key not in ("drawing", "files")}
    from pypdf import PdfReader

    assert json.loads(PdfReader(written / "lines.pdf").metadata["/Subject"]) == inside
    metadata = ET.parse(written / "lines.svg").getroot().find("{http://www.w3.org/2000/svg}metadata")
    assert json.loads(metadata.text) == inside
    with Image.open(written / "lines.png") as image:
        assert json.loads(image.info["Description"]) == inside


@needs_chrome
@pytest.mark.parametrize("figure", [lines, heat_map])
def test_the_same_figure_gives_the_same_bytes_and_stays_as_it_was(figure, tmp_path):
    drawn = figure()
    before = drawn.to_json()
    first = export(drawn, tmp_path / "first")
    assert drawn.to_json() == before
    second = export(figure(), tmp_path / "second")
    for a, b in zip(first[:-1], second[:-1], strict=True):
        assert a.read_bytes() == b.read_bytes(), a.suffix
    digests = [list(json.loads(paths[-1].read_text())["files"].values()) for paths in (first, second)]
    assert digests[0] == digests[1]


def test_bars_have_no_size_and_no_line_stays_none():
    bars = go.Bar(x=[1, 2], y=["a", "b"], orientation="h", marker={"color": "red", "line": {"width": 0.5}})
    band = go.Scatter(x=[0, 1], y=[0, 1], fill="tozeroy", line={"width": 0})
    spread = go.Scatter(x=[0, 1], y=[1, 0], line={"width": 1}, error_y={"array": [1, 2], "thickness": 2})
    printed = for_print(go.Figure([bars, band, spread]))
    assert printed.data[2].error_y.thickness == 1.4
    assert printed.data[0].marker.to_plotly_json() == bars.marker.to_plotly_json()
    assert [line.line.width for line in printed.data[1:]] == [0, 0.75]


def test_lines_on_a_heat_map_lie_on_white_and_powers_of_ten_are_no_larger_than_text():
    line = go.Scatter(x=[0, 7], y=[0, 7], mode="lines", line={"width": 2})
    points = go.Scatter(x=[1], y=[1], mode="markers")
    printed = for_print(go.Figure([*heat_map().data, line, points, line]))
    assert [trace.type for trace in printed.data] == ["heatmap", *["scatter"] * 5]
    under = printed.data[1:3]
    assert all(trace.line.color == "rgba(255, 255, 255, 0.8)" and trace.showlegend is False for trace in under)
    assert under[0].line.width == pytest.approx(printed.data[3].line.width + 2)
    assert for_print(lines()).data[0].line.color != under[0].line.color
    powers = lines().update_yaxes(type="log").update_xaxes(type="log", tickvals=[1, 2], ticktext=["1", "2"])
    sizes = [for_print(powers).layout[axis].tickfont.size * 0.75 for axis in ("xaxis", "yaxis")]
    assert sizes[0] == pytest.approx(SMALL)
    assert SMALLEST / 0.7 / 1.25 <= sizes[1] < SMALL  # plotly makes them larger by a quarter


@needs_chrome
def test_a_heat_map_has_more_pixels_than_values(tmp_path):
    export(heat_map(8), tmp_path / "map", (2.0, 2.0))
    (row,) = poppler("pdfimages", "-list", tmp_path / "map.pdf").splitlines()[2:4][:1]
    assert min(int(x) for x in row.split()[3:5]) >= 100


@pytest.mark.parametrize(("shades", "mode"), [(40, "P"), (256, "RGB")])
def test_a_png_has_a_palette_where_that_is_not_seen(shades, mode):
    """A picture with a smooth bar, of more colours than a palette holds or not, beside a line and text."""
    picture = np.full((300, 400, 3), 255, np.uint8)
    picture[:, 150:152] = 0
    bar = np.linspace(0, 255, 300).astype(int) // (256 // shades) * (256 // shades)
    picture[:, 200:300] = np.stack([bar, 255 - bar, bar // 2], axis=-1)[:, None]
    if shades == 256:
        picture[:, 300:, 0] = np.arange(300)[:, None] * 0.8
    given = io.BytesIO()
    Image.fromarray(picture).save(given, "PNG")
    with Image.open(io.BytesIO(export_module._finished_png(given.getvalue(), "a note", (1, 1)))) as image:
        assert image.mode == mode
        assert image.info["Description"] == "a note"
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), picture)


@needs_chrome
def test_one_browser_draws_all(tmp_path):
    export(lines(), tmp_path / "one", formats=["svg"])
    running = rendering._Browser._running
    export(lines(), tmp_path / "two", formats=["svg"])
    assert rendering._Browser._running is running is not None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.json", "one.svg", "two.json", "two.svg"]


@needs_chrome
def test_a_missing_font_is_said(tmp_path, monkeypatch):
    for module in ("qdelta_analysis.printed", "qdelta_analysis.plots.printing"):
        monkeypatch.setattr(f"{module}.FONT", "No Such Font, sans-serif")
    with pytest.warns(UserWarning, match="none of the fonts No Such Font is on this machine, so the figure is set in"):
        export(lines(), tmp_path / "figure", formats=["svg"])


def test_nothing_comes_from_the_network():
    import kaleido

    page = kaleido.PageGenerator(mathjax=False).generate_index()
    assert re.findall(r'src="(\w+):', page)
    assert set(re.findall(r'src="(\w+):', page)) == {"file"}


@pytest.mark.slow
@pytest.mark.parametrize("path", ["", "/no/such/browser", sys.executable])
def test_without_a_chrome_there_is_a_command_to_run_and_no_file(path, tmp_path):
    """An empty path finds none; a program that is no browser fails to start."""
    code = (
        "import plotly.graph_objects as go\nfrom qdelta_analysis import rendering\nimport qdelta_analysis.export as e\n"
        "rendering._BROWSERS = ()\n"
        "from choreographer.browsers.chromium import Chromium\n"
        "Chromium.find_browser = classmethod(lambda *_, **__: None)\n"
        "e.export(go.Figure(), 'figure')\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=240,
        env=os.environ | {"BROWSER_PATH": path},
    )
    assert run.returncode == 1
    assert re.search(r"RuntimeError: no Chrome could be started .*`plotly_get_chrome`.*BROWSER_PATH", run.stderr)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"venue": "nature"}, ValueError, "venue is 'nature'; expected one of icml-column, icml-page, neurips, iclr"),
        ({"venue": (3.0, 0.0)}, ValueError, "height is 0.0; expected inches, 0.5 to 40"),
        ({"venue": (3.0, 2.0), "height": 2}, ValueError, r"expected \(width, height\) in inches and no height"),
        ({"formats": ["eps"]}, ValueError, r"formats is \['eps'\]; expected some of pdf, svg, png"),
        ({"parameters": {"x": object()}}, TypeError, "a parameter is a object; expected numbers, texts, lists"),
        ({"name": "no/such/folder"}, FileNotFoundError, "expected a name in a folder that exists"),
    ],
)
def test_bad_input_is_one_sentence_and_no_file(options, error, sentence, tmp_path, as_users_call, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=sentence):
        export(lines(), **{"name": "figure", **options})
    assert list(tmp_path.iterdir()) == []


def small(**layout) -> go.Figure:
    return go.Figure(go.Scatter(y=[1, 2], name="a line"), layout)


class Nothing:
    """No browser: pictures as small as the finishing takes, and what was asked for."""

    def __init__(self):
        self.asked = []

    def __call__(self, figure, width, height, formats):
        from pypdf import PdfWriter

        self.asked.append(formats)
        pdf, png, writer = io.BytesIO(), io.BytesIO(), PdfWriter()
        writer.add_blank_page(72 * width, 72 * height)
        writer.write(pdf)
        Image.new("RGB", (8, 8)).save(png, "PNG")
        svg = b'<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"><defs id="defs-abcdef"/></svg>'
        return {"pdf": pdf.getvalue(), "svg": svg, "png": png.getvalue()}


@pytest.fixture
def undrawn(monkeypatch, as_users_call):
    """Let all but the browser run."""
    monkeypatch.setattr(export_module, "draw", nothing := Nothing())
    return nothing


@pytest.mark.parametrize(
    ("value", "held"),
    [
        (float("nan"), "NaN"),
        (np.float32("-inf"), "-Infinity"),
        (np.array([[1.0, np.nan], [np.inf, 2.0]]), [[1.0, "NaN"], ["Infinity", 2.0]]),
        (np.array(3), 3),
        (np.bool_(True), True),
        (torch.tensor([1.0, 2.0]), [1.0, 2.0]),
        (Path("a/b"), "a/b"),
        (datetime.datetime(2026, 11, 23, 1, 2), "2026-11-23T01:02:00"),
        (datetime.date(2026, 11, 23), "2026-11-23"),
        (np.datetime64("2026-11-23"), "2026-11-23"),
        ({3, 1, 2}, [1, 2, 3]),
        (frozenset({"b", "a"}), ["a", "b"]),
        (range(3), [0, 1, 2]),
        ((1, (2, None)), [1, [2, None]]),
        ({1: {np.int64(2): float("nan")}, 0.5: "x"}, {"1": {"2": "NaN"}, "0.5": "x"}),
        ("\ud800 \uffff λ", "\ud800 \uffff λ"),
    ],
)
def test_a_sidecar_is_strict_json_whatever_the_parameters_are(value, held, undrawn, tmp_path):
    def refuse(constant):
        raise AssertionError(constant)

    paths = export(small(), tmp_path / "figure", parameters={"x": value})
    sidecar = json.loads(paths[-1].read_text(encoding="utf-8"), parse_constant=refuse)
    assert sidecar["parameters"] == {"x": held}
    ET.parse(paths[1])


def test_data_with_gaps_is_strict_json_too(undrawn, tmp_path):
    figure = go.Figure(go.Scatter(y=[1, np.nan, np.inf], x=[0, None, 2]), {"shapes": [{"x0": float("nan")}]})
    text = export(figure, tmp_path / "figure")[-1].read_text()
    json.loads(text, parse_constant=lambda constant: pytest.fail(constant))


@pytest.mark.parametrize("name", ["a.pdf", "a.PNG", "a.svg", "a.json", "a"])
def test_the_ending_of_a_file_is_no_part_of_the_name(name, undrawn, tmp_path):
    export(small(), tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.pdf", "a.png", "a.svg"]


def test_other_dots_stay_and_files_are_replaced(undrawn, tmp_path):
    (tmp_path / "fig.v1.2.png").write_text("old")
    export(small(), tmp_path / "fig.v1.2", formats=["png"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fig.v1.2.json", "fig.v1.2.png"]
    assert (tmp_path / "fig.v1.2.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"name": ""}, ValueError, "name is ''; expected the name of a file, without its ending"),
        ({"name": "folder/"}, ValueError, "name is 'folder/'; expected the name of a file"),
        ({"name": ".."}, ValueError, r"name is '..'; expected the name of a file"),
        ({"name": "a\0b"}, ValueError, "expected the name of a file"),
        ({"name": "taken"}, IsADirectoryError, "taken.svg is a folder; expected a name of files that can be written"),
        ({"name": "x" * 300}, OSError, "cannot be written"),
        ({"height": 9.5}, ValueError, "height is 9.5; expected inches, 0.5 to 9, as tall as icml-column's page"),
        ({"figure": small(width=100, height=900)}, ValueError, "height is 29.25; expected inches, 0.5 to 9"),
        ({"height": "2"}, ValueError, "height is '2'; expected inches"),
        ({"height": float("nan")}, ValueError, "height is nan; expected inches"),
        ({"venue": ("3", 2)}, ValueError, "width is '3'; expected inches, 0.5 to 40"),
        ({"venue": 3.0}, ValueError, r"venue is 3.0, height None; expected \(width, height\) in inches"),
        ({"formats": None}, ValueError, "formats is None; expected some of pdf, svg, png"),
        ({"formats": [["pdf"]]}, ValueError, "expected some of pdf, svg, png"),
        ({"figure": {"data": []}}, TypeError, "figure is a dict; expected a plotly Figure"),
        ({"parameters": {"x": {(1, 2): 3}}}, TypeError, r"have a key \[1, 2\]; expected a text or a number"),
        ({"parameters": {1: 0, "1": 1}}, ValueError, "expected keys that are different texts"),
        ({"parameters": {"x": 1j}}, TypeError, "a parameter is a complex; expected numbers, texts"),
    ],
)
def test_what_cannot_be_written_is_one_sentence_and_no_file(options, error, sentence, undrawn, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken.svg").mkdir()
    with pytest.raises(error, match=sentence) as raised:
        export(**{"figure": small(), "name": "figure", **options})
    assert "\n" not in str(raised.value)
    assert [path.name for path in tmp_path.rglob("*")] == ["taken.svg"]


def test_a_disk_that_fills_up_leaves_what_was_there(undrawn, tmp_path, monkeypatch):
    export(small(), tmp_path / "figure")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write = Path.write_bytes

    def full(path, content):
        if path.suffix == ".png":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"figure(\.png)? cannot be written.*No space left on device"):
        export(small(title="other"), tmp_path / "figure", parameters={"other": 1})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    "text",
    [
        *[r"$\lambda$", "$x$", r"norm $\|A\|_2$ of A", r"\(x\)", r"\lambda over time", r"\mathbf{S}", "$5\\sigma$"],
        *[
            "$k^2$",
            "$ x_t $",
            r"$\tau$2",
            "2$x$",
            "$x_t$2",
            "$ x $",
            "$SNR$",
            "$log x$",
            "$2x$",
            "$1/2$",
            "$Q K$ and V",
        ],
        *[r"\alpha_t", r"\lambda_1", r"\sigma2", r"\tau", r"\phi", r"\eta", r"\kappa", r"\pm", r"\infty", r"x \in R"],
        *[r"\approx", r"\to", r"\log", r"\nabla", r"\varepsilon", r"\bm{S}", r"\|S\|", r"\Vert", r"\\alpha", r"5\%"],
        *[r"f:\mathbb{R}", r"S\lambda", r"C:\new in \alpha", r"λ\,t"],
    ],
)
def test_tex_is_told_from_text(text):
    svg = f'<svg xmlns="http://www.w3.org/2000/svg"><text><tspan>{text}</tspan></text></svg>'.encode()
    with pytest.raises(ValueError, match="is TeX, which a figure shows as it stands; expected Unicode and HTML"):
        check_texts(svg, [])


@pytest.mark.parametrize(
    "text",
    [
        *["$5 to $10", "λ", "a_1^2", "US$", "5 $", "{x}", "US$/GB vs EU$", "cost ($/GB) vs price ($)", "$/GB,$/TB"],
        *["$5/$10", "5 $ or 6 $", "5$ and 6$", "$5 million vs EU$", "$5 x_1 $10", "price ($) of x_t in ($)", "50 %"],
        *[r"C:\temp", r"C:\new", r"c:\users\tau\x.csv", r"C:\Program Files\new thing\a_t.txt", r"(D:\data\run 1\nu)"],
        *[r"\\server\share\nu", r"..\new", "a\\", "a \\ b"],
    ],
)
def test_text_is_no_tex(text, monkeypatch):
    monkeypatch.setattr("qdelta_analysis.printed._missing", lambda texts, parts: set())
    check_texts(f'<svg xmlns="http://www.w3.org/2000/svg"><text>{text}</text></svg>'.encode(), [])


@pytest.mark.parametrize("text", ["a\x01b\x00c", "a\ud800b", "\x1b[1m", "\uffff", "&#1;", "&#xd800;"])
@pytest.mark.usefixtures("as_users_call")
def test_what_is_no_character_is_refused_before_anything_is_drawn(text, undrawn, tmp_path):
    figures = [
        small(xaxis_title=text),
        small(annotations=[{"text": text}]),
        small(xaxis={"ticktext": [text], "tickvals": [0]}),
        go.Figure(go.Scatter(x=["a", text], y=[1, 2])),
        go.Figure(go.Bar(x=np.array([text, "b"]), y=[1, 2])),
        go.Figure(go.Scatter(y=[1, 2], mode="markers+text", text=["a", text])),
    ]
    for figure in figures:
        with pytest.raises(ValueError, match=f"the text {re.escape(repr(text))} has what no file can hold; expected"):
            export(figure, tmp_path / "figure")
    assert undrawn.asked == []
    pointed = {"text": ["a", text], "hovertext": [text], "customdata": [text], "meta": text, "hovertemplate": text}
    shown = go.Figure(go.Scatter(y=[1, 2], mode="lines", **pointed), {"title": {"text": text}})
    assert len(export(shown.add_heatmap(z=[[1]], text=[[text]]), tmp_path / "figure")) == 4


@pytest.mark.parametrize("text", ["a\tb\nc", "&#955; &#x3bb; &lt;", "\x7f \x85", "&#99999999;", "\U0001f600"])
def test_characters_are_none_that_are_refused(text, undrawn, tmp_path):
    assert len(export(small(xaxis_title=text), tmp_path / "figure")) == 4


@pytest.mark.usefixtures("as_users_call")
def test_a_browser_that_fails_is_one_sentence(tmp_path, monkeypatch):
    class Failing:
        def calculate(self, *_):
            raise LookupError("Error 525: plotly.js error")

    monkeypatch.setattr(rendering._Browser, "get", Failing)
    with pytest.raises(
        RuntimeError, match=r"the browser did not draw the figure's PDF \(Error 525: plotly\.js error\)\."
    ):
        export(small(), tmp_path / "figure")
    assert list(tmp_path.iterdir()) == []


@needs_chrome
def test_tex_and_characters_without_a_glyph_are_said(tmp_path):
    texts = {"axis": {"xaxis": {"title": {"text": r"$\lambda$"}}}, "ticks": {"xaxis": {"ticktext": ["$x_1$"]}}}
    texts["ticks"]["xaxis"]["tickvals"] = [0]
    texts["note"] = {"annotations": [{"text": r"\alpha", "x": 0, "y": 1}]}
    for layout in texts.values():
        with pytest.raises(ValueError, match="is TeX"):
            export(small(**layout), tmp_path / "figure")
    assert list(tmp_path.iterdir()) == []
    export(small(title={"text": r"$\lambda$"}), tmp_path / "untitled", formats=["svg"])  # a title is not printed
    with pytest.warns(UserWarning, match=r"no font on this machine has .* \(U\+10FFFD, no name\), drawn as a box"):
        export(small(xaxis={"title": {"text": "v̂ fi λ \U0010fffd"}}), tmp_path / "box", formats=["svg"])


def pdf_of(content: bytes, group: bytes = b"") -> bytes:
    """A PDF as the browser writes it, with a group and a font whose glyphs 0 and 65 are drawn."""
    from pypdf import PdfWriter
    from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

    def stream(data: bytes, **entries: Any) -> Any:
        made = DecodedStreamObject()
        made.set_data(data)
        made.update({NameObject(f"/{name}"): value for name, value in entries.items()})
        return writer._add_object(made.flate_encode())

    named = lambda **entries: DictionaryObject({NameObject(f"/{name}"): value for name, value in entries.items()})
    writer, written = PdfWriter(), io.BytesIO()
    page = writer.add_blank_page(200, 100)
    font = named(Type=NameObject("/Font"), Subtype=NameObject("/Type1"), BaseFont=NameObject("/Helvetica"))
    fonts = named(Font=named(F1=font))
    form = stream(group, Type=NameObject("/XObject"), Subtype=NameObject("/Form"), Resources=fonts)
    page[NameObject("/Resources")] = named(Font=named(F1=font), XObject=named(X1=form))
    page[NameObject("/Contents")] = stream(content)
    writer.write(written)
    return written.getvalue()


POINT = b"q\n1 0 0 1 12.5 7.25 cm\n" + b"1.5 2.25 3.125 4.5 5.25 6.125 c\n" * 30 + b"f\nQ\n"
WORD = b"BT\n/F1 12 Tf\n1 0 0 -1 5 5 Tm\n<%s> Tj\nET\n"


@pytest.mark.parametrize("points", [0, 90_000])
@pytest.mark.parametrize("drawn", [(WORD % b"4100", b"q\n"), (b"q\n", WORD % b"4100")], ids=["page", "group"])
def test_a_character_without_a_glyph_is_said_however_many_points_there_are(drawn, points):
    parts = parts_of(pdf_of(*(POINT * points + part + b"/X1 Do\n" * (part is drawn[0]) for part in drawn)))
    svg = '<svg xmlns="http://www.w3.org/2000/svg"><text>A\U0010fffd</text></svg>'.encode()
    start = time.perf_counter()
    with pytest.warns(UserWarning, match=r"no font on this machine has .* \(U\+10FFFD, no name\), drawn as a box"):
        check_texts(svg, parts)
    assert time.perf_counter() - start < 20  # numbers of points are passed over


@needs_chrome
@pytest.mark.slow
def test_a_figure_of_many_points_is_written(tmp_path):
    x, y = np.random.default_rng(0).normal(size=(2, 20_000))
    points = go.Figure(go.Scatter(x=x, y=y, mode="markers"), {"xaxis": {"title": {"text": "λ"}}})
    paths = export(points, tmp_path / "points")
    assert [path.suffix for path in paths] == [".pdf", ".svg", ".png", ".json"]
    assert "λ" in poppler("pdftotext", paths[0], "-")


@needs_chrome
def test_texts_of_a_half_transparent_line_are_looked_at_too(tmp_path):
    half = go.Figure(go.Scatter(y=[1, 2], mode="lines+text", text=["<b>λ</b>", "fi \U0010fffd"], opacity=0.5))
    with pytest.warns(UserWarning, match=r"no font on this machine has .* \(U\+10FFFD, no name\), drawn as a box"):
        paths = export(half, tmp_path / "half", formats=["pdf"])
    rows = poppler("pdffonts", paths[0]).splitlines()[2:]
    assert {row.split()[0].split("+")[1] for row in rows} == set(json.loads(paths[-1].read_text())["fonts"])


@needs_chrome
def test_a_picture_that_takes_too_long_says_what_to_do(tmp_path, monkeypatch, as_users_call):
    monkeypatch.setattr(rendering, "_PATIENCE", 0.0)
    monkeypatch.setattr(rendering, "_PER_POINT", 0.0)
    rendering._Browser.get()  # it starts as long as it takes
    with pytest.raises(RuntimeError, match=r"the figure has 2 points, and its PDF was not drawn within 0 s; expected"):
        export(small(), tmp_path / "figure")
    assert list(tmp_path.iterdir()) == []


def test_what_stands_above_a_panel_has_room_in_print():
    top = lambda figure: for_print(figure).layout.margin.t
    line = lambda **note: small().add_vline(1, annotation={"text": "limit", "y": 1, "yanchor": "bottom", **note})
    assert top(small()) == 8
    assert top(line()) == top(small().add_annotation(text="title", yref="paper", y=1, yanchor="bottom")) == 20
    assert top(line(text="two<br>lines")) > 28
    assert top(line(yanchor="top")) == 8  # it stands inside
    assert top(line().update_layout(yaxis_domain=[0, 0.5])) == 8  # above a lower panel
