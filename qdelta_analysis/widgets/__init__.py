"""Interactive widgets for JupyterLab."""

from .explorer import Explorer
from .scrubber import StateScrubber

__all__ = ["Explorer", "StateScrubber"]
