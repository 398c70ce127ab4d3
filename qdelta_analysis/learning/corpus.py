"""The training text: CPython's language reference as `pydoc_data.topics` has it, shipped with the package."""

from __future__ import annotations

import hashlib
import lzma
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from qdelta_analysis.data import CORPUS, CORPUS_SHA256

HELD_OUT_SHARE = 0.1


@dataclass(frozen=True)
class Corpus:
    """Bytes to train on and bytes to measure on, as int64 token vectors."""

    training: Int[Tensor, " N"]
    held_out: Int[Tensor, " M"]


def topics_text() -> str:
    """Return the running Python's pydoc topics, in their own order, one empty line between two."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics.values())


def read_text(path: Path = CORPUS, sha256: str = CORPUS_SHA256) -> bytes:
    """Return the shipped text, once its SHA-256 is found right; raises ValueError where it is not."""
    text = lzma.decompress(path.read_bytes())
    found = hashlib.sha256(text).hexdigest()
    if found != sha256:
        raise ValueError(f"{path.name} holds a text with SHA-256 {found}; expected {sha256}.")
    return text


def split_text(text: bytes) -> tuple[bytes, bytes]:
    """Split a text into its training part and its held-out tail, the last tenth from a paragraph's start on.

    The reference repeats itself: a paragraph of the tail may stand in the training part as well. Such copies
    leave the training part, so that nothing is measured on a paragraph that was learnt.
    """
    cut = text.index(b"\n\n", int(len(text) * (1 - HELD_OUT_SHARE))) + 2
    training, held_out = text[:cut], text[cut:]
    measured = {paragraph.strip() for paragraph in held_out.split(b"\n\n")} - {b""}
    kept = [paragraph for paragraph in training.split(b"\n\n") if paragraph.strip() not in measured]
    return b"\n\n".join(kept), held_out


def load_corpus() -> Corpus:
    """Return the shipped text as training and held-out tokens."""
    return Corpus(*(to_tokens(part) for part in split_text(read_text())))


def to_tokens(text: bytes) -> Int[Tensor, " N"]:
    """Return the bytes of a text as int64 tokens."""
    return torch.frombuffer(bytearray(text), dtype=torch.uint8).long()


def prose_excerpt(held_out: bytes, length: int) -> bytes:
    """Return the first `length` ASCII bytes that begin a paragraph: one byte is one character there."""
    start = 0
    while len(held_out) - start >= length:
        excerpt = held_out[start : start + length]
        if excerpt.isascii():
            return excerpt
        start = held_out.index(b"\n\n", start) + 2
    raise ValueError(f"held_out has no run of {length} ASCII bytes from a paragraph's start on.")
