"""What widgets say when something is wrong."""

import html

PROBLEM = "#b3380a"  # the colour of it


def problem(message: object) -> str:
    """Return a message as HTML in that colour."""
    return f'<span style="color: {PROBLEM}">{html.escape(str(message))}</span>'
