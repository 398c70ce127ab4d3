"""What only an extra of the package brings, and the one sentence where it is missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class MissingExtraError(ModuleNotFoundError):
    """Something is not installed that an extra of the package brings; the message names both."""


def missing(name: str, extra: str, otherwise: str = "") -> MissingExtraError:
    """Return the error that says so of a module. otherwise: what can be done without it."""
    return MissingExtraError(
        f"{name} is not installed; expected qdelta with its extra '{extra}' (in a checkout: pip install '.[{extra}]')"
        f"{otherwise}.",
        name=name,
    )


@contextmanager
def from_extra(extra: str, otherwise: str = "") -> Iterator[None]:
    """Import inside, from what an extra brings: a module that is not there raises MissingExtraError."""
    try:
        yield
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        if isinstance(error, MissingExtraError) or name.startswith("qdelta"):
            raise
        raise missing(name, extra, otherwise) from None
