"""Files: written so that nobody ever sees half of one, and read with a sentence for what is not one."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from errno import EDQUOT, EFBIG, EIO, ENOSPC, EROFS
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_NO_ROOM = (ENOSPC, EDQUOT, EFBIG, EIO, EROFS)


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a path to write to; it becomes `path` when the block ends well, and is gone when it does not.

    A file that was there keeps its mode and, where this user may set it, its owner. A symbolic link stays one: the
    file that it points to is replaced, or made. A file of several names (hard links) is written over, once there is
    room for all of it, so that every name shows the same; only then can a reader meet half of it.

    Raises an OSError or ValueError that names `path`: before the block where it is not a regular file, may not be
    written or its folder is not there, after it where there is no room. What was there is then as it was.
    """
    target, old = _target(path)
    with _naming(path):
        folder = tempfile.TemporaryDirectory(dir=target.parent, prefix=".qdelta-")
    with folder:
        new = Path(folder.name) / Path(path).name
        try:
            yield new
        except OSError as error:
            if error.errno in _NO_ROOM:
                raise _cannot(path, error) from error
            raise
        with _naming(path):
            _put(new, target, old)


def write(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Write a file, text as UTF-8, by `replacing`; raises what it raises."""
    with replacing(path) as new:
        new.write_bytes(content.encode() if isinstance(content, str) else content)


def write_tensors(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file by `replacing`; raises what it raises."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with replacing(path) as new:
        try:
            save_file(dict(tensors), new, metadata=dict(metadata))
        except SafetensorError as error:
            raise OSError(f"{path} cannot be written: {error}.") from error


def read_tensors(path: str | os.PathLike[str], expected: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a safetensors file; `expected` says in errors what it should have been.

    Raises FileNotFoundError for no file, another OSError for one that cannot be read, ValueError for one of another
    kind. The tensors are copies, so that the file may change.
    """
    from safetensors import SafetensorError, safe_open

    require_file(path, expected)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (no mapping)
            return tensors, dict(file.metadata() or {})
    except OSError as error:
        raise type(error)(f"{path} cannot be read ({error}); expected {expected}.") from error
    # Of a dtype that torch lacks, or a header that is no text, safetensors says so in other ways than its own.
    except (SafetensorError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(f"{path} is no safetensors file ({error}); expected {expected}.") from error


def require_file(path: str | os.PathLike[str], expected: str) -> None:
    """Raise FileNotFoundError where nothing is, ValueError for what is no regular file; `expected` says what it was."""
    if Path(path).is_file():
        return
    if not Path(path).exists():
        raise FileNotFoundError(f"{path} is not there; expected {expected}.")
    raise ValueError(f"{path} is {_KINDS[stat.S_IFMT(Path(path).stat().st_mode)]}; expected {expected}.")


def _target(path: str | os.PathLike[str]) -> tuple[Path, os.stat_result | None]:
    """Return where a path leads, all links followed, and what is there; refuse what cannot be replaced."""
    text = os.fspath(path)
    if not text or "\0" in text:
        raise ValueError(f"{text!r} cannot be written; expected a path without NUL.")
    with _naming(path):
        target = Path(os.path.realpath(text))
        there = target.parent.is_dir()
        old = _stat(target) if there else None
    if not there:
        raise FileNotFoundError(f"{path} cannot be written; expected a file in a folder that exists.")
    kind = "a folder" if old is None and text.endswith(os.sep) else None
    if old is not None and not stat.S_ISREG(old.st_mode):
        kind = _KINDS[stat.S_IFMT(old.st_mode)]
    if kind is not None:
        raise OSError(f"{path} cannot be written, as it is {kind}; expected a file or a name that is free.")
    if old is not None and not os.access(target, os.W_OK):
        raise PermissionError(f"{path} cannot be written, as it is read-only; expected a file that may be replaced.")
    return target, old


def _stat(path: Path) -> os.stat_result | None:
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None


def _put(new: Path, target: Path, old: os.stat_result | None) -> None:
    """Bring what was written to its place, on the disk itself: some report only then that they are full."""
    if old is not None and old.st_nlink > 1:
        _write_over(new, target, old.st_size)
        return
    if old is None:
        # Some writers make files that only their owner can read; a new file is as readable as the user's others.
        os.umask(mask := os.umask(0))
        new.chmod(0o666 & ~mask)
    else:
        if hasattr(os, "chown"):
            with suppress(PermissionError):
                os.chown(new, old.st_uid, old.st_gid)
        new.chmod(stat.S_IMODE(old.st_mode))
    with new.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(new, target)


def _write_over(new: Path, target: Path, size: int) -> None:
    with new.open("rb") as source, target.open("r+b") as file:
        if hasattr(os, "posix_fallocate") and (wanted := new.stat().st_size) > size:
            try:
                os.posix_fallocate(file.fileno(), 0, wanted)
            except OSError:
                file.truncate(size)
                raise
        shutil.copyfileobj(source, file)
        file.truncate()
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _naming(path: str | os.PathLike[str]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _cannot(path, error) from error


def _cannot(path: str | os.PathLike[str], error: OSError) -> OSError:
    return type(error)(f"{path} cannot be written: {error.strerror or error}.")
