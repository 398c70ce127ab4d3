"""What kind of thing a value is: whose class or function, and what it consists of."""

from __future__ import annotations

import collections.abc
import copyreg
import functools
import importlib
import importlib.util
import inspect
import operator
import pickle
import sys
import sysconfig
import types
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .code import uses

TOOLKIT = ("qdelta_analysis", "qdelta_kernels")
_STANDARD = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib"))
# What some kinds consist of.
PARTS: dict[type, Any] = {
    slice: lambda x: {key: getattr(x, key) for key in ("start", "stop", "step")},
    memoryview: lambda x: {"format": x.format, "shape": x.shape, "bytes": x.tobytes()},
    types.CellType: lambda x: dict([("content", x.cell_contents)]),
    weakref.ref: lambda x: {"to": x()},
    property: lambda x: {key: getattr(x, key) for key in ("fget", "fset", "fdel")},
    staticmethod: lambda x: {"func": x.__func__},
    classmethod: lambda x: {"func": x.__func__},
    functools.cached_property: lambda x: {"func": x.func},
}


def imported(name: str) -> Any:
    """Import a module if it is the user's; None for others."""
    top = name.partition(".")[0]
    if name not in sys.modules:
        found = None if top in TOOLKIT or top in sys.stdlib_module_names else importlib.util.find_spec(top)
        if found is None or installed(found.origin or ""):
            return None
    module = importlib.import_module(name)
    return None if foreign(module) else module


def is_the_toolkits(function: types.FunctionType) -> bool:
    """Whether a function is the toolkit's, whatever it was wrapped in there."""
    module = function.__module__ or ""
    if module.partition(".")[0] not in TOOLKIT:
        return False
    found: Any = sys.modules.get(module)
    for part in function.__qualname__.split("."):
        found = inspect.getattr_static(found, part, None)
        found = getattr(found, "__func__", found)
    return found is function


def is_generated(function: types.FunctionType) -> bool:
    """Whether a method was written by dataclass or NamedTuple."""
    inner = getattr(function, "__wrapped__", function).__code__
    return "__create_fn__" in inner.co_qualname or (function.__module__ or "").startswith("namedtuple_")


def hides(cls: type) -> bool:
    """Whether objects of a class hold something where Python cannot see it."""
    own = [vars(base)["__new__"] for base in cls.__mro__[:-1] if "__new__" in vars(base)]
    return any(isinstance(new, types.BuiltinFunctionType) for new in own)


def reduced(value: Any) -> dict[str, Any]:
    """Return what an object is made anew from, as `pickle` would."""
    reduce = copyreg.dispatch_table.get(type(value))
    parts: Any = reduce(value) if reduce is not None else value.__reduce_ex__(4)
    if isinstance(parts, str):
        module = pickle.whichmodule(value, parts)  # pyright: ignore[reportAttributeAccessIssue]
        if operator.attrgetter(parts)(sys.modules[module]) is not value:
            raise TypeError(f"{parts} of {module} is another object.")
        return {"(0)": f"{module}.{parts}"}
    anew = [getattr(copyreg, name) for name in ("__newobj__", "_reconstructor")]
    empty = parts[0] in anew and not any(parts[2:])
    if empty and len(parts[1]) == 1 and hides(type(value)):
        raise TypeError(f"{type(value).__qualname__} does not say what it holds.")
    state = parts[2] if len(parts) > 2 else None
    if isinstance(state, dict) and all(isinstance(key, str) for key in state):  # its attributes
        parts = (*parts[:2], None, *parts[3:])
    else:
        state = {}
    if parts[0] in anew and len(parts[1]) == 1:
        parts = (None, None, *parts[2:])
    listed = {i: list(x) if isinstance(x, collections.abc.Iterator) else x for i, x in enumerate(parts[:5])}
    return {f"({i})": x for i, x in listed.items() if x is not None} | state


def installed(file: str) -> bool:
    """Whether a file is an installed package's, or Python's own."""
    parts = Path(file).parts
    packages = "site-packages" in parts or "dist-packages" in parts
    return packages or file.startswith("<frozen") or (file.startswith(_STANDARD) and not file.startswith("<"))


def foreign(thing: Any) -> bool:
    """Whether a class or module is the toolkit's, an installed package's, or Python's own."""
    if getattr(thing, "__module__", "") == "types" and not hasattr(types, thing.__name__):
        return False  # what make_dataclass returns
    name = (thing.__name__ if isinstance(thing, types.ModuleType) else thing.__module__) or ""
    if not isinstance(name, str):  # of some classes that Cython makes
        return True
    top = name.partition(".")[0]
    files = [getattr(sys.modules.get(part), "__file__", None) or "" for part in (name, top)]
    return top in TOOLKIT or standard(thing) or any(map(installed, files))


def standard(thing: Any) -> bool:
    """Whether a class or module is Python's own."""
    name = (thing.__name__ if isinstance(thing, types.ModuleType) else thing.__module__) or ""
    top = name.partition(".")[0]
    file = getattr(sys.modules.get(top), "__file__", None)  # a user's file may have the name of one of Python's
    return name != "__main__" and top in sys.stdlib_module_names and (file is None or installed(file))


def filled(function: types.FunctionType) -> Iterator[tuple[str, types.CellType]]:
    """Yield a function's variables from around it, but for those that have no value yet."""
    for key, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            cell.cell_contents  # noqa: B018 (a variable that has no value yet raises)
        except ValueError:
            continue
        yield key, cell


def attributes_of(value: Any) -> dict[str, Any] | None:
    """Return an object's attributes; None for one that keeps none where Python could see them."""
    named, some = {}, hasattr(value, "__dict__")
    for base in type(value).__mro__:
        slots = vars(base).get("__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            some = True
            hidden = slot.startswith("__") and not slot.endswith("__")
            key = f"_{base.__name__.lstrip('_')}{slot}" if hidden else slot
            if key not in ("__dict__", "__weakref__") and hasattr(value, key):
                named[key] = getattr(value, key)
    if not some:
        return None
    return named | getattr(value, "__dict__", {})


def only_written_in(value: Any, attributes: Mapping[str, Any]) -> set[str]:
    """Return the attributes that an object's own methods write to, and never read, but for those that set it up."""
    written: set[str] = set()
    kept: set[str] = set()
    for cls in type(value).__mro__:
        for key, method in () if foreign(cls) else vars(cls).items():
            for function in (method, *(getattr(method, x, None) for x in ("__func__", "fget", "fset", "func"))):
                if not isinstance(function, types.FunctionType) or is_generated(function):
                    continue
                used, names = uses(function.__code__), function.__code__.co_varnames
                own = names[0] if function.__code__.co_argcount else ""
                if own in used.passed and key != "__setstate__":
                    return set()
                written |= {
                    x for x in attributes if used.only_writes(f"{own}.{x}", attributes[x]) and key != "__init__"
                }
                kept |= {x for x in attributes if f"{own}.{x}" in used.kept}
    return written - kept
