"""Stores that were damaged: what is wrong is named, no number is made up, and nothing of anyone's is removed."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

from qdelta_analysis import sweep
from tests.helpers import cases
from tests.learning.test_kept import damaged, mutated, outcome

GRID = {"lam": [0.0, 0.5, 3.0], "seed": [0, 1, 2, 3], "N": [4], "d": [2]}


@pytest.fixture
def store(tmp_path, monkeypatch) -> tuple[Path, xr.Dataset]:
    """Some points done, some failed, in several files each."""
    monkeypatch.setattr("qdelta_analysis.sweep.store._CHUNK_POINTS", 6)
    return tmp_path / "it.zarr", sweep.run("error", GRID, path=tmp_path / "it.zarr", progress=False)


def again(path: Path) -> xr.Dataset:
    return sweep.run("error", GRID, path=path, progress=False)


def contents(folder: Path) -> dict[Path, bytes | None]:
    return {
        path.relative_to(folder): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
        if path.name != ".lock"
    }


def spoil(path: Path, make: np.random.Generator) -> str:
    """Damage one file of a store, in one of the ways in which files are."""
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.name != ".lock")
    file = files[make.integers(len(files))]
    content = file.read_bytes()
    kind = make.choice(["cut", "change", "change", "empty", "gone", "folder", "file"])
    if kind in ("gone", "folder", "file"):
        file.unlink()
        if kind == "folder":
            file.mkdir()
        elif kind == "file":  # where its folder was
            shutil.rmtree(file.parent)
            file.parent.write_bytes(b"") if file.parent != path else None
    elif file.name == "zarr.json" and kind == "change":
        file.write_text(json.dumps(mutated(json.loads(content), make)))
    else:
        file.write_bytes(
            {"cut": content[: make.integers(len(content))], "empty": b""}.get(kind, damaged(content, make))
        )
    return f"{kind} {file.relative_to(path)}"


@pytest.mark.cases
def test_whatever_is_damaged_is_named_or_does_not_matter(store, tmp_path):
    whole, first = store
    make = np.random.default_rng(0)
    refused = 0
    for number in range(cases(50)):
        path = tmp_path / "damaged.zarr"
        shutil.copytree(whole, path)
        how = f"{number}: {spoil(path, make)}"
        before = contents(path)
        if not path.exists():
            continue
        loaded, said = outcome(sweep.load, path)
        if loaded is None:
            refused += 1
            assert str(path) in said, (how, said)
            assert said.endswith("."), (how, said)
            assert "\n" not in said, (how, said)
        else:
            assert {*loaded.data_vars} == {*first.data_vars}, how
            for name in first.data_vars:  # marks may be gone, but what is marked is what was found
                marked = loaded.status != 0
                np.testing.assert_array_equal(loaded[name].values[marked], first[name].values[marked], err_msg=how)
        resumed, said = outcome(again, path)
        assert (resumed is None) == (loaded is None) or "fill_value" in how, (how, said)
        if resumed is None:
            assert str(path) in said, (how, said)
            assert contents(path) == before, how
        else:
            xr.testing.assert_equal(resumed, first)
        shutil.rmtree(path)
    assert refused > 0.5 * number


@pytest.mark.parametrize(("name", "place"), [("final_norm", (0, 1)), ("status", (0, 1)), ("error", (0, 0))])
def test_the_remedy_that_is_named_is_one(name, place, store):
    path, first = store
    file = next(file for file in sorted((path / name / "c").rglob("*")) if file.is_file())
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(ValueError, match=r"is damaged \(.*\); expected .*; without .* its points are computed anew\."):
        again(path)
    _, said = outcome(sweep.load, path)
    assert said.startswith(str(file))
    Path(said.partition("; without ")[2].partition(" its points")[0]).unlink()
    assert 0 < int((sweep.load(path).status == 0).sum()) < first.status.size
    xr.testing.assert_equal(again(path), first)


def test_what_is_not_the_sweep_s_stays(store):
    """Folders, files, links and arrays of the user's, at the top and within, also some that look like zarr's."""
    path, first = store
    (path / "notes").mkdir()
    (path / "notes/of mine.txt").write_text("kept")
    (path / "empty").mkdir()
    (path / "status/mine").mkdir()
    for place in ("thesis.partial", "status/c/draft.partial", "final_norm/old.partial"):
        (path / place).write_text("mine")
    (path / "link").symlink_to(path.parent)
    mine = zarr.open_group(path, mode="r+").create_array("mine", shape=(2, 3), chunks=(2, 2), dtype=float)
    mine[:] = 7
    left = path / f"status/c/0/0.{'0' * 32}.partial"  # as zarr writes it, and only there
    left.parent.mkdir(parents=True, exist_ok=True)
    left.write_bytes(b"half")
    before = {name: x for name, x in contents(path).items() if not name.parts[0].startswith(("status", "seed"))}
    more = sweep.run("error", {**GRID, "seed": range(6)}, path=path, progress=False)
    assert not left.exists()
    xr.testing.assert_equal(more.isel(seed=slice(4)), first)
    xr.testing.assert_identical(sweep.load(path), more)
    after = contents(path)
    theirs = ("notes", "empty", "thesis.partial", "link", "mine")
    assert {n: x for n, x in before.items() if n.parts[0] in theirs} == {
        n: x for n, x in after.items() if n.parts[0] in theirs
    }
    for place in ("status/mine", "status/c/draft.partial", "final_norm/old.partial"):
        assert (path / place).exists(), place


def test_a_number_that_is_in_the_way_is_refused(store, tmp_path):
    path = tmp_path / "new.zarr"
    measure = lambda x: {"size": x.T}
    sweep.run(measure, {"N": [3]}, path=path, stop=lambda: True, progress=False)
    shutil.rmtree(path)
    sweep.run(measure, {"N": [3]}, lambda N: 1 / 0, path=path, progress=False)
    (path / "size").mkdir()
    (path / "size/mine").write_text("kept")
    make = sweep.SOURCES["cone"]
    with pytest.raises(ValueError, match=r"size is not of this sweep; expected no such thing in its folder"):
        sweep.run(measure, {"N": [3]}, make, path=path, retry_failed=True, progress=False)
    assert (path / "size/mine").read_text() == "kept"


def test_a_kill_while_room_is_made_costs_nothing(store, monkeypatch):
    """Before any step of growing: the arrays are larger than the sweep says, and the sweep is what it was."""
    path, first = store
    more = {**GRID, "seed": range(9)}
    real = zarr.Array.resize
    for after in range(6):
        left = iter(range(after))

        def resize(array, shape, left=left):
            if next(left, None) is None:
                raise KeyboardInterrupt
            real(array, shape)

        monkeypatch.setattr(zarr.Array, "resize", resize)
        with pytest.raises(KeyboardInterrupt):
            sweep.run("error", more, path=path, progress=False)
        xr.testing.assert_equal(sweep.load(path), first)
        monkeypatch.setattr(zarr.Array, "resize", real)
        xr.testing.assert_equal(again(path), first)
    grown = sweep.run("error", more, path=path, progress=False)
    xr.testing.assert_equal(grown.isel(seed=slice(4)), first)
    xr.testing.assert_equal(sweep.load(path), grown)
