"""Interactive widgets for JupyterLab."""

from .evolution import MemoryEvolution
from .explorer import Explorer
from .scrubber import StateScrubber
from .slides import Slides
from .sweeps import SweepExplorer

__all__ = ["Explorer", "MemoryEvolution", "Slides", "StateScrubber", "SweepExplorer"]
