"""Figures for papers: PDF, SVG and PNG at a venue's size, with what they were made from beside and inside them."""

from __future__ import annotations

import hashlib
import html
import io
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from .extras import from_extra
from .files import replacing
from .plots.printing import for_print
from .printed import check_characters, check_fonts, check_texts, parts_of, unlimited
from .provenance import provenance
from .rendering import FORMATS, PNG_PIXELS_PER_INCH, Format, draw
from .strict import dumps

with from_extra("lab"):
    import plotly.graph_objects as go
    from plotly.basedatatypes import BaseFigure

# Widths in inches.
VENUES = {"icml-column": 3.25, "icml-page": 6.75, "neurips": 5.5, "iclr": 5.5}
_PAGE = 9.0  # inches, the height of each of these venues' text
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
        name: a path without an ending; one of a file that is written here, such as ".pdf", is taken off.
        venue: "icml-column" (3.25 in wide), "icml-page" (6.75), "neurips", "iclr" (5.5), or (width, height) in inches.
        height: in inches; None keeps the figure's own proportions, at least 0.62 of the width.
        formats: some of "pdf", "svg", "png".
        parameters: what the figure was made with, seeds included; for the sidecar and the files' own metadata. There,
            NaN and infinities are the texts "NaN", "Infinity" and "-Infinity".

    Returns the paths written, the sidecar last. Text is set in 9 points, ticks in 7.5, nothing below 6. It stays text,
    its fonts are embedded, and a warning says if the one that the theme asks for is not on this machine, or if no font
    has a character, which is then drawn as a box.

    Raises ValueError for a venue, height, format or name that is none, for TeX, which is drawn as it stands, and for a
    text with control characters or half of a pair; TypeError for parameters that JSON cannot hold, OSError where files
    cannot be written, and RuntimeError where no Chrome can be started, with the command that brings one, where it takes
    too long or fails, or where a font would not be embedded. All files are written, or none.
    """
    if not isinstance(figure, BaseFigure):
        raise TypeError(f"figure is a {type(figure).__name__}; expected a plotly Figure.")
    width, height = _size(figure, venue, height)
    kinds = _formats(formats)
    path = _path(name, kinds)
    made = {"venue": venue if isinstance(venue, str) else "free", "size_in": [width, height]}
    made |= provenance(figure, parameters or {})
    check_characters(printed := for_print(figure))
    # PDF and SVG are drawn in any case: they say which fonts and texts were drawn.
    drawn = draw(printed, width, height, tuple(dict.fromkeys(("pdf", "svg", *kinds))))
    parts = parts_of(drawn["pdf"])
    made["fonts"] = check_fonts(parts)
    check_texts(drawn["svg"], parts)
    note = dumps({key: value for key, value in made.items() if key != "drawing"})
    finish = {"pdf": _finished_pdf, "svg": _finished_svg, "png": _finished_png}
    contents = {f"{path.name}.{kind}": finish[kind](drawn[kind], note, (width, height)) for kind in kinds}
    made["files"] = {file: hashlib.sha256(content).hexdigest() for file, content in contents.items()}
    contents[f"{path.name}.json"] = (dumps(made, indent=1) + "\n").encode()
    return _written(path.parent, contents)


def _path(name: str | os.PathLike, kinds: Sequence[str]) -> Path:
    """Return where to write, without an ending; refuse a name of no file before anything is drawn."""
    path = Path(name)
    if path.suffix.lower().removeprefix(".") in (*FORMATS, "json"):
        path = path.with_suffix("")
    if not path.name.strip(".") or os.fspath(name).endswith(("/", os.sep)) or "\0" in path.name:
        raise ValueError(f"name is {os.fspath(name)!r}; expected the name of a file, without its ending.")
    if not os.path.isdir(path.parent):  # Path's own raises where a name is too long
        raise FileNotFoundError(f"{path} cannot be written; expected a name in a folder that exists.")
    for kind in (*kinds, "json"):
        target = path.parent / f"{path.name}.{kind}"
        if os.path.isdir(target):
            raise IsADirectoryError(f"{target} is a folder; expected a name of files that can be written.")
    return path


def _written(folder: Path, contents: Mapping[str, bytes]) -> tuple[Path, ...]:
    """Write all files or none: each takes its place only when all are on the disk."""
    paths = tuple(folder / file for file in contents)
    try:
        with ExitStack() as all_of_them:
            for path, content in zip(paths, contents.values(), strict=True):
                all_of_them.enter_context(replacing(path)).write_bytes(content)
    except OSError as error:
        if error.errno is None:  # it says what it is about
            raise
        raise type(error)(f"{paths[0].with_suffix('')} cannot be written ({error.strerror or error}).") from error
    return paths


def _size(figure: go.Figure, venue: str | tuple[float, float], height: float | None) -> tuple[float, float]:
    if isinstance(venue, str):
        if venue not in VENUES:
            raise ValueError(f"venue is {venue!r}; expected one of {', '.join(VENUES)}, or (width, height) in inches.")
        layout: Any = figure.layout
        own = layout.height / layout.width if layout.height and layout.width else 0
        width, tallest = VENUES[venue], _PAGE
        height = round(width * max(own, 0.62), 2) if height is None else height
    elif not isinstance(venue, tuple | list) or len(venue) != 2 or height is not None:
        raise ValueError(f"venue is {venue!r}, height {height!r}; expected (width, height) in inches and no height.")
    else:
        (width, height), tallest = venue, _LARGEST
    for what, inches, most in (("width", width, _LARGEST), ("height", height, tallest)):
        if not isinstance(inches, Real) or not 0.5 <= inches <= most:
            page = f", as tall as {venue}'s page" if most == _PAGE else ""
            raise ValueError(f"{what} is {inches!r}; expected inches, 0.5 to {most:g}{page}.")
    return float(width), float(height)


def _formats(formats: Sequence[Format]) -> tuple[Format, ...]:
    kinds = tuple(formats) if isinstance(formats, Iterable) else ()
    if isinstance(formats, str) or not kinds or not all(kind in FORMATS for kind in kinds):
        raise ValueError(f"formats is {formats!r}; expected some of {', '.join(FORMATS)}, in a list or tuple.")
    return kinds


@unlimited()
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
