"""What a sweep changes as it runs, such as results that a measure keeps for itself, is told as it was before.

So the same sweep goes on in this process, where they are there, and in another one, where they are not yet. What
somebody else changed meanwhile is told as it is.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from typing import Any

from .identity import Identity, Teller, tell
from .points import Plan

# By who holds it and its name there: the holder, what a sweep left there, and how it was told before.
_LEFT: OrderedDict[tuple[int, str], tuple[Any, Identity, Identity]] = OrderedDict()
_MOST = 1024


class Told:
    """What a plan computes, at the time that this is made."""

    def __init__(self, plan: Plan):
        self.plan, self._before = plan, tell(plan)
        self.identity = _as_before(self._before)
        if self._before.untold:
            names = ", ".join(self._before.untold)
            warnings.warn(
                f"{names} cannot be told by content: no other process can go on with this sweep.", stacklevel=4
            )

    def ran(self) -> None:
        """Remember what running changed."""
        after = tell(self.plan)
        if after.told == self._before.told:
            return
        for name, (holder, key) in after.places.items():
            held, old = self._before.places.get(name, (None, ""))
            if held is holder and key == old:
                left = _beneath(after.told, name)
                if left != _beneath(self._before.told, name):
                    _LEFT[id(holder), key] = holder, left, _beneath(self.identity, name)
                    _LEFT.move_to_end((id(holder), key))
        while len(_LEFT) > _MOST:
            _LEFT.popitem(last=False)


def _as_before(teller: Teller) -> Identity:
    """Return what was told, with what sweeps left as it was before they ran."""
    told = dict(teller.told)
    for name, (holder, key) in sorted(teller.places.items(), key=lambda item: len(item[0])):
        held, left, before = _LEFT.get((id(holder), key), (None, {}, {}))
        if held is not holder or _beneath(told, name) != left:
            continue
        for part in left:
            del told[name + part]
        told |= {name + part: text for part, text in before.items()}
    return told


def _beneath(told: Identity, name: str) -> Identity:
    """Return what is told of a name and its parts."""
    starts = tuple(name + mark for mark in ".[('")
    return {key[len(name) :]: text for key, text in told.items() if key == name or key.startswith(starts)}
