"""What is in a figure that was drawn: fonts that venues take, characters that a font has, no TeX."""

from __future__ import annotations

import io
import re
import sys
import unicodedata
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from .extras import from_extra
from .plots.theme import FONT

# As pandoc reads it: what stands close between dollars; and commands outside of them.
_COMMANDS = "alpha|beta|gamma|delta|epsilon|lambda|mu|rho|sigma|theta|omega|frac|sqrt|sum|hat|bar|cdot|times|leq?|geq?"
_TEX = re.compile(
    rf"(?<!\\)\$(?=\S)[^$]*(?<=\S)\$(?!\d)|\\\(.*\\\)|\\\[.*\\\]|\\(?:{_COMMANDS}|math\w+|text\w*)\b", re.IGNORECASE
)

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


def check_texts(svg: bytes, parts: Sequence[Part]) -> None:
    """Refuse texts in TeX, which are drawn as they stand, and warn of characters that no font on this machine has."""
    root = ET.fromstring(svg)
    texts = ["".join(text.itertext()) for text in root.iter("{http://www.w3.org/2000/svg}text")]
    for text in texts:
        if _TEX.search(text):
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
