"""Interactive widgets for JupyterLab."""

from .explorer import Explorer
from .scrubber import StateScrubber
from .slides import Slides

__all__ = ["Explorer", "Slides", "StateScrubber"]
