"""What a sweep's folder holds, read with suspicion: whatever is damaged is named, and nothing is put right by guess."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec

MISSING, DONE, FAILED = 0, 1, 2
FORMAT = {"format": "qdelta-sweep", "format_version": "2"}

Region = tuple[slice, ...]


@dataclass(frozen=True)
class Held:
    """The results of a store: marks, errors, and each number where points are done."""

    status: np.ndarray
    error: np.ndarray
    numbers: dict[str, np.ndarray]


class Shelf:
    """An open store, whose layout is as a sweep writes it.

    shapes: those that the grid has had, the last being its own; arrays may be larger, if a process was killed while it
    made room for more values. Folders and files that are no sweep's are not looked at.
    Raises FileNotFoundError for no such path, ValueError for something else or for what is damaged.
    """

    def __init__(self, path: Path, mode: Any):
        if not path.exists():
            raise FileNotFoundError(f"{path} is not there; expected a sweep.")
        self.path = path
        if not (path / "zarr.json").exists():
            raise ValueError(f"{path} is no zarr group; expected a sweep.")
        try:
            self.group = zarr.open_group(path, mode=mode, zarr_format=3)
            self.attributes: dict[str, Any] = dict(self.group.attrs)
        except Exception as error:  # what the file says may be anything
            self._damaged("zarr.json", error)
        found = {key: self.attributes.get(key) for key in FORMAT}
        if found != FORMAT:
            raise ValueError(f"{path} holds {found}; expected a sweep, {FORMAT}.")
        self._read_attributes()
        self._arrays = {name: self._opened(name) for name in (*self.axes, "status", "error", *self.numbers)}
        self._chunks = self._arrays["status"].chunks
        self._check_arrays()

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of values on every axis."""
        return self.shapes[-1]

    def array(self, name: str) -> zarr.Array:
        """Return an array of this sweep."""
        return self._arrays[name]

    def axis(self, name: str) -> np.ndarray:
        """Return the values of an axis."""
        count, array = self.shape[self.axes.index(name)], self._arrays[name]
        for file, _ in all_files((count,), array.chunks):
            if not (self.path / name / file).is_file():
                self._damaged(f"{name}/{file}", "it is not there")
        try:
            values = np.asarray(array[:count])
        except Exception as error:
            self._damaged(name, error)
        return np.array(values.tolist(), str) if values.dtype.kind in "OT" else values

    def own_files(self) -> Iterator[Path]:
        """Yield the files that lie where this sweep's do."""
        for place in (self.path, *(self.path / name for name in self._arrays)):
            yield from (file for file in place.iterdir() if file.is_file())
        for name in self._arrays:
            yield from (file for file in (self.path / name / "c").rglob("*") if file.is_file())

    def read(self) -> Held:
        """Return the results. Marks are read first: what they call done has been written before."""
        status = self._read("status", np.zeros(self.shape, bool))
        if not np.isin(status, (MISSING, DONE, FAILED)).all():
            self._damaged("status", f"it holds marks such as {status.max()}")
        error = np.full(self.shape, "", object)
        error[status == FAILED] = self._read("error", status == FAILED)[status == FAILED]
        numbers = {}
        for name in self.numbers:
            numbers[name] = np.where(status == DONE, self._read(name, status == DONE), np.nan)
        return Held(status, error, numbers)

    def _read_attributes(self) -> None:
        given = self.attributes
        checks: dict[str, Callable[[Any], bool]] = {
            "axes": lambda x: _words(x) and len(x) > 0,
            "numbers": lambda x: _words(x) and all(map(str.isidentifier, x)),
            "shapes": lambda x: isinstance(x, list) and len(x) > 0 and all(_sizes(y, len(given["axes"])) for y in x),
            "computed": lambda x: isinstance(x, dict) and all(isinstance(y, str) for y in x.values()),
            **dict.fromkeys(("measure", "make", "made_by"), lambda x: isinstance(x, str)),
        }
        for name, fine in checks.items():
            if name not in given or not fine(given[name]):
                self._damaged("zarr.json", f"its {name} is {given.get(name, 'not there')!r}")
        self.axes: list[str] = given["axes"]
        self.numbers: list[str] = given["numbers"]
        self.shapes: tuple[tuple[int, ...], ...] = tuple(map(tuple, given["shapes"]))
        self.computed: dict[str, str] = given["computed"]
        if len({*self.axes, *self.numbers, "status", "error"}) < len(self.axes) + len(self.numbers) + 2:
            self._damaged("zarr.json", f"its axes and numbers are {self.axes} and {self.numbers}")
        if any(a > b for x, y in zip(self.shapes, self.shapes[1:], strict=False) for a, b in zip(x, y, strict=True)):
            self._damaged("zarr.json", f"its shapes are {given['shapes']}")

    def _opened(self, name: str) -> zarr.Array:
        try:
            with zarr.config.set({"array.write_empty_chunks": True}):
                array = self.group[name]
            if not isinstance(array, zarr.Array):
                raise TypeError("it is no array")
        except Exception as error:
            self._damaged(f"{name}/zarr.json", error)
        return array

    def _check_arrays(self) -> None:
        """Compare every array's metadata with those of one that is made now."""
        for name, array in self._arrays.items():
            if name in self.axes:
                wide, chunks, dims = (self.shape[self.axes.index(name)],), array.chunks, [name]
                kind = str if array.dtype.kind in "OT" else array.dtype
                expected = [kind, "" if kind is str else 0]
            else:
                wide, chunks, dims = self.shape, self._chunks, self.axes
                expected = {"status": [np.int8, MISSING], "error": [str, ""]}.get(name, [np.float64, np.nan])
            try:
                like = data_array(zarr.create_group({}, zarr_format=3), name, array.shape, chunks, *expected, dims)
                wanted, found = (x.metadata.to_dict() | {"attributes": None} for x in (like, array))
                differs = [key for key in sorted({*wanted, *found}) if wanted.get(key) != found.get(key)]
            except Exception as error:  # a layout that cannot be made
                self._damaged(f"{name}/zarr.json", error)
            if differs or array.ndim != len(wide) or any(a < b for a, b in zip(array.shape, wide, strict=True)):
                key = differs[0] if differs else "shape"
                self._damaged(f"{name}/zarr.json", f"its {key} is {found.get(key)}")

    def _read(self, name: str, needed: np.ndarray) -> np.ndarray:
        """Read an array over the grid; a file in which nothing is needed may be absent or damaged."""
        inside = tuple(slice(0, size) for size in self.shape)
        held = []
        for file, region in all_files(self.shape, self._chunks):
            place = self.path / name / file
            if place.is_file():
                held.append((file, region))
            elif needed[region].any():
                self._damaged(f"{name}/{file}", "it is not there", region)
            elif place.exists() or any(part.is_file() for part in list(place.parents)[: len(self.shape) + 1]):
                self._damaged(f"{name}/{file}", "something else is in its place")
        with suppress(Exception):
            return np.asarray(self._arrays[name][inside])
        # One of the files: which it is, and whether it matters.
        values = np.full(self.shape, self._arrays[name].fill_value, self._arrays[name].dtype)
        for file, region in held:
            try:
                values[region] = self._arrays[name][region]
            except Exception as error:
                if needed[region].any() or name == "status":
                    self._damaged(f"{name}/{file}", error, region)
        return values

    def _damaged(self, where: str, why: object, region: Region | None = None) -> NoReturn:
        remedy = "expected it as a sweep left it"
        if region is not None:
            place = "/".join(str(s.start // c) for s, c in zip(region, self._chunks, strict=True))
            remedy += f"; without {self.path / 'status' / 'c' / place} its points are computed anew"
        said = " ".join(str(why).split()).rstrip(".")[:200] or type(why).__name__
        cause = why if isinstance(why, BaseException) else None
        raise ValueError(f"{self.path / where} is damaged ({said}); {remedy}.") from cause


def all_files(shape: Sequence[int], chunks: Sequence[int]) -> Iterator[tuple[str, Region]]:
    """Yield the names that an array's files have, and the region that each holds."""
    for place in itertools.product(*(range(-(-n // c)) for n, c in zip(shape, chunks, strict=True))):
        region = tuple(slice(i * c, min((i + 1) * c, n)) for i, c, n in zip(place, chunks, shape, strict=True))
        yield "/".join(["c", *map(str, place)]), region


def data_array(
    group: zarr.Group,
    name: str,
    shape: tuple[int, ...],
    chunks: tuple[int, ...],
    dtype: Any,
    fill: Any,
    dims: list[str],
    attributes: dict[str, Any] | None = None,
) -> zarr.Array:
    """Make an array: uncompressed, with a check sum in every file, and a file wherever something was written."""
    return group.create_array(
        name,
        shape=shape,
        chunks=chunks,
        dtype=dtype,
        fill_value=fill,
        dimension_names=dims,
        attributes=attributes or {},
        compressors=[Crc32cCodec()],
        config={"write_empty_chunks": True},
    )


def _words(x: Any) -> bool:
    return isinstance(x, list) and all(isinstance(word, str) for word in x)


def _sizes(x: Any, count: int) -> bool:
    return isinstance(x, list) and len(x) == count and all(type(size) is int and size >= 1 for size in x)
