"""What is in a figure that was drawn: fonts that venues take, characters that a font has, no TeX."""

from __future__ import annotations

import io
import re
import unicodedata
import warnings
import xml.etree.ElementTree as ET

from .extras import from_extra
from .plots.theme import FONT

# As pandoc reads it: what stands close between dollars; and commands outside of them.
_COMMANDS = "alpha|beta|gamma|delta|epsilon|lambda|mu|rho|sigma|theta|omega|frac|sqrt|sum|hat|bar|cdot|times|leq?|geq?"
_TEX = re.compile(
    rf"(?<!\\)\$(?=\S)[^$]*(?<=\S)\$(?!\d)|\\\(.*\\\)|\\\[.*\\\]|\\(?:{_COMMANDS}|math\w+|text\w*)\b", re.IGNORECASE
)


def check_fonts(pdf: bytes) -> list[str]:
    """Return the fonts of a PDF; refuse those that venues refuse, and warn where the theme's is not among them."""
    with from_extra("lab"):
        from pypdf import PdfReader

    fonts: dict[str, str] = {}
    for page in PdfReader(io.BytesIO(pdf)).pages:
        for reference in (page.get("/Resources", {}).get("/Font") or {}).values():
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


def check_texts(svg: bytes, pdf: bytes) -> None:
    """Refuse texts in TeX, which are drawn as they stand, and warn of characters that no font on this machine has."""
    root = ET.fromstring(svg)
    texts = ["".join(text.itertext()) for text in root.iter("{http://www.w3.org/2000/svg}text")]
    for text in texts:
        if _TEX.search(text):
            raise ValueError(
                f"the text {text!r} is TeX, which a figure shows as it stands; expected Unicode and HTML, such as λ, "
                "x<sub>t</sub>, 10<sup>−3</sup>."
            )
    missing = sorted(_missing(texts, pdf))
    if missing:
        named = ", ".join(f"{c} (U+{ord(c):04X}, {unicodedata.name(c, 'no name')})" for c in missing)
        warnings.warn(f"no font on this machine has {named}, drawn as a box; expected other characters.", stacklevel=3)


def _missing(texts: list[str], pdf: bytes) -> set[str]:
    """Return the characters of texts that no font of a PDF draws: a font's glyph of number 0 stands for them."""
    with from_extra("lab"):
        from pypdf import PdfReader

    drawn = "".join(page.extract_text() for page in PdfReader(io.BytesIO(pdf)).pages)
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
