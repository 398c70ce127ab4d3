"""What a run writes while it trains: CSV for tables, TensorBoard for watching."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from ..extras import from_extra
from ..files import replacing

STEPS = ("step", "loss", "learning_rate", "gradient_norm", "tokens", "seconds")
WATCHED = ("step", "layer", "name", "value")


class Logs:
    """A folder with steps.csv (a row per logged step), watched.csv (a row per number) and TensorBoard's event files.

    A row is in its file as soon as it is written. Opened again at an earlier step, rows from that step on are dropped
    first; the others are in the file all the while. Raises MissingExtraError where TensorBoard is asked for and not
    installed, ValueError for a table that is no such log, which stays as it is.
    """

    def __init__(self, folder: Path, step: int, *, tensorboard: bool):
        folder.mkdir(parents=True, exist_ok=True)
        board = _board() if tensorboard else None
        for name, columns in (("steps.csv", STEPS), ("watched.csv", WATCHED)):
            _drop_rows(folder / name, columns, step)
        self._board = None if board is None else board(str(folder), purge_step=step)
        self._files: list[IO[str]] = []
        self._steps, self._watched = (self._open(folder / name) for name in ("steps.csv", "watched.csv"))

    def __enter__(self) -> Logs:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        for file in self._files:
            file.close()
        if self._board is not None:
            self._board.close()

    def step(self, row: Mapping[str, float]) -> None:
        """Write one step's row, with the names of STEPS."""
        self._steps.writerow([row[name] for name in STEPS])
        self._show({f"training/{name}": row[name] for name in STEPS[1:]}, int(row["step"]))

    def watched(self, step: int, layer: int, numbers: Mapping[str, float]) -> None:
        """Write what one layer's memories do at a step."""
        self._watched.writerows([step, layer, name, value] for name, value in numbers.items())
        self._show({f"layer {layer}/{name}": value for name, value in numbers.items()}, step)

    def flush(self) -> None:
        """Put on disk what was written so far, for a checkpoint that is about to say so."""
        for file in self._files:
            os.fsync(file.fileno())
        if self._board is not None:
            self._board.flush()

    def _show(self, numbers: Mapping[str, float], step: int) -> None:
        if self._board is not None:
            for name, value in numbers.items():
                self._board.add_scalar(name, value, step)

    def _open(self, path: Path):
        self._files.append(file := path.open("a", newline="", buffering=1))  # row by row
        return csv.writer(file)


def _board() -> Any:
    """Return TensorBoard's writer, before anything is changed that would wait for it."""
    with from_extra("training", ", or tensorboard=False (--no-tensorboard)"):
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter


def _drop_rows(path: Path, names: tuple[str, ...], step: int) -> None:
    """Leave in a table the rows before a step, all at once; a last row that was cut off goes too."""
    text = ",".join(names) + "\r\n"
    if path.exists():
        try:
            held = path.read_bytes().decode()
            whole = held[: held.rfind("\n") + 1]
            rows = list(csv.reader(io.StringIO(whole, newline="")))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"{path} cannot be read ({error}); expected the table of a training run.") from error
        for number, row in enumerate(rows):
            fits = (
                row == list(names)
                if number == 0
                else len(row) == len(names) and row[0].isdecimal() and len(row[0]) < 16
            )
            if not fits:
                raise ValueError(
                    f"{path} has {','.join(row)[:80]!r} in line {number + 1}; expected {', '.join(names)}: "
                    "mend it, or move it away."
                )
        kept = rows[:1] + [row for row in rows[1:] if int(row[0]) < step]
        if kept == rows and whole == held and rows:
            return
        lines = io.StringIO(newline="")
        csv.writer(lines).writerows(kept or [names])
        text = lines.getvalue()
    with replacing(path) as new:
        new.write_bytes(text.encode())
