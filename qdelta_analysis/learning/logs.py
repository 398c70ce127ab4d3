"""What a run writes while it trains: CSV for tables, TensorBoard for watching."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO

from ..extras import from_extra

STEPS = ("step", "loss", "learning_rate", "gradient_norm", "tokens", "seconds")
WATCHED = ("step", "layer", "name", "value")


class Logs:
    """A folder with steps.csv (a row per logged step), watched.csv (a row per number) and TensorBoard's event files.

    Opened again at an earlier step, rows from that step on are dropped first. Raises MissingExtraError where
    TensorBoard is asked for and not installed.
    """

    def __init__(self, folder: Path, step: int, *, tensorboard: bool):
        folder.mkdir(parents=True, exist_ok=True)
        self._board = None
        if tensorboard:
            with from_extra("training", ", or tensorboard=False (--no-tensorboard)"):
                from torch.utils.tensorboard import SummaryWriter
            self._board = SummaryWriter(str(folder), purge_step=step)
        self._files: list[IO[str]] = []
        self._steps = self._open(folder / "steps.csv", STEPS, step)
        self._watched = self._open(folder / "watched.csv", WATCHED, step)

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
        """Put on disk what was written so far."""
        for file in self._files:
            file.flush()
        if self._board is not None:
            self._board.flush()

    def _show(self, numbers: Mapping[str, float], step: int) -> None:
        if self._board is not None:
            for name, value in numbers.items():
                self._board.add_scalar(name, value, step)

    def _open(self, path: Path, names: tuple[str, ...], step: int):
        kept: list[list[str]] = []
        if path.exists():
            with path.open(newline="") as file:
                kept = [row for row in csv.reader(file) if len(row) == len(names) and row[0].isdigit()]
        self._files.append(file := path.open("w", newline=""))
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows(row for row in kept if int(row[0]) < step)
        return writer
