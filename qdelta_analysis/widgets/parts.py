"""What the widgets here are made of, and what they do together: say why a picture is not there, and end as a whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ipywidgets as W


def static(name: str) -> str:
    """Return one of the browser's files.

    Given as a path instead, anywidget would watch it, and keep every widget that was ever made for the sake of that.
    """
    return (Path(__file__).parent / "static" / name).read_text(encoding="utf-8")


class Whole:
    """A widget that ends as a whole: with it everything that it is made of is closed."""

    def close(self) -> None:
        """Close the widget, the widgets in it, and their layouts and styles."""
        parts = list(_parts(self))
        super().close()  # pyright: ignore[reportAttributeAccessIssue]
        for part in parts:
            part.close()


def _parts(widget: Any) -> Iterator[W.Widget]:
    for name in widget.keys:
        value = getattr(widget, name)
        for part in value if isinstance(value, list | tuple) else (value,):
            if isinstance(part, W.Widget):
                yield part
                yield from _parts(part)


class Screen:
    """The pictures of a widget: they show what its controls say, or else they are hidden and it is said why.

    refresh: draws all of them anew. say: shows a sentence, or takes it away where there is none.
    """

    def __init__(self, refresh: Callable[[], None], say: Callable[[str], None]):
        self._refresh, self._say = refresh, say
        self._pictures: tuple[W.DOMWidget, ...] = ()
        self.failed = ""

    def hold(self, *pictures: W.DOMWidget) -> None:
        """Take more pictures, to hide and to show."""
        self._pictures += pictures

    def answer(self, change: Callable[[], None]) -> None:
        """Do what a control asks for; after a failure draw everything anew: what was drawn last is of no setting."""
        try:
            (self._refresh if self.failed else change)()
        except BaseException as error:  # an interrupted change is on the screen by halves, too
            self.fail(error)
            if not isinstance(error, Exception):
                raise
        else:
            self.clear()

    def fail(self, error: BaseException) -> None:
        """Hide the pictures and say why."""
        words = str(error)
        named = words if words and isinstance(error, ValueError) else f"{type(error).__name__}: {words}".rstrip(": ")
        self.failed = named
        self._show("hidden")
        self._say(named)

    def clear(self) -> None:
        """Show the pictures: they are what the controls say."""
        if self.failed:
            self.failed = ""
            self._show(None)
            self._say("")

    def check(self) -> None:
        """Raise RuntimeError where nothing is shown, for who would export it."""
        if self.failed:
            raise RuntimeError(f"nothing was exported, since nothing is shown: {self.failed}")

    def _show(self, visibility: str | None) -> None:
        # Their room stays: the page does not jump, and a figure that is drawn meanwhile finds its size.
        for picture in self._pictures:
            picture.layout.visibility = visibility
