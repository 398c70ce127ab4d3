"""What is in a figure that was drawn: fonts that venues take, characters that a font has, no TeX."""

from __future__ import annotations

import io
import re
import sys
import unicodedata
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from .extras import from_extra
from .plots.theme import FONT

with from_extra("lab"):
    import plotly.graph_objects as go

# Between dollars: a letter or what has a mark of TeX, or anything that no word touches; an amount of money is none of
# them. Elsewhere a backslash and what it names, outside of a path of Windows.
_TEX = re.compile(
    r"""(?<!\\)\$(?!\d[^$]*\$\d|[/),.;:])(?:\ ?[^\W\d_]\ ?|[^$]*[\\_^{][^$]*)(?<!\()\$
    |(?<![\\\w])\$(?:[^\s\d/),.;:$][^$]*|\d[^\s$]*)(?<![\s(])\$(?!\d)
    |\\\(.*\\\)|\\\[.*\\\]|\\[A-Za-z|{},;!_%\#&]""",
    re.VERBOSE,
)
_PATH = re.compile(r"(?<!\w)(?:[A-Za-z]:|\.\.?|\\(?=\\[\w.-]+\\))(?>(?:\\[\w.%~-]+(?:\ [\w.%~-]+)*)+)(?![{^])")

# What neither XML nor UTF-8 has, and how plotly lets a text name a character.
_NO_CHARACTER = re.compile(r"[\0-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_ENTITY = re.compile(r"&#(?:x([\da-fA-F]+)|(\d+));")
_UNPRINTED = {"template", "hovertemplate", "hovertext", "customdata", "meta", "ids", "uid"}

# A page of pypdf, and the same or a group in it.
Part = tuple[Any, Any]


@contextmanager
def unlimited() -> Iterator[None]:
    """Let pypdf read PDFs of any size: its limits are against files of others, and a figure may have many points."""
    with from_extra("lab"):
        from pypdf import apply_configuration

    sizes = (
        "maximum_declared_stream_length",
        "zlib_maximum_output_length",
        "stream_decoding_work_maximum_length",
        "stream_parsing_work_maximum_count",
        "array_maximum_element_count",
        "dictionary_maximum_element_count",
    )
    with apply_configuration(**dict.fromkeys(sizes, sys.maxsize)):
        yield


@unlimited()
def parts_of(pdf: bytes) -> list[Part]:
    """Return what has texts and fonts of its own: each page, and what is drawn as a group, half transparent say."""
    with from_extra("lab"):
        from pypdf import PdfReader

    return [(page, part) for page in PdfReader(io.BytesIO(pdf)).pages for part in (page, *_groups(page))]


def _groups(part: Any) -> list[Any]:
    inner = [x.get_object() for x in _resources(part, "/XObject")]
    groups = [x for x in inner if x.get("/Subtype") == "/Form"]
    return [group for x in groups for group in (x, *_groups(x))]


def _resources(part: Any, kind: str) -> Iterable[Any]:
    if "/Resources" not in part or kind not in part["/Resources"]:
        return ()
    return part["/Resources"][kind].values()


@unlimited()
def check_fonts(parts: Sequence[Part]) -> list[str]:
    """Return the fonts of a PDF; refuse those that venues refuse, and warn where the theme's is not among them."""
    fonts: dict[str, str] = {}
    for _, part in parts:
        for reference in _resources(part, "/Font"):
            font = reference.get_object()
            inner = font["/DescendantFonts"][0].get_object() if "/DescendantFonts" in font else font
            name = str(inner.get("/BaseFont", "?")).lstrip("/").split("+")[-1]
            kind = str(font.get("/Subtype"))
            descriptor = inner.get("/FontDescriptor", {}).get_object() if "/FontDescriptor" in inner else {}
            if kind == "/Type3" or not any(key.startswith("/FontFile") for key in descriptor):
                how = "of Type 3" if kind == "/Type3" else "not embedded"
                raise RuntimeError(f"the font {name} would be {how}, which venues refuse; nothing was written.")
            fonts[name] = kind
    # "LiberationSans-Italic" is of the family "Liberation Sans"; the last of the list is generic.
    families = [family.strip() for family in FONT.split(",")[:-1]]
    wanted = tuple(family.replace(" ", "") for family in families)
    if fonts and not any(name.startswith(wanted) for name in fonts):
        found = ", ".join(sorted(fonts))
        warnings.warn(
            f"none of the fonts {', '.join(families)} is on this machine, so the figure is set in {found}; "
            "on Debian the package fonts-liberation brings the first.",
            stacklevel=4,
        )
    return sorted(fonts)


def check_characters(figure: go.Figure) -> None:
    """Refuse texts with what is no character, which no browser draws: controls, half of a pair, as an entity too."""
    held: Any = figure.to_dict()
    for text in [*_texts(held["layout"]), *(text for trace in held["data"] for text in _texts(_printed(trace)))]:
        if _NO_CHARACTER.search(_ENTITY.sub(_decoded, text)):
            raise ValueError(f"the text {text[:200]!r} has what no file can hold; expected characters alone.")


def _printed(trace: Mapping[str, Any]) -> dict[str, Any]:
    """Return of a trace what may be on paper: nothing that is only shown under the pointer."""
    pointed = trace["type"].startswith("scatter") and "text" not in trace.get("mode", "")
    pointed |= trace["type"] == "heatmap" and "texttemplate" not in trace
    return {name: x for name, x in trace.items() if name not in _UNPRINTED and not (name == "text" and pointed)}


def _texts(x: Any) -> Iterator[str]:
    if isinstance(x, str):
        yield x
    elif isinstance(x, Mapping):
        for name, part in x.items():
            if name not in _UNPRINTED and not (name == "bdata" and "dtype" in x):
                yield from _texts(part)
    elif isinstance(x, list | tuple) or (isinstance(x, np.ndarray) and x.dtype.kind in "OSU"):
        for part in x:
            yield from _texts(part)


def _decoded(entity: re.Match[str]) -> str:
    number = int(entity[1], 16) if entity[1] else int(entity[2])
    return chr(number) if number <= sys.maxunicode else entity[0]


def check_texts(svg: bytes, parts: Sequence[Part]) -> None:
    """Refuse texts in TeX, which are drawn as they stand, and warn of characters that no font on this machine has."""
    root = ET.fromstring(svg)
    texts = ["".join(text.itertext()) for text in root.iter("{http://www.w3.org/2000/svg}text")]
    for text in texts:
        if _TEX.search(_PATH.sub("", text)):
            raise ValueError(
                f"the text {text!r} is TeX, which a figure shows as it stands; expected Unicode and HTML, such as λ, "
                "x<sub>t</sub>, 10<sup>−3</sup>."
            )
    missing = sorted(_missing(texts, parts))
    if missing:
        named = ", ".join(f"{c} (U+{ord(c):04X}, {unicodedata.name(c, 'no name')})" for c in missing)
        warnings.warn(f"no font on this machine has {named}, drawn as a box; expected other characters.", stacklevel=3)


def _missing(texts: list[str], parts: Sequence[Part]) -> set[str]:
    """Return the characters of texts that no font of a PDF draws: a font's glyph of number 0 stands for them."""
    drawn = _text(parts)
    if "\0" not in drawn:
        return set()
    known = {part for c in drawn for part in (c, *unicodedata.normalize("NFKD", c))}
    # Not white space, nor what only directs others, such as a variation selector.
    seen = {
        c
        for text in texts
        for c in text
        if unicodedata.category(c) not in ("Cc", "Cf", "Zs") and not 0xFE00 <= ord(c) < 0xFE10
    }
    return {c for c in seen if not known & {c, *unicodedata.normalize("NFKD", c)}}


@unlimited()
def _text(parts: Sequence[Part]) -> str:
    """Return the characters that the parts of a PDF draw.

    Lines and points are cut out first: pypdf makes an object of each of their numbers.
    """
    found = []
    for page, part in parts:
        if part is page and "/Contents" not in page:  # it is blank
            continue
        stream = page["/Contents"] if part is page else part
        texts = [text.partition(b"\nET\n")[0] for text in (b"\n" + stream.get_data()).split(b"\nBT\n")[1:]]
        if not texts:
            continue
        stream.set_data(b"".join(b"BT\n" + text + b"\nET\n" for text in texts))
        # Text of a group stands upside down: the browser's y axis points down.
        found.append(page.extract_text() if part is page else page.extract_xform_text(part, (0, 90, 180, 270)))
    return "".join(found)
