"""A needle in a haystack: one fact in real text, asked for at the end."""

from __future__ import annotations

import random
import re
import uuid
from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

import torch
from torch import nn

from qdelta_analysis.checks import require_count

from ..corpus import read_text, split_text, to_tokens
from .examples import IGNORED, Examples, Score, measure, stream

Needle = Literal["pass-key", "number", "uuid"]
NEEDLES: tuple[Needle, ...] = get_args(Needle)
_LEAST = 192  # bytes: the longest needle and question with some text around them


@dataclass(frozen=True)
class NeedleInHaystack:
    """Find one fact in text: haystack, needle, haystack, question; the answer's bytes are asked for, one by one.

        pass-key  (S-NIAH-1)  a key of 5 digits in one sentence of the text, repeated
        number    (S-NIAH-2)  a number of 7 digits under a word of the text, in running text
        uuid      (S-NIAH-3)  a UUID (version 4) under a word of the text, in running text

    Tokens are bytes; the text is the shipped prose: its training part in training, its held-out part in tests. The
    needle's depth is uniform. The answer stands in the row, so that each of its bytes is asked for after the right
    ones before it ("accuracy"), and "exact" says in how many rows all of them are found.

    length: bytes of a row in training; tested: in tests; rows: of each test. Raises ValueError for another needle, or
    a row of less than 192 bytes. Source: the three single-needle tasks of RULER (arXiv 2404.06654), with words of
    our own and other text; so numbers are not to be compared with those of RULER, only with each other.
    """

    needle: Needle = "pass-key"
    length: int = 256
    tested: tuple[int, ...] = (256, 512, 1024)
    rows: int = 64

    def __post_init__(self):
        if self.needle not in NEEDLES:
            raise ValueError(f"needle is {self.needle!r}; expected one of {', '.join(map(repr, NEEDLES))}.")
        require_count("length", self.length, _LEAST)
        require_count("rows", self.rows, 1)
        for length in self.tested:
            require_count("tested", length, _LEAST)

    @property
    def vocabulary(self) -> int:
        """Bytes."""
        return 256

    def examples(self, size: int, seed: int, step: int) -> Examples:
        """Draw a training batch from the text's training part; it depends on the arguments alone."""
        rng = random.Random(stream("needle", self.needle, "training", seed, step))
        return self.draw(size, self.length, rng, held_out=False)

    def scores(self, model: nn.Module) -> list[Score]:
        """Measure retrieval from the text's held-out part, for each length."""
        scores = []
        for length in self.tested:
            rng = random.Random(stream("needle", self.needle, "test", length))
            examples = self.draw(self.rows, length, rng, held_out=True)
            scores += measure(model, examples, f"{self.needle}, {length} bytes", batch=16)
        return scores

    def draw(self, size: int, length: int, rng: random.Random, *, held_out: bool) -> Examples:
        """Draw rows of `length` bytes; the answer's last byte is asked for at a row's last byte."""
        rows, answers = [], []
        for _ in range(size):
            text, answer = self.row(length, rng, held_out=held_out)
            rows.append(to_tokens(text + answer))
            answers.append(len(answer))
        whole = torch.stack(rows)
        targets = torch.full_like(whole[:, 1:], IGNORED)
        asked = answers[0]  # of one length for one needle
        targets[:, -asked:] = whole[:, -asked:]
        return Examples(whole[:, :-1], targets)

    def row(self, length: int, rng: random.Random, *, held_out: bool) -> tuple[bytes, bytes]:
        """Return one row, up to its question's end, and the answer; together `length` + 1 bytes."""
        source = _source(held_out)
        answer, (fact, question) = self._fact(source, rng)
        room = length + 1 - len(fact) - len(question) - len(answer)
        hay = self._hay(source, room, rng)
        depth = rng.randrange(room + 1)
        while 0 < depth < room and not hay[depth - 1 : depth].isspace():  # not in the middle of a word
            depth -= 1
        return hay[:depth] + fact + hay[depth:] + question, answer

    def _fact(self, source: _Source, rng: random.Random) -> tuple[bytes, tuple[bytes, bytes]]:
        if self.needle == "pass-key":
            answer, name = b"%05d" % rng.randrange(10**5), b"pass key"
        elif self.needle == "number":
            answer, name = b"%07d" % rng.randrange(10**7), b"number of " + rng.choice(source.words)
        else:
            answer = str(uuid.UUID(int=rng.getrandbits(128), version=4)).encode()
            name = b"identifier of " + rng.choice(source.words)
        return answer, (b"\nThe %b is %b.\n" % (name, answer), b"\nWhat is the %b? The %b is " % (name, name))

    def _hay(self, source: _Source, room: int, rng: random.Random) -> bytes:
        if self.needle == "pass-key":
            sentence = rng.choice(source.sentences) + b" "
            return (sentence * (room // len(sentence) + 1))[:room]
        start = rng.randrange(len(source.text) - room)
        return source.text[start : start + room]


@dataclass(frozen=True)
class _Source:
    """A text to hide needles in: itself, its sentences on one line, and its words that make keys."""

    text: bytes
    sentences: list[bytes]
    words: list[bytes]


@cache
def _source(held_out: bool) -> _Source:
    text = split_text(read_text())[held_out]
    sentences = sorted(set(re.findall(rb"(?<=[\n ])[A-Z][a-z]+ [a-z ,]{20,60}\.", text)))
    return _Source(text, sentences, sorted(set(re.findall(rb"\b[a-z]{4,10}\b", text))))
