"""JSON that every reader takes: of Python's and NumPy's values, with texts for what it has no form for."""

from __future__ import annotations

import datetime
import json
import math
import re
from collections.abc import Mapping, Set
from pathlib import PurePath
from typing import Any

import numpy as np


def dumps(x: Any, indent: int | None = None) -> str:
    """Return strict JSON of what `plain` takes; what is no character, which UTF-8 and XML refuse, is escaped."""
    text = json.dumps(plain(x), indent=indent, ensure_ascii=False, allow_nan=False)
    return re.sub(r"[\ud800-\udfff\ufffe\uffff]", lambda found: f"\\u{ord(found[0]):04x}", text)


def plain(x: Any) -> Any:
    """Return a value as JSON holds it: NaN and infinity as the texts "NaN", "Infinity" and "-Infinity".

    Arrays, tensors, ranges and sets, which are sorted, become lists; dates, times and paths texts. Raises TypeError for
    anything else, and ValueError for dicts of which two keys are the same text.
    """
    if isinstance(x, np.datetime64 | np.timedelta64):
        return str(x)
    if hasattr(x, "tolist"):  # NumPy's and torch's
        x = x.tolist()
    if isinstance(x, float) and not math.isfinite(x):
        return "NaN" if math.isnan(x) else "Infinity" if x > 0 else "-Infinity"
    if x is None or isinstance(x, bool | int | float | str):
        return x
    if isinstance(x, list | tuple | range):
        return [plain(part) for part in x]
    if isinstance(x, Set):
        return sorted((plain(part) for part in x), key=lambda part: (isinstance(part, str), str(part)))
    if isinstance(x, Mapping):
        found = {_key(key): plain(value) for key, value in x.items()}
        if len(found) < len(x):
            raise ValueError(f"parameters have keys {list(x)}; expected keys that are different texts.")
        return found
    if isinstance(x, datetime.date | datetime.time):  # a datetime is a date
        return x.isoformat()
    if isinstance(x, PurePath):
        return str(x)
    expected = "numbers, texts, lists, sets, dates, paths and dicts of them"
    raise TypeError(f"a parameter is a {type(x).__name__}; expected {expected}.")


def _key(key: Any) -> str:
    key = plain(key)
    if isinstance(key, list | dict):
        raise TypeError(f"parameters have a key {key!r}; expected a text or a number.")
    return key if isinstance(key, str) else json.dumps(key)
