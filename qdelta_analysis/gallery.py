"""A folder of figures, each drawn by a recipe of its own: build them, check them, and show them with their captions.

A recipe is a file in FOLDER/recipes with

    VENUE = "icml-column"; HEIGHT = 2.2          # as `export` takes them
    CAPTION = "What the figure shows."
    def draw() -> tuple[go.Figure, dict]         # the figure, and the parameters that it was made with
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .export import export
from .extras import from_extra
from .files import replacing
from .fingerprints import described, differences, same_text
from .provenance import provenance

with from_extra("lab"):
    import plotly.graph_objects as go
    from plotly.basedatatypes import BaseFigure


@dataclass(frozen=True)
class Recipe:
    """How one figure is drawn, and what it says."""

    name: str
    venue: str
    height: float
    caption: str
    draw: Callable[[], tuple[go.Figure, dict[str, Any]]]


def figures_folder() -> Path:
    """Return the checkout's figures folder; raise FileNotFoundError where there is none."""
    folder = Path(__file__).resolve().parents[1] / "figures"
    if not folder.is_dir():
        raise FileNotFoundError(f"the figures come with a checkout of the repository, and {folder} does not exist.")
    return folder


def recipes(folder: Path, names: Sequence[str] = ()) -> list[Recipe]:
    """Return a folder's recipes in the order of their names, or those asked for.

    Raises FileNotFoundError for a folder without recipes, ValueError for a name that is not there or a file that is
    no recipe.
    """
    return [load(path) for path in recipe_files(folder, names)]


def recipe_files(folder: Path, names: Sequence[str] = ()) -> list[Path]:
    """Return the files of a folder's recipes as `recipes` does, but look into none of them."""
    files = {path.stem: path for path in sorted((folder / "recipes").glob("[!_]*.py"))}
    if not files:
        raise FileNotFoundError(f"{folder} has no recipes; expected files of Python in {folder / 'recipes'}.")
    for name in names:
        if name not in files:
            raise ValueError(f"name is {name!r}; expected one of {', '.join(files)}.")
    return [path for name, path in files.items() if not names or name in names]


def load(path: Path) -> Recipe:
    """Return the recipe that a file holds; raises ValueError where it holds none, whatever it does instead."""
    try:
        spec = importlib.util.spec_from_file_location(f"figure_{path.stem}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return Recipe(path.stem, module.VENUE, module.HEIGHT, " ".join(module.CAPTION.split()), module.draw)
    except (Exception, SystemExit) as error:  # a recipe is the user's code
        raise ValueError(
            f"{path} is no recipe: {_reason(error)}; expected VENUE, HEIGHT, CAPTION and draw()."
        ) from error


def build(folder: Path, recipe: Recipe) -> tuple[Path, ...]:
    """Draw one recipe into its folder; returns what was written, as `export` does.

    Raises ValueError where draw() fails, and what `export` raises.
    """
    try:
        figure, parameters = _drawn(recipe)
    except (Exception, SystemExit) as error:
        raise ValueError(f"draw() fails with {_reason(error)}.") from error
    return export(figure, folder / recipe.name, recipe.venue, height=recipe.height, parameters=parameters)


def write_page(folder: Path) -> Path:
    """Write the gallery, README.md, from all of a folder's recipes."""
    with replacing(folder / "README.md") as new:
        new.write_text(page(recipes(folder)), encoding="utf-8")
    return folder / "README.md"


def check(folder: Path, recipe: Recipe) -> list[str]:
    """Draw one recipe anew, in memory, and return how it differs from its sidecar and files; empty if it matches.

    Numbers are compared up to rounding, as `fingerprints.differences` does, and neither versions nor commits are. No
    browser is needed. A damaged sidecar or a recipe that fails is such a difference too.
    """
    sidecar = folder / f"{recipe.name}.json"
    if not sidecar.is_file():
        return ["it has not been built"]
    try:
        drawn = provenance(*_drawn(recipe))
    except (Exception, SystemExit) as error:  # whatever it does, the next is checked
        return [f"its recipe fails with {_reason(error)}"]
    try:
        return _compared(folder, recipe, json.loads(sidecar.read_text(encoding="utf-8")), drawn)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return [f"{sidecar} is damaged; expected a sidecar as `export` writes it"]


def _compared(folder: Path, recipe: Recipe, recorded: dict[str, Any], drawn: dict[str, Any]) -> list[str]:
    found = []
    if differences(*(described(made["parameters"]) for made in (recorded, drawn))):
        found.append(f"parameters were {recorded['parameters']} and are {drawn['parameters']}")
    if (recorded["venue"], recorded["size_in"][1]) != (recipe.venue, recipe.height):
        found.append(f"it was drawn for {recorded['venue']}, {recorded['size_in'][1]:g} in high")
    found += [f"{name} is another" for name in differences(recorded["drawing"], drawn["drawing"])]
    for name, digest in recorded["files"].items():
        file = folder / name
        if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != digest:
            found.append(f"{name} is {'not the file that was built' if file.is_file() else 'missing'}")
    return found


def check_page(folder: Path) -> list[str]:
    """Return what is wrong with the gallery: captions that changed, and figures whose recipe is gone."""
    found, names = [], {recipe.name for recipe in recipes(folder)}
    readme = folder / "README.md"
    # A caption may say numbers that are computed anew.
    if not readme.is_file() or not same_text(
        readme.read_text(encoding="utf-8", errors="replace"), page(recipes(folder))
    ):
        found.append("README.md does not show the recipes' captions")
    gone = sorted(path.stem for path in folder.glob("*.json") if path.stem not in names)
    return found + [f"{name} has no recipe" for name in gone]


def page(recipes: Sequence[Recipe]) -> str:
    """Return the gallery as Markdown: every figure with its caption."""
    head = (
        "# Figures\n\nWritten by `make figures`; each figure's recipe is a file in [recipes](recipes), and its sidecar "
        "(JSON) holds parameters, versions, commit and hashes. `qdelta figures --check` says which no longer match.\n"
    )
    parts = [head]
    for number, recipe in enumerate(recipes, start=1):
        links = ", ".join(f"[{kind}]({recipe.name}.{kind})" for kind in ("pdf", "svg", "png", "json"))
        parts.append(
            f"\n![{recipe.name}]({recipe.name}.png)\n\n**Figure {number}.** {recipe.caption}\n"
            f"({links}, [recipe](recipes/{recipe.name}.py); {recipe.venue})\n"
        )
    return "".join(parts)


def _drawn(recipe: Recipe) -> tuple[go.Figure, dict[str, Any]]:
    """Return what draw() returns, if that is a figure and its parameters."""
    drawn: Any = recipe.draw()
    kinds = [type(x) for x in drawn] if isinstance(drawn, tuple) else []
    if len(kinds) != 2 or not issubclass(kinds[0], BaseFigure) or not issubclass(kinds[1], Mapping):
        came = f"({', '.join(kind.__name__ for kind in kinds)})" if isinstance(drawn, tuple) else type(drawn).__name__
        raise TypeError(f"draw() returned {came}; expected a go.Figure and a dict")
    return drawn


def _reason(error: BaseException) -> str:
    """Say an error in one line."""
    return ": ".join(filter(None, (type(error).__name__, " ".join(str(error).split()).rstrip("."))))
