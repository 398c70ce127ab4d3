"""Results of finished runs, read from files that may be anything."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from numbers import Number, Real
from pathlib import Path
from typing import Any

# Real is finite: training stops at a loss that is not. What was trained may still measure as NaN or infinity.
_SCORE = {"condition": str, "metric": str, "value": Number}
_RUN = {
    **{"experiment": str, "task": str, "variant": str, "seed": int, "tokens": int},
    **{"task_settings": {}, "model": {}, "made": {}},
    "training": {"steps": int, "learning_rate": Real},
    "result": {"parameters": int, "last_losses": Real, "seconds_training": Real, "seconds_measuring": Real},
}


def read_run(path: Path) -> dict[str, Any]:
    """Return a finished run's record, as `run_experiment` wrote it; scores are floats, NaN and infinities included.

    Raises FileNotFoundError where there is none, ValueError, with the file's name, for one that is damaged.
    """
    run = read_json(path, _RUN)
    scores = run["result"].get("scores")
    wrong = "not there" if not isinstance(scores, list) else next(filter(None, (_lacks(x, _SCORE) for x in scores)), "")
    if wrong:
        raise ValueError(f"{path} is damaged: result.scores is {wrong}; {REMEDY}.")
    for score in scores:
        score["value"] = float(score["value"])
    return run


def read_json(path: Path, needed: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON object in a file, which has what is needed: names with a type, or with what they hold.

    Raises FileNotFoundError where there is none, ValueError, with the file's name, for one that is damaged.
    """
    try:
        found = json.loads(Path(path).read_bytes())
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read ({error}); {REMEDY}.") from error
    if wrong := _lacks(found, needed):
        raise ValueError(f"{path} is damaged: it has {wrong}; {REMEDY}.")
    return found


REMEDY = "expected the record of a finished run: put a copy of it back, or remove it to run it again"


def _lacks(found: Any, needed: Mapping[str, Any], name: str = "") -> str:
    """Say which of the needed names is missing or of another type; "" where none is."""
    if not isinstance(found, dict):
        return f"{name or 'the file'} = {str(found)[:60]!r}, no object"
    for key, kind in needed.items():
        full = f"{name}.{key}" if name else key
        if isinstance(kind, Mapping):
            if wrong := _lacks(found.get(key), kind, full):
                return wrong
        elif not _is(found.get(key), kind):
            return f"{full} = {str(found.get(key))[:60]!r}"
    return ""


def _is(x: Any, kind: type) -> bool:
    """Whether a value is of a kind and a table holds it: text of characters, an int of 64 bits, a number of a float."""
    if isinstance(x, bool) or not isinstance(x, kind):
        return False
    if kind is str:
        return not any("\ud800" <= c <= "\udfff" for c in x)
    if kind is int:
        return abs(x) < 2**63
    return (kind is Number and isinstance(x, float)) or abs(x) <= sys.float_info.max
