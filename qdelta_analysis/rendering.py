"""Figures to bytes: one Chrome that is on the machine draws all of them, offline."""

from __future__ import annotations

import asyncio
import atexit
import os
import shutil
from threading import Lock, Thread
from typing import Any, Literal

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
_PATIENCE = 120.0  # seconds


def draw(figure: go.Figure, width: float, height: float, formats: tuple[Format, ...]) -> dict[Format, bytes]:
    """Return a figure of width x height inches in each format, PNG at 300 pixels an inch, all by the same browser.

    The browser starts with the first figure and ends with this process. Raises RuntimeError where none can be started,
    with the command that brings one.
    """
    figure_dict = figure.to_dict()
    drawn: dict[Format, bytes] = {}
    for kind in formats:
        scale = PNG_PIXELS_PER_INCH / PIXELS_PER_INCH if kind == "png" else 1
        size = {"width": width * PIXELS_PER_INCH, "height": height * PIXELS_PER_INCH}
        drawn[kind] = _Browser.get().calculate(figure_dict, {"format": kind, "scale": scale, **size})
    return drawn


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
            browser = kaleido.Kaleido(n=1, path=path, page_generator=page)
            await browser.__aenter__()
            return browser

        try:
            self._kaleido = self._wait(start())
        except Exception as error:
            self._loop.call_soon_threadsafe(self._loop.stop)
            raise RuntimeError(_NO_CHROME.format(f"{path} failed")) from error

    def calculate(self, figure: dict[str, Any], options: dict[str, Any]) -> bytes:
        try:
            return self._wait(self._kaleido.calc_fig(figure, opts=options))
        except Exception:
            self.stop()  # whatever state it is in
            raise

    def _wait(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(_PATIENCE)

    def _close(self) -> None:
        try:
            self._wait(self._kaleido.__aexit__(None, None, None))
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(5)
