"""What a figure draws, in numbers and words: short enough for a sidecar, and compared as numbers and as words.

Other processors round sums in other orders, so nothing that is compared may hang on a number's last bits. Two
fingerprints are of the same drawing where all words are the same and all numbers agree, each within 1e-5 of itself or,
where its axis is not logarithmic, of its array's size: what is computed in float32 differs between processors by 1e-6
of that.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from .extras import from_extra
from .strict import dumps, plain

with from_extra("lab"):
    import plotly.graph_objects as go

_TOLERANCE = 1e-5
_LAST_DIGIT = 5e-3  # numbers in texts may differ by one in the last digit, up to this share of them
_NOTHING = 1e-13  # what a text says of less is rounding
_STRETCHES = 64  # a longer array is told by the means of so many stretches
_FEW = 8  # a longer list of texts is told by the hash of its words, and its numbers

# What paper does not show: a figure may differ in it and be the same drawing.
_REPLACED = {"title", "width", "height", "margin"}  # of the layout, by what a venue wants
_UNPRINTED = {"template", "hovertemplate", "hoverinfo", "hoverlabel", "meta", "modebar", "dragmode", "uid", "hovermode"}

# A number in a text, with its sign; none inside of a word, a colour ("#1e5000") or a version ("2.13.0").
_NUMBER = re.compile(r"(?:(?<![\w.#)])[-+−])?(?<![\w.#])(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?(?!\.?\d)")


def fingerprint(figure: go.Figure) -> dict[str, Any]:
    """Return all that a figure draws, by name, as `described`."""
    drawn = _drawn(figure)
    return described(drawn, relative=_logarithmic(drawn))


def data_hash(figure: go.Figure) -> str:
    """Return the SHA-256 of everything that a figure's traces draw, bit by bit, with names and shapes.

    It tells where a file comes from; whether a drawing is the same, `differences` says.
    """
    found = hashlib.sha256()
    for name, x in _leaves(_drawn(figure)["data"]):
        is_array = isinstance(x, np.ndarray)
        found.update(f"{name} {dumps(x.shape if is_array else x)}\n".encode())
        found.update(x.tobytes() if is_array else b"")
    return found.hexdigest()


def described(x: Any, relative: Collection[str] = ()) -> dict[str, Any]:
    """Return what is in nested dicts, lists and arrays, by name, in what strict JSON holds.

    Texts and lone numbers are returned as they are, arrays as shape, gaps, size (root mean square) and means of
    stretches, long lists of texts by the hash of their words, and their numbers.

    relative: names of arrays of which a number close to 0 counts by its ratio to another, as a logarithmic axis shows.
    """
    tell = {np.ndarray: lambda name, x: _means(x, name in relative), list: lambda name, x: _told(x)}
    return {name: tell.get(type(x), lambda name, x: x)(name, x) for name, x in _leaves(x)}


def differences(recorded: Mapping[str, Any], drawn: Mapping[str, Any]) -> list[str]:
    """Return the names at which two fingerprints differ by more than rounding."""
    missing = object()
    names = sorted({*recorded, *drawn})
    return [name + at for name in names for at in _places(recorded.get(name, missing), drawn.get(name, missing))]


def same_text(a: str, b: str) -> bool:
    """Return whether two texts have the same words, and the same numbers up to rounding; whole numbers exactly."""
    return _NUMBER.sub("", a) == _NUMBER.sub("", b) and all(map(_near, _NUMBER.findall(a), _NUMBER.findall(b)))


def _drawn(figure: go.Figure) -> dict[str, Any]:
    """Traces and layout, as far as they are printed; the template is the theme's, and the same for all."""
    drawn: Any = figure.data
    parts = [*(trace.to_plotly_json() for trace in drawn), figure.layout.to_plotly_json()]
    *traces, layout = ({name: x for name, x in part.items() if name not in _UNPRINTED} for part in parts)
    return {"data": traces, "layout": {name: x for name, x in layout.items() if name not in _REPLACED}}


def _logarithmic(drawn: Mapping[str, Any]) -> set[str]:
    """Return the names of the numbers that stand on a logarithmic axis."""
    found = set()
    for i, trace in enumerate(drawn["data"]):
        for letter in "xy":
            axis = f"{letter}axis" + trace.get(f"{letter}axis", letter)[1:]
            if drawn["layout"].get(axis, {}).get("type") == "log":
                found.add(f"data[{i}].{letter}")
    return found


def _leaves(x: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield what is in nested dicts and lists: arrays of numbers, lists of texts, and what is no list."""
    array = _array(x)
    if array is not None:
        yield name, array
    elif isinstance(x, Mapping):
        for key in sorted(x, key=str):
            yield from _leaves(x[key], f"{name}.{key}" if name else str(key))
    elif not isinstance(x, list | tuple | np.ndarray):
        if x is not None:
            yield name, plain(x)
    elif len(x) > _FEW and not any(isinstance(part, Mapping) for part in x):
        yield name, [part if isinstance(part, str) else dumps(part) for part in x]
    else:
        for i, part in enumerate(x):
            yield from _leaves(part, f"{name}[{i}]")


def _array(x: Any) -> np.ndarray | None:
    """Return numbers in an array, a list (None being a gap) or plotly's base64 as float64, and None for all else."""
    if isinstance(x, Mapping):
        if not {"bdata", "dtype"} <= x.keys():
            return None
        flat = np.frombuffer(base64.b64decode(x["bdata"]), np.dtype(x["dtype"]))
        shape = x.get("shape", flat.shape)
        return flat.reshape([int(n) for n in shape.split(",")] if isinstance(shape, str) else shape).astype(np.float64)
    if isinstance(x, np.ndarray):
        return x.astype(np.float64) if x.dtype.kind in "fiub" else _array(x.tolist()) if x.dtype == object else None
    if not isinstance(x, list | tuple) or not _only_numbers(x):
        return None
    try:
        return np.array(x, dtype=np.float64)
    except ValueError:  # rows of several lengths
        return None


def _only_numbers(x: Sequence[Any]) -> bool:
    """Whether nested lists hold numbers, and gaps between them."""
    kinds = {type(y) for y in x}
    if kinds & {list, tuple}:
        return all(isinstance(y, list | tuple) and _only_numbers(y) for y in x)
    numbers = {kind for kind in kinds if issubclass(kind, int | float | np.number) and kind is not bool}
    return bool(numbers) and kinds <= numbers | {type(None)}


def _means(array: np.ndarray, relative: bool) -> dict[str, Any]:
    """Tell an array by weighted means of its stretches: the weights know of the order, and none is near 0."""
    values = array.ravel()
    gaps = np.flatnonzero(~np.isfinite(values))
    kept = np.where(np.isfinite(values), values, 0)
    weights = 1 + (np.arange(kept.size) * 0.618034 % 1 if kept.size > _STRETCHES else 0)
    stretches = np.array_split(kept * weights, min(_STRETCHES, kept.size) or 1)
    size = 0.0 if relative else float(np.sqrt(np.square(kept / (np.abs(kept).max(initial=0) or 1)).mean()))
    size *= float(np.abs(kept).max(initial=0))
    return {
        "shape": list(array.shape),
        "gaps": [len(gaps), int(gaps.sum())],
        "size": float(f"{size:.7g}"),
        "means": " ".join(f"{part.mean() if len(part) else 0:.7g}" for part in stretches),
    }


def _told(texts: list[str]) -> dict[str, Any]:
    """Tell texts by the hash of their words, and their numbers: first numbers, second ones, where all have as many."""
    words = hashlib.sha256("\n".join(_NUMBER.sub("#", text) for text in texts).encode("utf-8", "surrogatepass"))
    numbers = [[_value(number) for number in _NUMBER.findall(text)] for text in texts]
    even = len({len(row) for row in numbers}) == 1
    columns = np.array(numbers).T if even else [np.array([x for row in numbers for x in row])]
    told = [_means(column, relative=False) for column in columns]
    return {"texts": len(texts), "words": words.hexdigest(), "numbers": told}


def _places(a: Any, b: Any) -> list[str]:
    """Return where two descriptions differ: the places in a short list of numbers, "" for anything else."""
    if not (isinstance(a, Mapping) and isinstance(b, Mapping)):
        return [] if _same(a, b) else [""]
    if "means" not in a or "means" not in b:
        told = [{**x, "numbers": len(x["numbers"])} for x in (a, b)]
        return [""] if told[0] != told[1] or any(map(_places, a["numbers"], b["numbers"])) else []
    if (a["shape"], a["gaps"]) != (b["shape"], b["gaps"]):
        return [""]
    size = max(a["size"], b["size"])
    x, y = (np.array([float(part) for part in side["means"].split()]) for side in (a, b))
    apart = np.flatnonzero(np.abs(x - y) > _TOLERANCE * np.maximum(size, np.maximum(np.abs(x), np.abs(y))))
    short = len(a["shape"]) == 1 and a["shape"][0] <= _FEW
    return [f"[{i}]" for i in apart] if short else [""] if len(apart) else []


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, int | float) and isinstance(b, int | float):
        return math.isclose(a, b, rel_tol=_TOLERANCE, abs_tol=_NOTHING)
    return same_text(a, b) if isinstance(a, str) and isinstance(b, str) else a == b


def _near(a: str, b: str) -> bool:
    """Whether two numbers of texts agree up to rounding: of what was computed, and of what was printed."""
    x, y = _value(a), _value(b)
    if a.lstrip("+-−").isdigit() and b.lstrip("+-−").isdigit():
        return x == y
    step = min(_last_digit(a), _last_digit(b))
    size = max(abs(x), abs(y))
    return abs(x - y) <= max(_TOLERANCE * size, min(1.01 * step, _LAST_DIGIT * size), _NOTHING)


def _value(number: str) -> float:
    return float(number.replace("−", "-"))


def _last_digit(number: str) -> float:
    """What one in the last digit of a printed number stands for."""
    digits, _, power = number.lower().partition("e")
    return 10.0 ** (int(power or 0) - len(digits.partition(".")[2]))
