"""What widgets say when something is wrong."""

import html
from collections.abc import Callable

import ipywidgets as W

PROBLEM = "#b3380a"  # the colour of it


def problem(message: object) -> str:
    """Return a message as HTML in that colour."""
    return f'<span style="color: {PROBLEM}">{html.escape(str(message))}</span>'


def saying(place: W.HTML) -> Callable[[str], None]:
    """Return what shows a message there, and with an empty one nothing."""
    return lambda words: place.set_trait("value", words and problem(words))
