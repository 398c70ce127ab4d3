"""Interactive widgets for JupyterLab."""

from ..extras import from_extra

with from_extra("lab"):
    import anywidget  # noqa: F401 (the modules here need these, and plotly through `plots`)
    import ipywidgets  # noqa: F401

from .evolution import MemoryEvolution
from .explorer import Explorer
from .scrubber import StateScrubber
from .slides import Slides
from .sweeps import SweepExplorer

__all__ = ["Explorer", "MemoryEvolution", "Slides", "StateScrubber", "SweepExplorer"]
