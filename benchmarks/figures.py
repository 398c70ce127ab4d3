"""Drawing the whole gallery: every recipe from its inputs to PDF, SVG, PNG and sidecar, by one browser."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from qdelta_analysis import gallery, rendering

from .machine import other_seconds
from .report import Figure, Unavailable, among_others
from .timing import once

TITLE = "the gallery's figures, each as PDF, SVG and PNG with its sidecar, one browser process for all"


def measure(quick: bool = False) -> list[Figure]:
    """Check that every committed figure matches its recipe, then draw all into another folder and time it.

    The browser's start counts, the interpreter's and the imports' do not.
    """
    try:
        rendering.find_browser()
    except RuntimeError as error:
        raise Unavailable(str(error)) from error
    committed = gallery.figures_folder()
    found = gallery.recipes(committed)[: 2 if quick else None]
    for recipe in found:
        wrong = gallery.check(committed, recipe)
        assert not wrong, f"{recipe.name} no longer matches: {'; '.join(wrong)}"
    rendering._Browser.stop()
    with tempfile.TemporaryDirectory() as folder:
        new = Path(folder)
        shutil.copytree(committed / "recipes", new / "recipes")
        before, seconds = other_seconds(), {"start": once(rendering._Browser.get)}
        running = rendering._Browser.get()
        for recipe in found:
            seconds[recipe.name] = once(lambda recipe=recipe: gallery.build(new, recipe))
        assert rendering._Browser.get() is running, "another browser was started"
        others = (other_seconds() - before) / sum(seconds.values())
        for recipe in found:
            wrong = gallery.check(new, recipe)
            assert not wrong, f"{recipe.name} was drawn otherwise: {'; '.join(wrong)}"
    figures = [Figure(f"drawing {name}", seconds[name], "s") for name in seconds if name != "start"]
    figures.append(Figure("starting the browser", seconds["start"], "s"))
    figures.append(Figure(f"all {len(found)} figures", sum(seconds.values()), "s", at_most=60))
    return among_others(figures, others, "this")
