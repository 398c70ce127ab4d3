"""A sweep's results: arrays over the grid in memory, the same on disk as zarr, and which points are done."""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import torch
import xarray as xr
import zarr
from zarr.errors import GroupNotFoundError

from .computing import Found
from .points import Plan, name_of

MISSING, DONE, FAILED = 0, 1, 2
_STATUS = {"long_name": "done mark", "flag_values": [MISSING, DONE, FAILED], "flag_meanings": "missing done failed"}
_FORMAT = {"format": "qdelta-sweep", "format_version": "1"}
# Points in one file of an array: few files, and each quickly written anew.
_CHUNK_POINTS = 1 << 14


class Results:
    """Results over the grid of a plan; with a path they are on disk as soon as `record` returns.

    Files are only ever replaced as a whole, results before their done marks: a process that is killed leaves what it
    recorded, and nothing half. One process writes at a time, under a lock that dies with it.
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
            if not self.path.exists():
                self._create(self.path)
            _sweep(self.path, "r")
            self._lock = filelock.FileLock(self.path / "status" / ".lock")
            try:
                self._lock.acquire(timeout=0)
            except filelock.Timeout:
                raise ValueError(f"{self.path} is being written by another process; expected no other.") from None
            try:
                self._open(self.path)
            except BaseException:
                self._lock.release()
                raise
        return self

    def __exit__(self, *_) -> None:
        if self.path is not None:
            self._lock.release()

    @property
    def failed(self) -> int:
        """How many points failed."""
        return int((self.status == FAILED).sum())

    def missing(self) -> np.ndarray:
        """Return the flat indices of the points that are still to be computed."""
        return np.flatnonzero(self.status.ravel() == MISSING)

    def forget_failed(self) -> None:
        """Count failed points as missing; on disk they stay failed until they are computed again."""
        self.status[self.status == FAILED] = MISSING

    def record(self, found: Found) -> None:
        """Keep what came out of some points, and mark them."""
        for indices, numbers in found.numbers:
            for name, values in numbers.items():
                array = self.values.setdefault(name, np.full(self.plan.shape, np.nan))
                array.flat[indices] = values
        done = np.concatenate([np.empty(0, int), *(indices for indices, _ in found.numbers)])
        failed = np.array(list(found.errors), int)
        errors = len(failed) > 0 or bool((self.error.flat[done] != "").any())
        self.error.flat[done] = ""
        self.error.flat[failed] = list(found.errors.values())
        self.status.flat[done] = DONE
        self.status.flat[failed] = FAILED
        if self._group is not None:
            self._write(self._group, np.concatenate([done, failed]), errors)

    def dataset(self) -> xr.Dataset:
        """Return everything so far: a copy, NaN where a point is not done."""
        dims = list(self.plan.axes)
        variables = {name: (dims, self.values[name].copy()) for name in sorted(self.values)}
        variables |= {"status": (dims, self.status.copy(), _STATUS), "error": (dims, self.error.copy())}
        return xr.Dataset(variables, self.plan.axes, _described(self.plan))

    def _create(self, path: Path) -> None:
        """Lay out an empty sweep; it appears under its name when it is complete."""
        if not path.parent.is_dir():
            raise FileNotFoundError(f"{path} cannot be written; expected a place in a folder that exists.")
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".qdelta-") as folder:
            new = Path(folder) / "sweep"
            group = zarr.create_group(new, zarr_format=3, attributes=_described(self.plan))
            for name, values in self.plan.axes.items():
                kind = str if values.dtype.kind in "UTO" else values.dtype
                array = group.create_array(
                    name, shape=values.shape, dtype=kind, chunks=(_CHUNK_POINTS,), dimension_names=[name]
                )
                array[:] = values
            self._create_array(group, "status", np.int8, MISSING, _STATUS)
            self._create_array(group, "error", str, "", {})
            try:
                os.rename(new, path)
            except OSError:
                if not path.exists():  # else another process was quicker
                    raise

    def _create_array(self, group: zarr.Group, name: str, dtype: Any, fill: Any, attributes: Mapping) -> zarr.Array:
        return group.create_array(
            name,
            shape=self.plan.shape,
            chunks=self._chunks,
            dtype=dtype,
            fill_value=fill,
            dimension_names=list(self.plan.axes),
            attributes=dict(attributes),
            compressors=None,
        )

    def _open(self, path: Path) -> None:
        """Read what an earlier run left, after making room for values that were added to the axes."""
        _clear(path)
        group = _sweep(path, "r+")
        self._check(group, path)
        self._arrays = dict(group.arrays())
        for name, array in self._arrays.items():
            if name not in self.plan.axes and array.shape != self.plan.shape:
                array.resize(self.plan.shape)
        for name, values in self.plan.axes.items():
            axis = self._arrays.pop(name)
            if axis.shape != values.shape:
                axis.resize(values.shape)
                axis[:] = values
        held = {name: np.asarray(array[...]) for name, array in self._arrays.items()}
        self.status[...], self.error[...] = held.pop("status"), held.pop("error")
        self.values = held
        self._chunks = self._arrays["status"].chunks
        self._group = group

    def _check(self, group: zarr.Group, path: Path) -> None:
        wanted, held = _described(self.plan), dict(group.attrs)
        for key in ("measure", "make"):
            if held.get(key) != wanted[key]:
                raise ValueError(f"{path} holds a sweep of {key} {held.get(key)}; expected {wanted[key]}.")
        if held["axes"] != wanted["axes"]:
            raise ValueError(f"{path} holds a sweep over {held['axes']}; expected one over {wanted['axes']}.")
        for name, values in self.plan.axes.items():
            old = np.asarray(group[name])
            if values.tolist()[: len(old)] != old.tolist():
                raise ValueError(
                    f"{path} holds {name} = {old.tolist()}; expected these first, and then any new values."
                )
            if old.dtype.kind in "biuf" and not np.can_cast(values.dtype, old.dtype):
                raise ValueError(f"{path} holds {name} as {old.dtype}; expected new values of that kind.")

    def _write(self, group: zarr.Group, indices: np.ndarray, errors: bool) -> None:
        """Write every file that holds one of the points, the done marks last."""
        for name in self.values.keys() - self._arrays.keys():
            self._arrays[name] = self._create_array(group, name, np.float64, np.nan, {})
        at = np.unravel_index(indices, self.plan.shape)
        files = {tuple(i) for i in np.stack([a // c for a, c in zip(at, self._chunks, strict=True)], axis=1).tolist()}
        regions = [tuple(slice(i * c, (i + 1) * c) for i, c in zip(file, self._chunks, strict=True)) for file in files]
        arrays = {**self.values, **({"error": self.error} if errors else {}), "status": self.status}
        for name, array in arrays.items():
            for region in regions:
                self._arrays[name][region] = array[region]


def load(path: str | os.PathLike) -> xr.Dataset:
    """Read a sweep from disk, finished or not; also while it is being written.

    Returns what `run` returns. Raises FileNotFoundError, or ValueError for what is no sweep.
    """
    _sweep(Path(path), "r")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Object at .* is not recognized")  # an array that is just being made
        data = xr.load_dataset(path, engine="zarr", consolidated=False, chunks=None)
    names = [*sorted(str(name) for name in data.data_vars if name not in ("status", "error")), "status", "error"]
    return data.assign(error=data.error.astype(object))[names]


def _clear(path: Path) -> None:
    """Remove what a process was just writing when it was killed."""
    for left in path.rglob("*.partial"):
        left.unlink()
    for folder in path.iterdir():
        if folder.is_dir() and not (folder / "zarr.json").exists():
            shutil.rmtree(folder)


def _sweep(path: Path, mode: Any) -> zarr.Group:
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there; expected a sweep.")
    try:
        group = zarr.open_group(path, mode=mode, zarr_format=3)
    except (FileNotFoundError, NotADirectoryError, GroupNotFoundError) as error:
        raise ValueError(f"{path} is no zarr group; expected a sweep.") from error
    found = {key: group.attrs.get(key) for key in _FORMAT}
    if found != _FORMAT:
        raise ValueError(f"{path} holds {found}; expected a sweep, {_FORMAT}.")
    return group


def _chunks(plan: Plan) -> tuple[int, ...]:
    """Whole axes as long as they fit into one file, gates first."""
    room, chunks = _CHUNK_POINTS, {}
    for name in [*plan.gates, *plan.taken[::-1]]:
        chunks[name] = max(1, min(len(plan.axes[name]), room))
        room //= chunks[name]
    return tuple(chunks[name] for name in plan.axes)


def _described(plan: Plan) -> dict[str, Any]:
    return {
        **_FORMAT,
        "measure": name_of(plan.measure),
        "make": name_of(plan.make),
        "axes": list(plan.axes),
        "made_by": f"qdelta_analysis.sweep {version('qdelta')}, torch {torch.__version__}",
    }
