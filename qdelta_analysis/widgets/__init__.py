"""Interactive widgets for JupyterLab."""

from .explorer import Explorer
from .scrubber import StateScrubber
from .slides import Slides
from .sweeps import SweepExplorer

__all__ = ["Explorer", "Slides", "StateScrubber", "SweepExplorer"]
