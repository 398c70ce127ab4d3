"""A sweep's results: arrays over the grid in memory, the same on disk as zarr, and which points are done."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import torch
import xarray as xr
import zarr

from .changes import Told
from .computing import Found
from .identity import Identity, difference
from .points import Plan, name_of
from .reading import DONE, FAILED, FORMAT, MISSING, Shelf, all_files, data_array

STATUS = {"long_name": "done mark", "flag_values": [MISSING, DONE, FAILED], "flag_meanings": "missing done failed"}
# Points in one file of an array: few files, and each quickly written anew.
_CHUNK_POINTS = 1 << 14
# What zarr writes beside a file before that takes its place.
_PARTIAL = re.compile(r"(zarr|\d+)\.[0-9a-f]{32}\.partial")


class Results:
    """Results over the grid of a plan; with a path they are on disk as soon as `record` returns.

    Files are only ever replaced as a whole, results before their done marks: a process that is killed leaves what it
    recorded, and nothing half. One process writes at a time, under a lock that dies with it. Whatever else lies in the
    folder stays as it is.
    """

    def __init__(self, plan: Plan, path: str | os.PathLike | None = None):
        self.plan, self.path = plan, None if path is None else Path(path)
        self.status = np.full(plan.shape, MISSING, dtype=np.int8)
        self.error = np.full(plan.shape, "", dtype=object)
        self.values: dict[str, np.ndarray] = {}
        self._arrays: dict[str, zarr.Array] = {}
        self._group: zarr.Group | None = None
        self._chunks = _chunks(plan)

    def __enter__(self) -> Results:
        if self.path is not None:
            self._told = Told(self.plan)
            told = self._told.identity
            if not self.path.exists():
                self._create(self.path, told)
            Shelf(self.path, "r")  # before the lock, which is a file in it
            self._lock = filelock.FileLock(self.path / "status" / ".lock")
            try:
                self._lock.acquire(timeout=0)
            except filelock.Timeout:
                raise ValueError(f"{self.path} is being written by another process; expected no other.") from None
            try:
                self._open(self.path, told)
            except BaseException:
                self._lock.release()
                raise
        return self

    def __exit__(self, *_) -> None:
        if self.path is not None:
            self._lock.release()
            self._told.ran()

    @property
    def failed(self) -> int:
        """How many points failed."""
        return int((self.status == FAILED).sum())

    @property
    def missing(self) -> int:
        """How many points are still to be computed."""
        return int((self.status == MISSING).sum())

    def forget_failed(self) -> None:
        """Count failed points as missing; on disk they stay failed until they are computed again."""
        self.status[self.status == FAILED] = MISSING

    def record(self, found: Found) -> int:
        """Keep what came out of points that are missing, and mark them; return how many there were."""
        done = [np.empty(0, int)]
        for indices, numbers in found.numbers:
            new = self.status.flat[indices] == MISSING
            done.append(indices[new])
            for name, values in numbers.items():
                array = self.values.setdefault(name, np.full(self.plan.shape, np.nan))
                array.flat[indices[new]] = values[new]
        finished = np.concatenate(done)
        errors = {index: error for index, error in found.errors.items() if self.status.flat[index] == MISSING}
        failed = np.array(list(errors), int)
        said = len(failed) > 0 or bool((self.error.flat[finished] != "").any())
        self.error.flat[finished] = ""
        self.error.flat[failed] = list(errors.values())
        self.status.flat[finished] = DONE
        self.status.flat[failed] = FAILED
        recorded = np.concatenate([finished, failed])
        if self._group is not None and len(recorded):
            self._write(self._group, recorded, said)
        return len(recorded)

    def dataset(self) -> xr.Dataset:
        """Return everything so far: a copy, NaN where a point is not done."""
        values = {name: array.copy() for name, array in self.values.items()}
        return dataset(self.plan.axes, values, self.status.copy(), self.error.copy(), _attributes(self.plan))

    def _create(self, path: Path, told: Identity) -> None:
        """Lay out an empty sweep; it appears under its name, or where that link leads, when it is complete."""
        given, path = path, Path(os.path.realpath(path))
        if not path.parent.is_dir() or path.is_symlink():  # only a link that leads back to itself is still one
            raise FileNotFoundError(f"{given} cannot be written; expected a place in a folder that exists.")
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".qdelta-") as folder:
            new = Path(folder) / "sweep"
            kept = {"computed": told, "shapes": [list(self.plan.shape)], "numbers": []}
            group = zarr.create_group(new, zarr_format=3, attributes=_attributes(self.plan) | kept)
            for name, values in self.plan.axes.items():
                kind = str if values.dtype.kind in "UTO" else values.dtype
                data_array(group, name, values.shape, (_CHUNK_POINTS,), kind, 0 if kind is not str else "", [name])[
                    :
                ] = values
            self._create_array(group, "status", np.int8, MISSING, STATUS)
            self._create_array(group, "error", str, "", {})
            try:
                os.rename(new, path)
            except OSError:
                if not path.exists():  # else another process was quicker
                    raise

    def _create_array(self, group: zarr.Group, name: str, dtype: Any, fill: Any, attributes: Mapping) -> zarr.Array:
        return data_array(
            group, name, self.plan.shape, self._chunks, dtype, fill, list(self.plan.axes), dict(attributes)
        )

    def _open(self, path: Path, told: Identity) -> None:
        """Read what an earlier run left, after making room for values that were added to the axes."""
        shelf = Shelf(path, "r+")
        for left in shelf.own_files():
            if _PARTIAL.fullmatch(left.name):
                left.unlink()  # what a process was just writing when it was killed
        self._check(shelf, path)
        held = shelf.read()
        if shelf.computed != told:
            if (held.status == DONE).any():
                raise ValueError(f"{path} {difference(shelf.computed, told)}")
            shelf.group.update_attributes({"computed": told, **_attributes(self.plan)})  # nothing is there to mix with
        if shelf.shape != self.plan.shape:
            self._extend(shelf)
        inside = tuple(slice(0, size) for size in held.status.shape)
        self.status[inside], self.error[inside] = held.status, held.error
        for name, values in held.numbers.items():
            self.values[name] = np.full(self.plan.shape, np.nan)
            self.values[name][inside] = values
        self.plan = replace(self.plan, grown=shelf.shapes if shelf.shape != self.plan.shape else shelf.shapes[:-1])
        self._arrays = {name: shelf.array(name) for name in ("status", "error", *shelf.numbers)}
        self._chunks = self._arrays["status"].chunks
        self._group = shelf.group

    def _extend(self, shelf: Shelf) -> None:
        """Make room on disk; the new shape is the sweep's once it is written down, last."""
        for name in ("status", "error", *shelf.numbers):
            shelf.array(name).resize(self.plan.shape)
        for name, values in self.plan.axes.items():
            axis = shelf.array(name)
            if axis.shape != values.shape:
                axis.resize(values.shape)
                axis[:] = values
        shelf.group.update_attributes({"shapes": [*map(list, shelf.shapes), list(self.plan.shape)]})

    def _check(self, shelf: Shelf, path: Path) -> None:
        wanted = list(self.plan.axes)
        if shelf.axes != wanted:
            raise ValueError(f"{path} holds a sweep over {shelf.axes}; expected one over {wanted}.")
        for name, values in self.plan.axes.items():
            old = shelf.axis(name)
            if values.tolist()[: len(old)] != old.tolist():
                raise ValueError(
                    f"{path} holds {name} = {old.tolist()}; expected these first, and then any new values."
                )
            if old.dtype.kind in "biuf" and not np.can_cast(values.dtype, old.dtype):
                raise ValueError(f"{path} holds {name} as {old.dtype}; expected new values of that kind.")

    def _write(self, group: zarr.Group, indices: np.ndarray, errors: bool) -> None:
        """Write every file that holds one of the points, the done marks last."""
        at = np.unravel_index(indices, self.plan.shape)
        places = np.unique(np.stack([a // c for a, c in zip(at, self._chunks, strict=True)], axis=1), axis=0).tolist()
        region = lambda place: tuple(slice(i * c, (i + 1) * c) for i, c in zip(place, self._chunks, strict=True))
        regions = list(map(region, places))
        for name in sorted(self.values.keys() - self._arrays.keys()):
            self._add(group, name)
        arrays = {**self.values, **({"error": self.error} if errors else {}), "status": self.status}
        for name, array in arrays.items():
            for region in regions:
                self._arrays[name][region] = array[region]

    def _add(self, group: zarr.Group, name: str) -> None:
        """Make the array of a number that came up now, with a file wherever a point is marked as done."""
        assert self.path is not None
        place = self.path / name
        # A process killed before the array was described leaves a folder of nothing but zarr's half-written files.
        if place.is_file() or any(x.is_file() and not _PARTIAL.fullmatch(x.name) for x in place.rglob("*")):
            held = group.get(name)
            if not isinstance(held, zarr.Array) or held.shape != self.plan.shape or held.dtype != np.float64:
                raise ValueError(f"{self.path / name} is not of this sweep; expected no such thing in its folder.")
            self._arrays[name] = held  # made just before a process was killed
        else:
            self._arrays[name] = self._create_array(group, name, np.float64, np.nan, {})
        for left in place.rglob("*.partial"):
            if _PARTIAL.fullmatch(left.name):
                left.unlink()
        for _, region in all_files(self.plan.shape, self._chunks):
            if (self.status[region] == DONE).any():
                self._arrays[name][region] = self.values[name][region]
        group.update_attributes({"numbers": sorted({*self._arrays} - {"status", "error"})})


def load(path: str | os.PathLike) -> xr.Dataset:
    """Read a sweep from disk, finished or not; also while it is being written.

    Returns what `run` returns. Raises FileNotFoundError, or ValueError for what is no sweep, or a damaged one.
    """
    shelf = Shelf(Path(path), "r")
    held = shelf.read()
    attributes = {name: shelf.attributes[name] for name in (*FORMAT, "measure", "make", "axes", "made_by")}
    return dataset({name: shelf.axis(name) for name in shelf.axes}, held.numbers, held.status, held.error, attributes)


def dataset(
    axes: Mapping[str, np.ndarray],
    numbers: Mapping[str, np.ndarray],
    status: np.ndarray,
    error: np.ndarray,
    attributes: Mapping[str, Any],
) -> xr.Dataset:
    """Lay results out with their axes."""
    dims = list(axes)
    variables = {name: (dims, numbers[name]) for name in sorted(numbers)}
    return xr.Dataset(variables | {"status": (dims, status, STATUS), "error": (dims, error)}, axes, attributes)


def _chunks(plan: Plan) -> tuple[int, ...]:
    """Whole axes as long as they fit into one file, gates first."""
    room, chunks = _CHUNK_POINTS, {}
    for name in [*plan.gates, *plan.taken[::-1]]:
        chunks[name] = max(1, min(len(plan.axes[name]), room))
        room //= chunks[name]
    return tuple(chunks[name] for name in plan.axes)


def _attributes(plan: Plan) -> dict[str, Any]:
    return {
        **FORMAT,
        "measure": name_of(plan.measure),
        "make": name_of(plan.make),
        "axes": list(plan.axes),
        "made_by": f"qdelta_analysis.sweep {version('qdelta')}, torch {torch.__version__}",
    }
