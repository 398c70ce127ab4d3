"""Results of finished runs, read from files that may be anything."""

from __future__ import annotations

import json
from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import Any

_SCORE = {"condition": str, "metric": str, "value": Real}
_RUN = {
    **{"experiment": str, "task": str, "variant": str, "seed": int, "tokens": int},
    **{"task_settings": {}, "model": {}, "made": {}},
    "training": {"steps": int, "learning_rate": Real},
    "result": {"parameters": int, "last_losses": Real, "seconds_training": Real, "seconds_measuring": Real},
}


def read_run(path: Path) -> dict[str, Any]:
    """Return a finished run's record, as `run_experiment` wrote it.

    Raises FileNotFoundError where there is none, ValueError, with the file's name, for one that is damaged.
    """
    run = read_json(path, _RUN)
    scores = run["result"].get("scores")
    wrong = "not there" if not isinstance(scores, list) else next(filter(None, (_lacks(x, _SCORE) for x in scores)), "")
    if wrong:
        raise ValueError(f"{path} is damaged: result.scores is {wrong}; {REMEDY}.")
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
        elif not isinstance(found.get(key), kind) or isinstance(found[key], bool):
            return f"{full} = {str(found.get(key))[:60]!r}"
    return ""
