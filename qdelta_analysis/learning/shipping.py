"""From finished runs to the files in qdelta_analysis/data: results, weights, trace, and the note's table."""

from __future__ import annotations

import json
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from qdelta_analysis.data import FOLDER, MODEL, RESULTS, TEXT
from qdelta_analysis.files import write

from .configs import ModelConfig, Rule
from .corpus import Corpus, prose_excerpt, read_text, split_text, to_tokens
from .experiments.records import read_json
from .files import load_weights, save_trace, save_weights
from .training import TrainingConfig, evaluate, run

COMPARED: tuple[Rule, ...] = ("q-delta", "gated-deltanet", "deltanet")
SEEDS = (0, 1, 2)
TRACE_LENGTH = 1024
COMMAND = "python -m qdelta_analysis.learning"
_RECORD = {"result": {"rule": str, "seed": int}, "training": {}, "model": {"layer": {}}, "environment": {}}
_MARKS = "<!-- results -->\n", "<!-- end of results -->"


def finish_run(
    sizes: ModelConfig,
    config: TrainingConfig,
    seed: int,
    folder: Path,
    corpus: Corpus,
    *,
    progress: bool = True,
) -> Path:
    """Train one rule with one seed, unless its result is there already; return the result's path.

    The folder gets RULE-seedN.json, the result and all settings, and RULE-seedN.safetensors, the weights.
    Raises ValueError for a finished run with other settings, or a damaged record of one.
    """
    path = folder / f"{sizes.layer.rule}-seed{seed}.json"
    settings = json.loads(json.dumps({"model": asdict(sizes), "training": asdict(config)}))
    if path.exists():
        found = read_json(path, _RECORD)
        if any(found[name] != settings[name] for name in settings):
            raise ValueError(f"{path} holds a run with other settings; expected {settings}.")
        return path
    folder.mkdir(parents=True, exist_ok=True)
    model, result = run(sizes, config, corpus, seed, progress=progress)
    save_weights(model, path.with_suffix(".safetensors"))
    record = {"result": asdict(result), **settings, "environment": _environment()}
    write(path, json.dumps(record, indent=1) + "\n")  # last: where it is, the run is whole
    return path


def ship(folder: Path, rule: Rule = "q-delta", seed: int = 0, destination: Path = FOLDER) -> None:
    """Write results, weights, trace, text and the note's table from the nine finished runs in `folder`."""
    names = [f"{each}-seed{number}.json" for each in COMPARED for number in SEEDS]
    if missing := [name for name in names if not (folder / name).exists()]:
        raise FileNotFoundError(f"{folder} lacks {', '.join(missing)}; expected nine finished runs (train-all).")
    records = [read_json(folder / name, _RECORD) for name in names]
    model = load_weights(folder / f"{rule}-seed{seed}.safetensors")
    held_out = split_text(read_text())[1]
    text = prose_excerpt(held_out, TRACE_LENGTH)
    tokens = to_tokens(text)
    save_weights(model, destination / MODEL.name)
    write(destination / TEXT.name, text)
    metadata = {"source": f"trained {rule}", "seed": str(seed), "text": text.decode(), "command": f"{COMMAND} ship"}
    for number, inputs in enumerate(model.capture(tokens[None], metadata)):
        save_trace(inputs, destination / f"trained_layer{number}.safetensors")
    first = records[0]
    del first["model"]["layer"]["rule"]  # the one setting in which the runs differ
    results = {
        "runs": [record["result"] for record in records],
        "training": first["training"],
        "model": first["model"],
        "environment": first["environment"],
        "shipped": {
            "rule": rule,
            "seed": seed,
            "text_start": held_out.index(text),
            "text_bits_per_byte": evaluate(model, tokens),
        },
    }
    write(destination / RESULTS.name, json.dumps(results, indent=1) + "\n")
    note = destination / "README.md"
    write(note, with_table(note.read_text(encoding="utf-8"), results_table(results["runs"])))


def results_table(runs: Sequence[Mapping[str, Any]]) -> str:
    """Return the runs as a Markdown table: held-out bits per byte by seed, mean and standard deviation."""
    head = "| rule | parameters | seed 0 | seed 1 | seed 2 | mean ± s.d. | windows of 1024 | seconds per run |"
    lines = [head, "|---" * 8 + "|"]
    for rule in COMPARED:
        mine = sorted((run for run in runs if run["rule"] == rule), key=lambda run: run["seed"])
        bits, double = ([run[name] for run in mine] for name in ("bits_per_byte", "bits_per_byte_double"))
        seconds = [run["seconds"] for run in mine]
        cells = [rule, f"{mine[0]['parameters']:,}", *(f"{x:.4f}" for x in bits)]
        cells += [f"{statistics.mean(x):.4f} ± {statistics.stdev(x):.4f}" for x in (bits, double)]
        lines.append(f"| {' | '.join(cells)} | {min(seconds):.0f} to {max(seconds):.0f} |")
    return "\n".join(lines) + "\n"


def with_table(note: str, table: str) -> str:
    """Return the note with the table between its two marks replaced."""
    before, _, rest = note.partition(_MARKS[0])
    _, mark, after = rest.partition(_MARKS[1])
    if not mark:
        raise ValueError(f"the note has no {_MARKS[0].strip()} ... {_MARKS[1]}; expected both marks.")
    return f"{before}{_MARKS[0]}{table}{mark}{after}"


def _environment() -> dict[str, str | int]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": f"{platform.system()} {platform.machine()}",
        "threads": torch.get_num_threads(),
    }
