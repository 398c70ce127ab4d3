"""Language modelling on real text: the shipped prose, or the sources of Python's standard library."""

from __future__ import annotations

import hashlib
import sysconfig
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import nn

from qdelta_analysis.checks import require_count

from ..corpus import Corpus, load_corpus, to_tokens
from .examples import Examples, Score, generator

Text = Literal["prose", "standard library"]
TEXTS: tuple[Text, ...] = get_args(Text)


@dataclass(frozen=True)
class LanguageModelling:
    """Predict the next byte of real text, in windows drawn at random from its training part.

    "prose" is the shipped text; "standard library" the sources of the running Python, see `standard_library`.
    length: bytes of a window in training. tested: windows in tests; `held_out`: how many bytes of the held-out part
    are measured, None for all. Raises ValueError for another text or size.
    """

    text: Text = "prose"
    length: int = 256
    tested: tuple[int, ...] = (256, 512)
    held_out: int | None = None

    def __post_init__(self):
        if self.text not in TEXTS:
            raise ValueError(f"text is {self.text!r}; expected one of {', '.join(map(repr, TEXTS))}.")
        require_count("length", self.length, 1)
        for window in self.tested:
            require_count("tested", window, 2)
            if window % 2:
                raise ValueError(f"tested is {self.tested}; expected even numbers of bytes.")
        if self.held_out is not None:
            require_count("held_out", self.held_out, 2)

    @property
    def vocabulary(self) -> int:
        """Bytes."""
        return 256

    def corpus(self) -> Corpus:
        """Return the text's two parts."""
        return load_corpus() if self.text == "prose" else standard_library()

    def examples(self, size: int, seed: int, step: int) -> Examples:
        """Draw windows from the text's training part; they depend on the arguments alone."""
        text = _corpus(self.text).training
        if len(text) <= self.length:
            raise ValueError(f"the training text has {len(text)} bytes; expected more than a window, {self.length}.")
        g = generator("text", self.text, "training", seed, step)
        starts = torch.randint(len(text) - self.length, (size, 1), generator=g)
        windows = text[starts + torch.arange(self.length + 1)]
        return Examples(windows[:, :-1], windows[:, 1:])

    def scores(self, model: nn.Module) -> list[Score]:
        """Measure the bits per byte on the held-out part, for each window; see `learning.evaluate`."""
        from ..training import evaluate

        text = _corpus(self.text).held_out[: self.held_out]
        text = text.to(next(model.parameters()).device)
        return [
            Score(f"{self.text}, windows of {window}", "bits per byte", evaluate(model, text, window))
            for window in self.tested
        ]


def standard_library(folder: Path | None = None) -> Corpus:
    """Return the sources of the running Python's standard library; about every tenth module is held out.

    All *.py files below `folder` (None: the library's own) but tests and installed packages, in the order of their
    names, one empty line between two. A top-level module or package is held out as a whole, by the SHA-256 of its
    name, so that no text is measured whose neighbour was learnt. Raises FileNotFoundError where there are none, as in
    a Python that came without its sources.
    """
    root = Path(sysconfig.get_path("stdlib")) if folder is None else Path(folder)
    parts: tuple[list[bytes], list[bytes]] = ([], [])
    for path in sorted(root.rglob("*.py")):
        names = path.relative_to(root).with_suffix("").parts
        if {"site-packages", "dist-packages", "test", "tests", "idle_test"} & set(names):
            continue
        parts[hashlib.sha256(names[0].encode()).digest()[0] < 26].append(path.read_bytes())
    if not all(parts):
        raise FileNotFoundError(f"{root} has {len(parts[0]) + len(parts[1])} modules; expected a library's sources.")
    training, held_out = (b"\n\n".join(part) for part in parts)
    return Corpus(to_tokens(training), to_tokens(held_out))


@cache
def _corpus(text: Text) -> Corpus:
    return LanguageModelling(text).corpus()
