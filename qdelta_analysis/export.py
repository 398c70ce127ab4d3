"""Figures for papers: PDF, SVG and PNG at a venue's size, with what they were made from beside and inside them."""

from __future__ import annotations

import hashlib
import html
import io
import json
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .extras import from_extra
from .files import replacing
from .plots.printing import for_print
from .plots.theme import FONT
from .provenance import provenance
from .rendering import FORMATS, PNG_PIXELS_PER_INCH, Format, draw

with from_extra("lab"):
    import plotly.graph_objects as go

# Widths in inches.
VENUES = {"icml-column": 3.25, "icml-page": 6.75, "neurips": 5.5, "iclr": 5.5}
_LARGEST = 40.0
_UNSEEN = 0.05  # mean change of a colour's part, of 255


def export(
    figure: go.Figure,
    name: str | os.PathLike,
    venue: str | tuple[float, float] = "icml-column",
    *,
    height: float | None = None,
    formats: Sequence[Format] = FORMATS,
    parameters: Mapping[str, Any] | None = None,
) -> tuple[Path, ...]:
    """Write a figure for a paper: NAME.pdf, NAME.svg, NAME.png at 300 dots an inch, and NAME.json on how it was made.

    Args:
        figure: what to draw; it stays as it is. A title is left out: in a paper that is the caption's work.
        name: a path without an ending.
        venue: "icml-column" (3.25 in wide), "icml-page" (6.75), "neurips", "iclr" (5.5), or (width, height) in inches.
        height: in inches; None keeps the figure's own proportions, at least 0.62 of the width.
        formats: some of "pdf", "svg", "png".
        parameters: what the figure was made with, seeds included; for the sidecar and the files' own metadata.

    Returns the paths written, the sidecar last. Text is set in 9 points, ticks in 7.5, nothing below 6. It stays text,
    its fonts are embedded, and a warning says if the one that the theme asks for is not on this machine.

    Raises ValueError for a venue, height or format that is none, TypeError for parameters that JSON cannot hold,
    FileNotFoundError for a folder that is not there, and RuntimeError where no Chrome can be started, with the command
    that brings one, or where a font would not be embedded. Nothing is written then.
    """
    path = Path(name)
    width, height = _size(figure, venue, height)
    kinds = _formats(formats)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path} cannot be written; expected a name in a folder that exists.")
    made = {"venue": venue if isinstance(venue, str) else "free", "size_in": [width, height]}
    made |= provenance(figure, parameters or {})
    # The PDF is drawn in any case: it says which fonts were found.
    drawn = draw(for_print(figure), width, height, ("pdf", *(kind for kind in kinds if kind != "pdf")))
    made["fonts"] = _check_fonts(drawn["pdf"])
    note = json.dumps({key: value for key, value in made.items() if key != "drawing"}, ensure_ascii=False)
    finish = {"pdf": _finished_pdf, "svg": _finished_svg, "png": _finished_png}
    contents = {f"{path.name}.{kind}": finish[kind](drawn[kind], note, (width, height)) for kind in kinds}
    made["files"] = {file: hashlib.sha256(content).hexdigest() for file, content in contents.items()}
    contents[f"{path.name}.json"] = (json.dumps(made, indent=1, ensure_ascii=False) + "\n").encode()
    for file, content in contents.items():
        with replacing(path.parent / file) as new:
            new.write_bytes(content)
    return tuple(path.parent / file for file in contents)


def _size(figure: go.Figure, venue: str | tuple[float, float], height: float | None) -> tuple[float, float]:
    if isinstance(venue, str):
        if venue not in VENUES:
            raise ValueError(f"venue is {venue!r}; expected one of {', '.join(VENUES)}, or (width, height) in inches.")
        layout: Any = figure.layout
        own = layout.height / layout.width if layout.height and layout.width else 0
        width = VENUES[venue]
        height = round(width * max(own, 0.62), 2) if height is None else height
    elif len(venue) != 2 or height is not None:
        raise ValueError(f"venue is {venue!r}, height {height!r}; expected (width, height) in inches and no height.")
    else:
        width, height = venue
    for what, inches in (("width", width), ("height", height)):
        if not 0.5 <= inches <= _LARGEST:
            raise ValueError(f"{what} is {inches!r}; expected inches, 0.5 to {_LARGEST:g}.")
    return float(width), float(height)


def _formats(formats: Sequence[Format]) -> tuple[Format, ...]:
    kinds = tuple(formats)
    if isinstance(formats, str) or not kinds or not set(kinds) <= set(FORMATS):
        raise ValueError(f"formats is {formats!r}; expected some of {', '.join(FORMATS)}, in a list or tuple.")
    return kinds


def _check_fonts(pdf: bytes) -> list[str]:
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
            stacklevel=3,
        )
    return sorted(fonts)


def _finished_pdf(pdf: bytes, note: str, size: tuple[float, float]) -> bytes:
    """Add the note; leave out dates, so that the same figure gives the same bytes."""
    with from_extra("lab"):
        from pypdf import PdfReader, PdfWriter

    writer = PdfWriter()
    writer.append(PdfReader(io.BytesIO(pdf)), import_outline=False)
    if len(writer.pages) != 1:
        raise RuntimeError(f"the browser printed {len(writer.pages)} pages; expected one.")
    page = writer.pages[0]
    for box in (page.mediabox, page.cropbox):
        box.upper_right = (72 * size[0], 72 * size[1])
    writer.metadata = {"/Creator": "qdelta_analysis.export", "/Producer": "Skia/PDF, pypdf", "/Subject": note}
    written = io.BytesIO()
    writer.write(written)
    return written.getvalue()


def _finished_svg(svg: bytes, note: str, size: tuple[float, float]) -> bytes:
    """Add the note and the size in inches, and name parts by what they belong to instead of by chance."""
    text = svg.decode()
    start = re.match(r"<svg [^>]*>", text)
    drawn_by_chance = re.search(r'id="defs-(\w{6})"', text)
    if start is None or drawn_by_chance is None:
        raise RuntimeError("the browser's SVG does not start as plotly's does; expected kaleido 1.5 and plotly 7.")
    head = re.sub(r'width="[^"]*" height="[^"]*"', f'width="{size[0]:g}in" height="{size[1]:g}in"', start[0], count=1)
    text = f"{head}<metadata>{html.escape(note, quote=False)}</metadata>{text[start.end() :]}"
    return text.replace(drawn_by_chance[1], "qdelta").encode()


def _finished_png(png: bytes, note: str, size: tuple[float, float]) -> bytes:
    """Add the note and the density; no transparency, which figures do not have.

    Lines and text get a palette, which makes the file half as large: all that changes is tones of smoothed edges, by
    less than is seen. Heat maps have more colours than a palette holds, and keep them.
    """
    with from_extra("lab"):
        from PIL import Image, PngImagePlugin

    info = PngImagePlugin.PngInfo()
    info.add_itxt("Description", note)
    written = io.BytesIO()
    image = Image.open(io.BytesIO(png)).convert("RGB")
    palette = image.quantize(256, kmeans=1, dither=Image.Dither.NONE)
    change = np.asarray(palette.convert("RGB"), np.int16) - np.asarray(image)
    image = palette if np.abs(change).mean() < _UNSEEN else image
    image.save(written, "PNG", dpi=(PNG_PIXELS_PER_INCH,) * 2, pnginfo=info, optimize=True)
    return written.getvalue()
