"""Writing files so that nobody ever sees half of one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a path to write to; it becomes `path` when the block ends well, and is gone when it does not.

    Raises FileNotFoundError when the folder of `path` is not there.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path} cannot be written; expected a file in a folder that exists.")
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".qdelta-") as folder:
        yield Path(folder) / path.name
        # Some writers make files that only their owner can read; a new file is as readable as the user's others.
        os.umask(mask := os.umask(0))
        (Path(folder) / path.name).chmod(0o666 & ~mask)
        os.replace(Path(folder) / path.name, path)
