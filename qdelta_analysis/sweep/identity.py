"""What a sweep computes, told so that another process, or another day, can say whether it is the same.

Looked at: the source of functions (without comments, docstrings, decorators, line numbers), or their byte code where
there is none that fits; values of closures, defaults, arguments of partials, attributes of objects, and the constants,
functions and classes that they use by a global name, all the way down; arrays and tensors by their content; the
toolkit's version.

Not looked at: what installed packages do (a function of theirs is told by its name), files and whatever else is read
while computing, random generators, and what a function itself changes: a list that it appends to, an attribute that
it counts in, and a list of one truth value, the way to write a switch.
"""

from __future__ import annotations

import collections.abc
import enum
import functools
import hashlib
import inspect
import io
import pickle
import random
import sys
import sysconfig
import types
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch

from .code import text_of, uses
from .points import Plan

# What there is to tell, by a name for each part: "measure", "measure.scale", ...
Identity = dict[str, str]

_PLAIN = (type(None), bool, int, float, complex, str, bytes, range, slice, type(...))
_TOOLKIT = ("qdelta_analysis", "qdelta_kernels")
_STANDARD = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib"))
# Of these only the kind is told: they change by being used, or are nothing that a number could come from.
_OPAQUE = (np.random.Generator, np.random.RandomState, random.Random, torch.Generator)
_OPAQUE += (collections.abc.Iterator, io.IOBase, weakref.ref)
_SET_UP = ("__init__", "__new__", "__post_init__", "__setstate__")
_UNTOLD = {"__module__", "__doc__", "__dict__", "__weakref__", "__annotations__", "__qualname__", "__firstlineno__"}
_UNTOLD |= {"__static_attributes__", "__slots__", "__match_args__", "__parameters__", "__orig_bases__", "_abc_impl"}
_UNTOLD |= {"__dataclass_params__", "__annotate__", "__annotations_cache__", "__annotate_func__", "__abstractmethods__"}


def identity(plan: Plan) -> Identity:
    """Tell what a plan computes."""
    teller = _Teller()
    teller.tell("measure", plan.measure)
    teller.tell("make", plan.make)
    return teller.told | {"batched": str(plan.batched), "qdelta": version("qdelta")}


def difference(held: Mapping[str, str], wanted: Mapping[str, str]) -> str:
    """Say in one clause what differs first, what it was and what it is."""
    names = sorted({*held, *wanted}, key=lambda name: (name.count("."), name not in ("measure", "make"), name))
    name = next(name for name in names if held.get(name) != wanted.get(name))
    old, new = _where_they_differ(held.get(name, "nothing"), wanted.get(name, "nothing"))
    how = "with" if "." in name else "of"
    kept = "what is there stays as it is, so give another path, or remove it to compute all anew"
    return f"holds a sweep {how} {name} {old}; expected {new}: {kept}."


def _where_they_differ(old: str, new: str) -> tuple[str, str]:
    """Two texts, or of longer ones the first line that is another."""
    if "\n" not in old + new:
        return old, new
    lines = [text.splitlines() for text in (old, new)]
    at = next((i for i, (a, b) in enumerate(zip(*lines, strict=False)) if a != b), min(map(len, lines)))
    said = lambda text: f"line {at + 1} {text[at].strip()!r}" if at < len(text) else f"no line {at + 1}"
    return said(lines[0]), said(lines[1])


@dataclass
class _Teller:
    """Tells values by name; what it met before it tells once."""

    told: Identity = field(default_factory=dict)
    met: dict[int, tuple[str, Any]] = field(default_factory=dict)

    def tell(self, name: str, value: Any, changed: frozenset[str] = frozenset()) -> None:
        """Tell a value; of an object not the attributes that are `changed`."""
        if isinstance(value, _PLAIN) and not isinstance(value, enum.Enum):
            self.told[name] = _short(repr(value))
        elif isinstance(value, torch.Tensor | np.ndarray | np.generic):
            self._array(name, value)
        elif isinstance(value, PurePath | enum.Enum | torch.dtype | torch.device | np.dtype):
            self.told[name] = f"{type(value).__qualname__} {value}"
        elif isinstance(value, types.ModuleType):
            self.told[name] = f"module {value.__name__}"
        elif isinstance(value, _OPAQUE) or value is inspect.Parameter.empty:
            self.told[name] = type(value).__qualname__
        elif id(value) in self.met:
            self.told[name] = f"the same as {self.met[id(value)][0]}"
        else:
            self.met[id(value)] = name, value  # kept, so that no other object has its id
            self._compound(name, value, changed)

    def _compound(self, name: str, value: Any, changed: frozenset[str]) -> None:
        if isinstance(value, functools.partial):
            self.tell(name, value.func)
            for i, x in enumerate(value.args):
                self.tell(f"{name}.args[{i}]", x)
            for key, x in sorted(value.keywords.items()):
                self.tell(f"{name}.{key}", x)
        elif isinstance(value, types.MethodType):
            self.tell(name, value.__func__)
            self.tell(f"{name}.self", value.__self__, _changed_by(value.__self__))
        elif isinstance(value, types.FunctionType):
            self._function(name, value)
        elif isinstance(value, type):
            self._class(name, value)
        elif isinstance(value, dict | list | tuple | set | frozenset | collections.deque | types.MappingProxyType):
            self._container(name, value)
        elif hasattr(value, "__wrapped__"):  # such as what functools.cache returns
            self.told[f"{name}.wrapper"] = type(value).__qualname__
            self.tell(name, value.__wrapped__)
        elif callable(value) and hasattr(value, "__name__") and not hasattr(value, "__dict__"):
            self._builtin(name, value)
        else:
            self._object(name, value, changed | _changed_by(value))

    def _function(self, name: str, function: types.FunctionType) -> None:
        code, module = function.__code__, function.__module__ or ""
        if module.partition(".")[0] in _TOOLKIT or (_installed(code.co_filename) and name not in ("measure", "make")):
            wrapped = getattr(function, "__wrapped__", None)
            if wrapped is not None and module.partition(".")[0] not in _TOOLKIT:
                self.told[f"{name}.wrapper"] = code.co_qualname
                self.tell(name, wrapped)
                return
            self.told[name] = f"{module}.{function.__qualname__}"
            if "<locals>" in function.__qualname__:  # one of several that a factory makes
                self._variables(name, inspect.getclosurevars(function).nonlocals, *uses(code))
            return
        self.told[name] = text_of(code)
        defaults = {p.name: p.default for p in inspect.signature(function, follow_wrapped=False).parameters.values()}
        for key, default in defaults.items():
            if default is not inspect.Parameter.empty:
                self.tell(f"{name}.{key}", default)
        used, changed = uses(code)
        cells = {key: cell.cell_contents for key, cell in _filled(function)}
        given = {} if _installed(code.co_filename) else function.__globals__
        here = {key: given[key] for key in used if key in given and not key.startswith("__")}
        self._variables(name, {**here, **cells}, used, changed)

    def _variables(
        self, name: str, values: Mapping[str, Any], used: Mapping[str, set[tuple[str, ...]]], changed: frozenset[str]
    ) -> None:
        """Tell what a function uses by name, and changes or not."""
        for key, value in sorted(values.items()):
            if isinstance(value, types.ModuleType) and not _foreign(value):
                for chain in sorted(used.get(key, ())):
                    self._of_module(f"{name}.{key}", value, chain)
            elif isinstance(value, list) and len(value) == 1 and isinstance(value[0], bool):
                self.told[f"{name}.{key}"] = "a switch"
            elif key in changed and not isinstance(value, torch.Tensor | np.ndarray):
                self.told[f"{name}.{key}"] = f"a {type(value).__qualname__} that it changes"
            else:
                inner = {x.partition(".")[2] for x in changed if x.startswith(f"{key}.")}
                self.tell(f"{name}.{key}", value, frozenset(inner))

    def _of_module(self, name: str, module: Any, chain: tuple[str, ...]) -> None:
        """Tell what a chain of names finds in a module of the user's."""
        for part in chain:
            if not isinstance(module, types.ModuleType) or _foreign(module) or not hasattr(module, part):
                break
            module, name = getattr(module, part), f"{name}.{part}"
        if not isinstance(module, types.ModuleType):
            self.tell(name, module)

    def _class(self, name: str, cls: type) -> None:
        self.told[name] = f"class {cls.__qualname__}"
        if _foreign(cls):
            self.told[name] = f"class {cls.__module__}.{cls.__qualname__}"
            return
        for base in cls.__bases__:
            if base is not object:
                self.tell(f"{name}.{base.__name__}", base)
        fields = getattr(cls, "__dataclass_fields__", {})
        if fields:
            self.told[f"{name}.fields"] = _short(", ".join(fields))
        for key, value in sorted(vars(cls).items()):
            inner = getattr(value, "__func__", getattr(value, "fget", getattr(value, "func", value)))
            generated = isinstance(inner, types.FunctionType) and fields and inner.__code__.co_filename[:1] == "<"
            if key in _UNTOLD or key.startswith("__dataclass") or generated or isinstance(value, _DESCRIPTORS):
                continue
            self.tell(f"{name}.{key}", value if inner is None else inner)

    def _container(self, name: str, value: Any) -> None:
        kind = type(value).__qualname__
        if isinstance(value, Mapping):
            items = sorted(((_key(key), x) for key, x in value.items()), key=lambda item: item[0])
        elif isinstance(value, set | frozenset):
            items = [(str(i), x) for i, x in enumerate(sorted(value, key=_key))]
        else:
            items = [(str(i), x) for i, x in enumerate(value)]
        if all(isinstance(x, _PLAIN) for _, x in items):
            said = [f"{key}: {x!r}" if isinstance(value, Mapping) else repr(x) for key, x in items]
            self.told[name] = _short(f"{kind} [{', '.join(said)}]")
            return
        self.told[name] = f"{kind} of {len(items)}"
        for key, x in items:
            self.tell(f"{name}[{key}]", x)

    def _builtin(self, name: str, function: Any) -> None:
        owner = getattr(function, "__self__", None)
        where = getattr(function, "__objclass__", None) or getattr(function, "__module__", None) or ""
        own = getattr(function, "__qualname__", function.__name__)
        self.told[name] = f"{getattr(where, '__qualname__', where)}.{own}"
        if owner is not None and not isinstance(owner, types.ModuleType):
            self.tell(f"{name}.self", owner)

    def _object(self, name: str, value: Any, changed: frozenset[str]) -> None:
        cls = type(value)
        self.told[name] = f"{cls.__module__}.{cls.__qualname__}" if _foreign(cls) else cls.__qualname__
        if not _foreign(cls):
            self.tell(f"{name}.{cls.__name__}", cls)
        attributes = None if _standard(cls) else _attributes(value)
        if attributes is None:
            try:
                pickle.dumps(value)
                attributes = {f"({i})": x for i, x in enumerate(value.__reduce_ex__(4))}
            except Exception:  # a lock, an event, a socket: nothing that a number could come from
                return
            attributes = {i: list(x) if isinstance(x, collections.abc.Iterator) else x for i, x in attributes.items()}
        computed = {key for base in cls.__mro__ for key, x in vars(base).items() if isinstance(x, _CACHED)}
        kept = {key: x for key, x in attributes.items() if key not in computed}
        self._variables(name, kept, {}, changed)

    def _array(self, name: str, value: Any) -> None:
        if isinstance(value, torch.Tensor):
            x = (value if value.layout == torch.strided else value.to_dense()).detach().resolve_conj()
            x = x.cpu().contiguous().reshape(-1)
            kind, content = f"tensor {str(x.dtype).partition('.')[2]}", x.view(torch.uint8).numpy().tobytes()
        else:
            x = np.ascontiguousarray(value).reshape(-1)
            kind, content = f"array {x.dtype.str}", x.tobytes()
            if x.dtype.kind == "O":
                self.tell(name, x.tolist())
                return
        said = str(x.tolist()) if len(x) <= 4 else f"SHA-256 {hashlib.sha256(content).hexdigest()[:16]}"
        self.told[name] = f"{kind} {list(value.shape)} {said}"


_CACHED = (functools.cached_property,)
_DESCRIPTORS = (types.GetSetDescriptorType, types.MemberDescriptorType)


def _short(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:80]}... SHA-256 {hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _key(x: Any) -> str:
    return x if isinstance(x, str) else repr(x) if isinstance(x, _PLAIN) else getattr(x, "__qualname__", str(type(x)))


def _installed(file: str) -> bool:
    parts = Path(file).parts
    packages = "site-packages" in parts or "dist-packages" in parts
    return packages or file.startswith("<frozen") or (file.startswith(_STANDARD) and not file.startswith("<"))


def _foreign(thing: Any) -> bool:
    """Whether a class or module is the toolkit's, an installed package's, or Python's own."""
    name = (thing.__name__ if isinstance(thing, types.ModuleType) else thing.__module__) or ""
    top = name.partition(".")[0]
    files = [getattr(sys.modules.get(part), "__file__", None) or "" for part in (name, top)]
    return top in _TOOLKIT or _standard(thing) or any(map(_installed, files))


def _standard(thing: Any) -> bool:
    """Whether a class or module is Python's own."""
    name = (thing.__name__ if isinstance(thing, types.ModuleType) else thing.__module__) or ""
    return name != "__main__" and name.partition(".")[0] in sys.stdlib_module_names


def _filled(function: types.FunctionType) -> Iterator[tuple[str, types.CellType]]:
    for key, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            cell.cell_contents  # noqa: B018 (a variable that has no value yet raises)
        except ValueError:
            continue
        yield key, cell


def _attributes(value: Any) -> dict[str, Any] | None:
    """Return an object's attributes; None for one that keeps none where Python could see them."""
    slots = [s for base in type(value).__mro__ for s in np.atleast_1d(vars(base).get("__slots__", ())).tolist()]
    if not hasattr(value, "__dict__") and not slots:
        return None
    named = {s: getattr(value, s) for s in slots if s not in ("__dict__", "__weakref__") and hasattr(value, s)}
    return named | getattr(value, "__dict__", {})


def _changed_by(value: Any) -> frozenset[str]:
    """Return the attributes that an object's own methods change, but for those that set it up."""
    found: set[str] = set()
    for cls in type(value).__mro__:
        for key, function in () if _foreign(cls) else vars(cls).items():
            if isinstance(function, types.FunctionType) and key not in _SET_UP and function.__code__.co_argcount:
                own = function.__code__.co_varnames[0]
                found |= {x.partition(".")[2] for x in uses(function.__code__)[1] if x.startswith(f"{own}.")}
    return frozenset(found)
