"""From finished runs to tables: one row a number, mean and spread over seeds, and a paired test."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from qdelta_analysis.data import FOLDER
from qdelta_analysis.files import replacing

from .records import read_run

BASELINE = "gated-deltanet"
SAME_SIZE = 0.01  # parameters of two variants may differ by that share: the gates that one has and the other has not
_RUN = ("experiment", "task", "variant", "seed", "tokens")
_SCORE = ("condition", "metric", "value")
_LOWER = ("nats", "bits per byte")  # where less is better


def at_best_rates(paths: Sequence[Path]) -> list[Path]:
    """Return the runs of each task and variant at its best learning rate: that of the least training loss (of the last
    20 steps, mean over seeds). What is measured after training takes no part in the choice.
    """
    runs = {path: read_run(path) for path in paths}
    best = {key: min(rates, key=lambda rate: rates[rate]) for key, rates in _searched(runs.values()).items()}
    return [path for path, run in runs.items() if best[run["task"], run["variant"]] == _rate(run)]


def results(paths: Sequence[Path]) -> pd.DataFrame:
    """Return all scores of finished runs, tidy: a row for each run, condition and metric.

    Columns: experiment, task, variant, seed, tokens (read in training), steps, learning_rate, parameters, condition,
    metric, value. Of runs at several learning rates those `at_best_rates`.
    Raises FileNotFoundError for a run that is not finished, ValueError for none at all, or one whose record is damaged.
    """
    if not paths:
        raise ValueError("paths is empty; expected at least one finished run.")
    rows: list[dict[str, Any]] = []
    for path in at_best_rates(paths):
        run = read_run(path)
        same = {name: run[name] for name in _RUN}
        same |= {name: run["training"][name] for name in ("steps", "learning_rate")}
        same["parameters"] = run["result"]["parameters"]
        rows += [same | {name: score[name] for name in _SCORE} for score in run["result"]["scores"]]
    return pd.DataFrame(rows)


def losses(paths: Sequence[Path]) -> pd.DataFrame:
    """Return the logged training losses of finished runs: task, variant, seed, step, tokens, loss (nats per target).

    Of runs at several learning rates those `at_best_rates`.
    """
    tables = []
    for path in at_best_rates(paths):
        run = read_run(path)
        log = _read_losses(Path(path).with_suffix("") / "steps.csv")
        same = {name: run[name] for name in ("task", "variant", "seed")}
        tables.append(log.assign(**same)[[*same, *log.columns]])
    return pd.concat(tables, ignore_index=True)


def summary(table: pd.DataFrame, baseline: str = BASELINE) -> pd.DataFrame:
    """Return mean, spread and a paired test against the baseline, by task, condition, metric and variant.

        t = mean(d) / (sd(d) / sqrt(n)),    d_s = value of the variant - value of the baseline, at one seed s

    Both at the same tokens, and at the same parameters to within 1 %; batches and, where they share a parameter, first
    weights are the seed's. Columns: parameters, learning_rate, seeds, mean, sd (over seeds), difference, low, high (its
    95 % interval, Student's t), p (two-sided, not corrected for there being several). NaN where there is one seed,
    or no difference varies.
    Raises ValueError where the baseline lacks a seed, the runs are not of the same size, or a variant has several
    learning rates.
    """
    values: dict[tuple[str, str, str], dict[str, dict[int, float]]] = {}
    sizes: dict[tuple[str, str], tuple[int, int]] = {}
    rates: dict[tuple[str, str], float] = {}
    for row in _records(table):
        key = row["task"], row["condition"], row["metric"]
        rate = rates.setdefault((row["task"], row["variant"]), row["learning_rate"])
        if rate != row["learning_rate"]:
            both = f"{rate:g} and {row['learning_rate']:g}"
            raise ValueError(f"{row['variant']} has the learning rates {both}; expected one, as `results` chooses it.")
        values.setdefault(key, {}).setdefault(row["variant"], {})[row["seed"]] = row["value"]
        sizes[row["task"], row["variant"]] = row["parameters"], row["tokens"]
    rows = []
    for key, variants in values.items():
        if baseline not in variants:
            raise ValueError(f"baseline is {baseline!r}; expected one of {', '.join(map(repr, variants))}.")
        for variant, by_seed in variants.items():
            _require_pairs(key[0], variant, baseline, variants, sizes)
            x = np.array(list(by_seed.values()))
            base = np.array([variants[baseline][seed] for seed in by_seed])
            row = {"task": key[0], "condition": key[1], "metric": key[2], "variant": variant}
            row |= {"parameters": sizes[key[0], variant][0], "learning_rate": rates[key[0], variant]}
            row |= {"seeds": len(x), "mean": x.mean(), "sd": _sd(x)}
            rows.append(row | ({} if variant == baseline else _paired(x, base)))
    return pd.DataFrame(rows)


def summary_text(found: pd.DataFrame) -> str:
    """Lay the summary out for a terminal, a block for each task, condition and metric."""
    lines, last = [], None
    for row in _records(found):
        block = row["task"], row["condition"], row["metric"]
        if block != last:
            what = f"{row['metric']} ({'less' if row['metric'] in _LOWER else 'more'} is better)"
            lines += ["", f"{row['task']}: {row['condition']}, {what}"]
            lines.append(
                f"  {'variant':<28} {'parameters':>10} {'rate':>7}   {'mean ± s.d.':<17} "
                f"against {BASELINE}, paired by seed"
            )
        last = block
        spread = _spread(row["mean"], row["sd"], row["seeds"])
        sizes = f"{row['parameters']:>10,} {row['learning_rate']:>7g}"
        lines.append(f"  {row['variant']:<28} {sizes}   {spread:<17} {_against(row)}".rstrip())
    return "\n".join(lines[1:])


def summary_frame(found: pd.DataFrame) -> pd.DataFrame:
    """Lay one metric's summary out for a notebook, as `summary_text` words it: a row for each condition and variant."""
    rows = [
        {"condition": row["condition"], "variant": row["variant"]}
        | {"mean ± s.d.": _spread(row["mean"], row["sd"], row["seeds"]), f"against {BASELINE}": _against(row)}
        for row in _records(found)
    ]
    return pd.DataFrame(rows).set_index(["condition", "variant"])


def write_results(paths: Sequence[Path], folder: Path) -> tuple[Path, Path, Path]:
    """Write experiment_NAME.csv, a row a number, .json, how each run was made, and _losses.csv; return the paths.

    Of runs at several learning rates those `at_best_rates`; the note keeps what all of them lost.
    """
    every, runs = ([read_run(path) for path in some] for some in (paths, at_best_rates(paths)))
    name = runs[0]["experiment"]
    Path(folder).mkdir(parents=True, exist_ok=True)  # after hours of runs no reason to fail
    place = lambda end: Path(folder) / f"experiment_{name}{end}"
    places = place(".csv"), place(".json"), place("_losses.csv")
    with replacing(places[0]) as new:
        results(paths).to_csv(new, index=False)
    with replacing(places[1]) as new:
        new.write_text(json.dumps({"experiment": name, **_folded(runs), **_effort(every)}, indent=1) + "\n")
    with replacing(places[2]) as new:
        losses(paths).round({"loss": 5}).to_csv(new, index=False)
    return places


def stored(name: str, what: str = "results", folder: Path = FOLDER) -> pd.DataFrame | None:
    """Return a shipped table of an experiment, its "results" or its training "losses"; None where it was not run."""
    path = folder / f"experiment_{name}{'_losses' if what == 'losses' else ''}.csv"
    return pd.read_csv(path) if path.exists() else None


def _read_losses(path: Path) -> pd.DataFrame:
    try:
        log = pd.DataFrame(pd.read_csv(path)[["step", "tokens", "loss"]]).astype("float64")
        counts = log[["step", "tokens"]].to_numpy()
        if not (np.isfinite(log.loss).all() and (np.abs(counts) < 2**53).all() and (counts == counts.round()).all()):
            raise ValueError("a step or its tokens are no whole number, or a loss is not finite")
        return log.astype({"step": "int64", "tokens": "int64"})
    except FileNotFoundError:
        raise
    except (OSError, ValueError, TypeError, KeyError, OverflowError) as error:
        raise ValueError(f"{path} is damaged ({error}); expected the log of a training run.") from error


def _folded(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the settings of runs with each task, model and training said once, and what is each run's own."""
    training = {name: x for name, x in runs[0]["training"].items() if name != "learning_rate"}
    once: dict[str, Any] = {"tasks": {}, "models": {}, "training": training, "tokens": runs[0]["tokens"]}
    own = []
    for run in runs:
        once["tasks"][run["task"]] = run["task_settings"]
        once["models"].setdefault(run["task"], {})[run["variant"]] = run["model"]
        result = {name: x for name, x in run["result"].items() if name != "scores"}
        same = {name: run[name] for name in ("task", "variant", "seed")} | {"learning_rate": _rate(run)}
        own.append(same | result | {"made": run["made"]})
    return {**once, "runs": own}


def _rate(run: Mapping[str, Any]) -> float:
    return run["training"]["learning_rate"]


def _searched(runs: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], dict[float, float]]:
    """Return by task and variant, for each learning rate, the mean of the last training losses over seeds."""
    found: dict[tuple[str, str], dict[float, list[float]]] = {}
    for run in runs:
        rates = found.setdefault((run["task"], run["variant"]), {})
        rates.setdefault(_rate(run), []).append(run["result"]["last_losses"])
    return {key: {rate: sum(x) / len(x) for rate, x in rates.items()} for key, rates in found.items()}


def _effort(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Lay out for a note what all runs took, and what was searched, where something was."""
    took = sum(run["result"][f"seconds_{what}"] for run in runs for what in ("training", "measuring"))
    search: dict[str, dict[str, dict[str, float]]] = {}
    for (task, variant), rates in _searched(runs).items():
        search.setdefault(task, {})[variant] = {f"{rate:g}": round(loss, 5) for rate, loss in sorted(rates.items())}
    several = any(len(rates) > 1 for by_variant in search.values() for rates in by_variant.values())
    return {"seconds": round(took, 1)} | ({"learning_rates": search} if several else {})


def _paired(x: np.ndarray, base: np.ndarray) -> dict[str, float]:
    d = x - base
    row = {"difference": d.mean(), "low": math.nan, "high": math.nan, "p": math.nan}
    if len(d) > 1 and np.ptp(d) > 0:
        test: Any = stats.ttest_rel(x, base)
        interval = test.confidence_interval(0.95)
        row |= {"low": interval.low, "high": interval.high, "p": test.pvalue}
    return row


def _require_pairs(
    task: str,
    variant: str,
    baseline: str,
    variants: Mapping[str, Mapping[int, float]],
    sizes: Mapping[tuple[str, str], tuple[int, int]],
) -> None:
    if lacking := sorted(set(variants[variant]) - set(variants[baseline])):
        raise ValueError(
            f"{baseline} lacks seed {lacking[0]}, which {variant} has; expected the same seeds, for a test."
        )
    pairs = zip(("parameters", "tokens"), sizes[task, variant], sizes[task, baseline], (SAME_SIZE, 0), strict=True)
    for name, mine, base, share in pairs:
        if abs(mine - base) > share * base:
            raise ValueError(f"{variant} has {mine} {name}, {baseline} {base}; expected at most {share:.0%} apart.")


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): x for name, x in row.items()} for row in table.to_dict("records")]


def _sd(x: np.ndarray) -> float:
    return float(x.std(ddof=1)) if len(x) > 1 else math.nan


def _spread(mean: float, sd: float, seeds: int) -> str:
    return f"{mean:.4f} ± {sd:.4f}" if seeds > 1 else f"{mean:.4f} (1 seed)"


def _against(row: Mapping[str, Any]) -> str:
    if row["variant"] == BASELINE:
        return ""
    if math.isnan(row["p"]):
        return f"{row['difference']:+.4f}"
    return f"{row['difference']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}], p = {row['p']:.3f}"
