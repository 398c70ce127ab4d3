"""How a notebook keeps its figures: as JupyterLab draws them, and as HTML for pages that are made of it (nbconvert)."""

from __future__ import annotations

import os
import uuid
from typing import Any

import plotly.io as pio
from plotly.io.base_renderers import MimetypeRenderer
from plotly.offline import get_plotlyjs

_NAME = "qdelta_page"
# A module runs when the whole page is there, and so after the library, wherever on the page that is.
_FIGURE = """<div id="{name}"></div>
<script type="module">
const {{data, layout}} = {figure};
Plotly.newPlot("{name}", data, layout, {{displaylogo: false, responsive: true}});
</script>
"""


class PageRenderer(MimetypeRenderer):
    """Figures as HTML that needs no network; plotly.js, of some megabytes, is in the first of a notebook only."""

    def __init__(self):
        # plotly copies a renderer before each use.
        self._library: dict[str, Any] = {}

    def to_mimebundle(self, fig_dict: dict[str, Any]) -> dict[str, str]:
        """Return the figure's HTML, with plotly.js if nothing on the page has brought it yet."""
        figure = pio.to_json(fig_dict, validate=False, remove_uids=False) or ""
        drawn = _FIGURE.format(name=f"figure-{uuid.uuid4()}", figure=figure.replace("<", "\\u003c"))
        cell, run = _running()
        # A cell that is run again loses what it had shown, the library with it.
        if not self._library or (cell == self._library["cell"] and run != self._library["run"]):
            self._library.update(cell=cell, run=run)
            drawn = f"<script>{get_plotlyjs()}</script>\n{drawn}"
        return {"text/html": drawn}


def keep_for_pages() -> None:
    """Let a Jupyter kernel keep figures for pages too, where nobody has chosen how they are shown."""
    if pio.renderers.default == "plotly_mimetype" and "PLOTLY_RENDERER" not in os.environ:
        pio.renderers[_NAME] = PageRenderer()
        pio.renderers.default = f"plotly_mimetype+{_NAME}"


def _running() -> tuple[Any, int]:
    """Return which cell runs, as far as the notebook says, and which run of the kernel this is."""
    from IPython.core.getipython import get_ipython

    shell: Any = get_ipython()
    run = getattr(shell, "execution_count", 0)
    parent = shell.get_parent() if hasattr(shell, "get_parent") else {}
    return parent.get("metadata", {}).get("cellId", run), run
