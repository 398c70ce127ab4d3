"""Standing in for functions: while a `with` block lasts, in the thread that entered it, and nothing stays behind.

What is at work is known to the thread (more exactly: the context) that entered the block. A function's stand-in is in
its place for all threads as long as one of them needs it; where nothing is at work it is the function.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.utils.checkpoint
from torch import nn


class StandIn:
    """Takes the place of `found`, and is called in its stead; `users` are those who need it there."""

    def __init__(self, found: Any, function: Callable[..., Any] | None = None):
        self.found = found
        self.function: Callable[..., Any] = found if function is None else function
        self.users: set[Work] = set()
        self.owner: dict[str, Any] | None = None  # where it stands; the shallow copy of a model is another

    def put_back(self, owner: dict[str, Any], name: str) -> Any:
        """Leave what was found in this place, and return it."""
        if self.found is None:
            del owner[name]
        else:
            owner[name] = self.found
        return self.found

    def __reduce__(self):  # the copy of a model has what stood there, and so has a file
        return _itself, (self.function,)


def _itself(x: Any) -> Any:
    return x


class Place(NamedTuple):
    """Where a function is looked up, and how to make its stand-in out of what is found there (None: nothing)."""

    owner: dict[str, Any]
    name: str
    stand_in: Callable[[Any], StandIn]


@dataclass(eq=False)
class Work:
    """What one `with` block does: its handler at each of these layers, while stand-ins are in these places."""

    handler: Any
    numbers: dict[int, int]  # of each layer, by its id; empty when the block has ended, whoever still knows of it
    places: Sequence[Place]
    again: Callable[[], AbstractContextManager[None]] | None  # the same block, for a layer that is computed again
    backward: int  # in which backward pass it began, -1 in none

    def begin(self) -> None:
        """Put the stand-ins in their places."""
        with _changing:
            for owner, name, stand_in in self.places:
                there = owner.get(name)
                if isinstance(there, StandIn) and there.owner is not owner:
                    there = there.put_back(owner, name)
                if not isinstance(there, StandIn):
                    there = owner[name] = stand_in(there)
                    there.owner = owner
                there.users.add(self)
        _at_work.set((*_at_work.get(), weakref.ref(self)))

    def end(self) -> None:
        """Take the stand-ins away that nobody else needs. Right as often as it is called, from any thread."""
        self.numbers.clear()
        _at_work.set(tuple(one for one in _at_work.get() if one() not in (None, self)))
        with _changing:
            for owner, name, _ in self.places:
                if isinstance(there := owner.get(name), StandIn):
                    there.users.discard(self)
                    if not there.users:
                        there.put_back(owner, name)


_changing = threading.RLock()
_at_work: ContextVar[tuple[weakref.ref[Work], ...]] = ContextVar("at_work", default=())


@contextmanager
def working(
    handler: Any, layers: dict[int, nn.Module], places: Sequence[Place], *, lasting: bool = False
) -> Iterator[None]:
    """Let the handler work at these layers, by number. An interrupt at any point leaves nothing behind.

    lasting: it also works where activation checkpointing computes a layer again whose forward pass was in this block,
    whether or not the block has ended by then.
    """
    again = partial(working, handler, layers, places, lasting=True) if lasting else None
    numbers = {id(layer): number for number, layer in layers.items()}
    everywhere = (*places, *_checkpoints()) if lasting else places
    work = Work(handler, numbers, everywhere, again, _backward_pass())
    try:
        try:
            work.begin()
            yield
        finally:
            work.end()
    finally:  # once more: an interrupt may have come while it ended
        work.end()


def at_work(layer: nn.Module | None) -> list[tuple[int, Any]]:
    """Return the handlers at work at a layer here and now, first to last, each with the layer's number.

    Raises RuntimeError where one of them is to last into a backward pass that nobody here knows of.
    """
    works = [(number, work) for work in _here() if (number := work.numbers.get(id(layer))) is not None]
    lasting = [number for number, work in works if work.again is not None]
    if lasting and (function := _differentiated_around()) is not None:
        raise RuntimeError(
            f"layer {lasting[0]} runs in the forward pass of {function}, whose backward pass may compute it again, "
            "then without what is patched in; expected torch.utils.checkpoint, or tensors that need no gradient."
        )
    return [(number, work.handler) for number, work in works]


def _differentiated_around() -> str | None:
    """Return the name of the autograd.Function whose forward pass this is, None for torch.utils.checkpoint's."""
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code is _APPLY:
            function, given = (frame.f_locals[name] for name in ("cls", "args"))
            torchs = function.__module__ == torch.utils.checkpoint.__name__
            if not torchs and any(isinstance(x, torch.Tensor) and x.requires_grad for x in given):
                return function.__name__
        frame = frame.f_back
    return None


def _here() -> list[Work]:
    """What is at work: of what began outside of a backward pass nothing that is computed in it.

    A layer is computed in there only because checkpointing computes its forward pass once more.
    """
    backward = _backward_pass()
    found = [one() for one in _at_work.get()]
    return [work for work in found if work is not None and work.numbers and work.backward == backward]


def _backward_pass() -> int:
    return torch._C._current_graph_task_id()


# The frame of a function with a backward pass of its own that is being called.
_APPLY = torch.autograd.Function.apply.__func__.__code__


# torch.utils.checkpoint looks these two up whenever it is called: one keeps the function for `use_reentrant=True`, the
# other for False. What is at work then is kept with it.
def _checkpoints() -> tuple[Place, Place]:
    owner = torch.utils.checkpoint.__dict__
    return Place(owner, "CheckpointFunction", _Reentrant), Place(owner, "_CheckpointFrame", _Frame)


class _Reentrant(StandIn):
    def __getattr__(self, name: str) -> Any:
        return getattr(self.function, name)

    def apply(self, function, *args):
        again = _Again(function)

        def either(*inputs):  # the same function serves the forward pass
            return (function if _backward_pass() == again.backward else again)(*inputs)

        checkpoint: Any = self.function
        return checkpoint.apply(either if again.works else function, *args)


class _Frame(StandIn):
    def __call__(self, recompute, *args, **kwargs):
        again = _Again(recompute)
        return self.function(again if again.works else recompute, *args, **kwargs)


class _Again:
    """A function that is called with what was at work when it was first seen, and with nothing else."""

    def __init__(self, function: Callable[..., Any]):
        self.function, self.backward = function, _backward_pass()
        self.works = [work.again for work in _here() if work.again is not None]

    def __call__(self, *args, **kwargs):
        return copy_context().run(self._call, args, kwargs)

    def _call(self, args, kwargs):
        _at_work.set(())
        with ExitStack() as stack:
            for work in self.works:
                stack.enter_context(work())
            return self.function(*args, **kwargs)
