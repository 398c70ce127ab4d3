"""The experiments whose results are in the package: which, how they were made, and the paper's figures beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from qdelta_analysis.data import FOLDER

from ..tasks import MQAR, StateTracking
from .paper import paper_ablation, paper_results
from .plans import EXPERIMENTS
from .tables import stored

_IN_THE_PAPER = {"deltanet": "DeltaNet", "gated-deltanet": "Gated DeltaNet", "q-delta": "Q-Delta"}


def made(name: str, folder: Path = FOLDER) -> dict[str, Any] | None:
    """Return how a shipped experiment was made: tasks, models, training, and each run's own; None where it was not."""
    path = folder / f"experiment_{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def shipped_runs(name: str, task: str | None = None, folder: Path = FOLDER) -> pd.DataFrame:
    """Return the results of a shipped experiment, of one of its tasks if named.

    Raises FileNotFoundError, with the command that makes them, where it was not run.
    """
    runs = stored(name, folder=folder)
    if runs is None:
        raise FileNotFoundError(f"no runs of {name} are stored; expected those that `qdelta experiment {name}` makes.")
    return runs if task is None else runs.loc[runs["task"] == task]


def overview(folder: Path = FOLDER) -> pd.DataFrame:
    """Return one row for every experiment: its size as it was run; missing values for one that has not been run.

    Columns: tasks, variants, seeds, parameters (the most of a variant), tokens (read in training by each run), hours
    (of training and measuring, all runs together, also those at other learning rates), device.
    """
    rows = []
    for name in EXPERIMENTS:
        table, note = stored(name, folder=folder), made(name, folder)
        row: dict[str, Any] = {"experiment": name}
        if table is not None and note is not None:
            devices = dict.fromkeys(run["made"]["device"] for run in note["runs"])
            row |= {"tasks": ", ".join(note["tasks"]), "variants": table["variant"].nunique()}
            row |= {"seeds": table["seed"].nunique(), "parameters": max(run["parameters"] for run in note["runs"])}
            row |= {"tokens": note["tokens"], "hours": round(note["seconds"] / 3600, 2), "device": ", ".join(devices)}
        rows.append(row)
    columns = ["experiment", "tasks", "variants", "seeds", "parameters", "tokens", "hours", "device"]
    whole = dict.fromkeys(["variants", "seeds", "parameters", "tokens"], "Int64")
    return pd.DataFrame(rows, columns=columns).astype(whole).set_index("experiment")


def guessing(note: Mapping[str, Any] | None) -> dict[str, float]:
    """Return by task the accuracy that guessing reaches: 1 / values for MQAR, 1 / the group's order for its states.

    Tasks of which that is not known (needles, text) are left out. note: what `made` returned; {} of None.
    """
    chances = {}
    for task, settings in note["tasks"].items() if note else ():
        if settings["kind"] == MQAR.__name__:
            chances[task] = 1 / settings["values"]
        if settings["kind"] == StateTracking.__name__:
            chances[task] = 1 / StateTracking(settings["group"]).vocabulary
    return chances


def beside_paper(found: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return a metric's means over seeds, a column a task and condition, beside what the paper reports for a variant.

    found: what `summary` returned. The paper's columns are those of `paper_ablation` where a variant of its ablation is
    among them, else its average over S-NIAH; NaN for what it does not report. Its models have 340M or 1.3B parameters.
    """
    rows = found.loc[found["metric"] == metric]
    cells = [f"{mean:.4f} ± {sd:.4f}" for mean, sd in zip(rows["mean"], rows["sd"], strict=True)]
    named = rows.assign(cell=cells, column=rows["condition"])
    ours = named.pivot(index="variant", columns="column", values="cell")
    ours = ours.loc[list(dict.fromkeys(named["variant"])), list(dict.fromkeys(named["column"]))]
    if any("lam =" in variant for variant in ours.index):
        theirs = paper_ablation()
    else:
        theirs = paper_results()[["S-NIAH, 1.3B"]].rename({name: ours for ours, name in _IN_THE_PAPER.items()})
    theirs = theirs.reindex(ours.index).add_prefix("paper: ")
    return pd.concat([ours, theirs], axis=1).rename_axis(columns=None)
