"""Figures to bytes: one Chrome that is on the machine draws all of them, offline."""

from __future__ import annotations

import asyncio
import atexit
import os
import shutil
from threading import Lock, Thread
from typing import Any, Literal

import numpy as np

from .extras import from_extra

with from_extra("lab"):
    import plotly.graph_objects as go

Format = Literal["pdf", "svg", "png"]
FORMATS: tuple[Format, ...] = ("pdf", "svg", "png")
PIXELS_PER_INCH = 96  # CSS's, in which plotly measures
PNG_PIXELS_PER_INCH = 300

_BROWSERS = ("chromium", "google-chrome", "google-chrome-stable", "chromium-browser", "chrome")
_NO_CHROME = (
    "no Chrome could be started to draw the figure ({}); install one with `plotly_get_chrome` (or Debian's package "
    "chromium), or name one in BROWSER_PATH."
)
# Seconds to wait for a picture; of many points, which a vector format holds one by one, more for each.
_PATIENCE, _PER_POINT = 120.0, 5e-3


def draw(figure: go.Figure, width: float, height: float, formats: tuple[Format, ...]) -> dict[Format, bytes]:
    """Return a figure of width x height inches in each format, PNG at 300 pixels an inch, all by the same browser.

    The browser starts with the first figure and ends with this process. Raises RuntimeError where none can be started,
    with the command that brings one, or where it fails, or takes too long for what there is to draw.
    """
    traces: Any = figure.data
    points = sum(map(_points, traces))
    patience = _PATIENCE + _PER_POINT * points
    figure_dict = figure.to_dict()
    drawn: dict[Format, bytes] = {}
    for kind in formats:
        scale = PNG_PIXELS_PER_INCH / PIXELS_PER_INCH if kind == "png" else 1
        size = {"width": width * PIXELS_PER_INCH, "height": height * PIXELS_PER_INCH}
        browser = _Browser.get()
        try:
            drawn[kind] = browser.calculate(figure_dict, {"format": kind, "scale": scale, **size}, patience)
        except TimeoutError:  # asyncio's, which says nothing
            raise RuntimeError(
                f"the figure has {points:,} points, and its {kind.upper()} was not drawn within {patience:.0f} s; "
                "expected fewer: draw a part of them, their extremes, or a histogram or heat map of them."
            ) from None
        except Exception as error:  # kaleido's own, of many kinds
            raise RuntimeError(f"the browser did not draw the figure's {kind.upper()} ({error}).") from error
    return drawn


def _points(trace: Any) -> int:
    """Count what of a trace is drawn one by one: a heat map is one picture."""
    if trace.type in ("heatmap", "image"):
        return 0
    held = trace.to_plotly_json()
    return max((np.size(held[name]) for name in ("x", "y") if name in held), default=0)


def find_browser() -> str:
    """Return the path of the Chrome that draws: BROWSER_PATH, one on the PATH, or what `plotly_get_chrome` brought.

    Raises RuntimeError where there is none.
    """
    named = os.environ.get("BROWSER_PATH")
    if named:
        if shutil.which(named) is None:
            raise RuntimeError(_NO_CHROME.format(f"BROWSER_PATH is {named!r}, which is no program"))
        return named
    with from_extra("lab"):
        from choreographer.browsers.chromium import Chromium

    found = next(filter(None, map(shutil.which, _BROWSERS)), None) or Chromium.find_browser(skip_local=False)
    if found is None:
        raise RuntimeError(_NO_CHROME.format("none was found"))
    return str(found)


class _Browser:
    """A browser with an event loop of its own, so that it can be used from a notebook's kernel, whose loop runs.

    kaleido's own server would wait for ever for a browser that cannot start.
    """

    _running: _Browser | None = None
    _lock = Lock()

    @classmethod
    def get(cls) -> _Browser:
        with cls._lock:
            if cls._running is None:
                cls._running = cls(find_browser())
                atexit.register(cls.stop)
            return cls._running

    @classmethod
    def stop(cls) -> None:
        """End the browser; the next figure starts another."""
        with cls._lock:
            running, cls._running = cls._running, None
        atexit.unregister(cls.stop)
        if running is not None:
            running._close()

    def __init__(self, path: str):
        with from_extra("lab"):
            import kaleido

        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, daemon=True, name="qdelta figures")
        self._thread.start()
        # No MathJax: it would come from the network, and its absence would go unnoticed.
        page = kaleido.PageGenerator(mathjax=False)

        async def start() -> Any:
            browser = kaleido.Kaleido(n=1, path=path, page_generator=page, timeout=None)  # `_wait` has one
            await browser.__aenter__()
            return browser

        try:
            self._kaleido = self._wait(start())
        except Exception as error:
            self._loop.call_soon_threadsafe(self._loop.stop)
            raise RuntimeError(_NO_CHROME.format(f"{path} failed")) from error

    def calculate(self, figure: dict[str, Any], options: dict[str, Any], patience: float) -> bytes:
        try:
            return self._wait(self._kaleido.calc_fig(figure, opts=options), patience)
        except Exception:
            self.stop()  # whatever state it is in
            raise

    def _wait(self, coroutine: Any, patience: float = _PATIENCE) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(patience)

    def _close(self) -> None:
        try:
            self._wait(self._kaleido.__aexit__(None, None, None))
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(5)
