"""Figures to files, through a Chrome that is on the machine."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import plotly.graph_objects as go

from .files import replacing

FORMATS = ("pdf", "svg", "png")
_BROWSERS = ("chromium", "google-chrome", "google-chrome-stable", "chromium-browser", "chrome")


def save_figure(figure: go.Figure, path: str | os.PathLike, scale: float = 2) -> Path:
    """Write a figure at its own size as PDF, SVG or PNG (`scale` pixels a point), by the path's ending.

    Raises ValueError for another ending, FileNotFoundError for a folder that is not there, and RuntimeError where no
    Chrome is found, with the command that brings one.
    """
    path = Path(path)
    if path.suffix.removeprefix(".") not in FORMATS:
        raise ValueError(f"path is {path.name!r}; expected a name that ends in .pdf, .svg or .png.")
    from choreographer.errors import BrowserFailedError, ChromeNotFoundError

    _name_browser()
    with replacing(path) as new:
        try:
            figure.write_image(new, scale=scale)
        except (ChromeNotFoundError, BrowserFailedError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "Chrome" not in str(error):
                raise
            raise RuntimeError(
                "no Chrome could be started to draw the file; install one with `plotly_get_chrome` (or Debian's "
                "package chromium), or name one in BROWSER_PATH."
            ) from error
    return path


def _name_browser() -> None:
    """Point kaleido to a browser on the PATH, which it would not find under Debian's names."""
    found = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if found and "BROWSER_PATH" not in os.environ:
        os.environ["BROWSER_PATH"] = found
