"""What a sweep computes, told so that another process, or another day, can say whether it is the same.

Looked at: the source of functions (without comments, docstrings, decorators, line numbers), or their byte code where
there is none that fits; values of closures, defaults, arguments of partials, attributes of objects and classes, and the
constants, functions, classes and modules that they use by a global name or import as they run, all the way down;
arrays, tensors, containers, generators of random numbers and iterators by what they hold; the toolkit's version.

What a sweep changes as it runs, such as a dict of results that a measure keeps, is told as it was before: `changes`.
Not looked at: what is only written to, such as a list of calls or a counter that nothing reads; what installed packages
do (a function of theirs is told by its name); files and whatever else is read while computing; the global random
generators; names that are looked up as text. What cannot be told, such as a socket, is told as this process's own.
"""

from __future__ import annotations

import collections.abc
import concurrent.futures
import enum
import functools
import hashlib
import importlib
import importlib.util
import inspect
import io
import itertools
import os
import random
import threading
import types
import uuid
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import PurePath
from typing import Any

import numpy as np
import torch

from .code import Import, Uses, text_of, uses
from .kinds import (
    PARTS,
    TOOLKIT,
    attributes_of,
    filled,
    foreign,
    hides,
    imported,
    installed,
    is_generated,
    is_the_toolkits,
    only_written_in,
    reduced,
    standard,
)
from .points import Plan

# What there is to tell, by a name for each part: "measure", "measure.scale", ...
Identity = dict[str, str]

_PLAIN = {type(None), bool, int, float, complex, str, bytes, range, type(...), type(NotImplemented)}
_CONTAINERS = (dict, list, tuple, set, frozenset, collections.deque, types.MappingProxyType)
_VIEWS = (type({}.keys()), type({}.values()), type({}.items()))
# Of these only the kind is told: nothing that a number could come from, or what a use of something else left behind.
_OPAQUE = (type(threading.Lock()), type(threading.RLock()), concurrent.futures.Executor)
_OPAQUE += (weakref.WeakKeyDictionary, weakref.WeakValueDictionary, weakref.WeakSet)
_GLOBAL = (getattr(random, "_inst", None), getattr(np.random.mtrand, "_rand", None), torch.default_generator)
_UNTOLD = {"__module__", "__doc__", "__dict__", "__weakref__", "__annotations__", "__qualname__", "__firstlineno__"}
_UNTOLD |= {"__static_attributes__", "__slots__", "__match_args__", "__parameters__", "__orig_bases__", "_abc_impl"}
_UNTOLD |= {"__dataclass_params__", "__annotate__", "__annotations_cache__", "__annotate_func__", "__abstractmethods__"}
_UNTOLD |= {"__dataclass_fields__", "__class_getitem__", "__slotnames__"}
_PROCESS = uuid.uuid4().hex[:8]
_numbers = itertools.count(1)
_unknown: dict[int, tuple[Any, int]] = {}


def tell(plan: Plan) -> Teller:
    """Tell what a plan computes, as it is now, and where it is kept."""
    teller = Teller()
    teller.tell("measure", plan.measure, private=True)
    teller.tell("make", plan.make, private=True)
    teller.tell_what_is_read()
    teller.told |= {"batched": str(plan.batched), "qdelta": version("qdelta")}
    return teller


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
class Teller:
    """Tells values by name; what it met before it tells once.

    told: what there is to tell. places: who holds it, and under which name. untold: what could not be told.
    """

    told: Identity = field(default_factory=dict)
    met: dict[int, tuple[str, Any]] = field(default_factory=dict)
    places: dict[str, tuple[Any, str]] = field(default_factory=dict)
    untold: list[str] = field(default_factory=list)
    read: set[str] | None = field(default_factory=set)
    waiting: list[tuple[str, Any, str]] = field(default_factory=list)

    def tell(self, name: str, value: Any, private: bool = False) -> None:
        """Tell a value; of an object that is `private`, no other code than what is told has hold of its attributes."""
        kind = type(value)
        if kind in _PLAIN:
            self._put(name, _short(repr(value)))
        elif isinstance(value, torch.Tensor | np.ndarray | np.generic):
            self._array(name, value)
        elif isinstance(value, torch.dtype | torch.device | np.dtype) or (
            isinstance(value, PurePath) and standard(kind)
        ):
            self._put(name, f"{kind.__qualname__} {value}")
        elif isinstance(value, _OPAQUE) or value is inspect.Parameter.empty or any(value is x for x in _GLOBAL):
            self._put(name, kind.__qualname__)
        elif isinstance(value, tuple | frozenset) and kind in _CONTAINERS and all(type(x) in _PLAIN for x in value):
            self._container(name, value)  # whether it is the same object as another is nothing that code depends on
        elif id(value) in self.met:
            self._put(name, f"the same as {self.met[id(value)][0]}")
        else:
            self.met[id(value)] = name, value  # kept, so that no other object has its id
            self.places[name] = value, ""
            self._compound(name, value, private)

    def tell_what_is_read(self) -> None:
        """Tell the attributes that are written to, where some code reads one of that name."""
        waiting = self.waiting
        while waiting:
            self.waiting, left = [], []
            for name, value, key in waiting:
                if self.read is None or key in self.read:
                    self.tell(name, value)
                else:
                    left.append((name, value, key))
            if len(left) == len(waiting) and not self.waiting:
                break
            waiting = left + self.waiting
        for name, _, _ in waiting:
            self._put(name, "only written to")

    def _put(self, name: str, text: str) -> None:
        while name in self.told:
            name += "'"
        self.told[name] = text

    def _compound(self, name: str, value: Any, private: bool) -> None:
        kind = type(value)
        if isinstance(value, functools.partial):
            if kind is not functools.partial:
                self._object(name, value, False)
            self.tell(name, value.func, private)
            for i, x in enumerate(value.args):
                self.tell(f"{name}.args[{i}]", x)
            for key, x in value.keywords.items():
                self.tell(f"{name}.{key}", x)
        elif isinstance(value, types.MethodType):
            self.tell(name, value.__func__)
            self.tell(f"{name}.self", value.__self__, private)
        elif isinstance(value, types.FunctionType):
            self._function(name, value)
        elif isinstance(value, types.ModuleType):
            self._module(name, value)
        elif isinstance(value, type):
            self._class(name, value)
        elif isinstance(value, enum.Enum):
            self._put(name, f"{kind.__qualname__} {value!r}" if foreign(kind) else str(value))
            self.tell(f"{name}.value", value.value)
            self.tell(f"{name}.{kind.__name__}", kind)
        elif isinstance(value, _CONTAINERS):
            self._container(name, value)
        elif kind in _VIEWS:
            self._put(name, kind.__qualname__)
            self.tell(f"{name}.list", list(value))
        elif kind in PARTS:
            self._put(name, kind.__qualname__)
            for key, x in PARTS[kind](value).items():
                self.tell(f"{name}.{key}", x)
        elif isinstance(value, types.GeneratorType):
            self._generator(name, value)
        elif isinstance(value, types.CodeType):
            self._put(name, text_of(value))
        elif isinstance(value, io.IOBase) and not isinstance(value, io.StringIO | io.BytesIO):
            self._put(name, f"{kind.__qualname__} {file if isinstance(file := _name(value), str | bytes) else ''}")
        elif isinstance(value, functools._lru_cache_wrapper):
            self._put(f"{name}.wrapper", kind.__qualname__)
            self.tell(name, value.__wrapped__)
        elif isinstance(value, _BUILTIN):
            self._builtin(name, value)
        else:
            self._object(name, value, private)

    def _function(self, name: str, function: types.FunctionType) -> None:
        code, module = function.__code__, function.__globals__.get("__name__") or ""
        cells = dict(filled(function))
        values = {key: cell.cell_contents for key, cell in cells.items()}
        wrapped = getattr(function, "__wrapped__", None)
        if module.partition(".")[0] in TOOLKIT or is_the_toolkits(function):
            self._put(name, f"{function.__module__}.{function.__qualname__}")
            self._cells(name, values if "<locals>" in function.__qualname__ else {})  # one of several
            return
        if wrapped is not None and (module.startswith(_CHECKING) or code.co_filename.startswith("<@beartype")):
            self._put(f"{name}.wrapper", module)
            self.tell(name, wrapped)
            return
        if installed(code.co_filename) and name not in ("measure", "make"):
            if wrapped is None:
                self._put(name, f"{module}.{function.__qualname__}")
            else:
                self._put(f"{name}.wrapper", code.co_qualname)
                self.tell(name, wrapped)
            if hasattr(function, "dispatch") and hasattr(function, "registry"):  # functools.singledispatch
                self.tell(f"{name}.registry", dict(getattr(function, "registry")))  # noqa: B009
            else:
                self._cells(name, values if "<locals>" in code.co_qualname else {})
            return
        self._put(name, text_of(code))
        last = function.__defaults__ or ()
        defaults = dict(zip(code.co_varnames[code.co_argcount - len(last) : code.co_argcount], last, strict=True))
        for key, default in {**defaults, **(function.__kwdefaults__ or {})}.items():
            self.tell(f"{name}.{key}", default)
        used = uses(code)
        self.read = None if self.read is None or used.read is None else self.read | used.read
        around = {} if installed(code.co_filename) else function.__globals__
        given = {key: around[key] for key in used.used if key in around and not key.startswith("__")}
        for key, x in sorted({**given, **values}.items()):
            self.places[f"{name}.{key}"] = (cells[key], "") if key in cells else (around, key)
            self._variable(f"{name}.{key}", x, key, used)
        for x in used.imports:
            self._import(f"{name}.{x.module}", x, used, function.__globals__.get("__package__"))
        for key, x in sorted(vars(function).items()):
            if not key.startswith("__") and not used.only_writes(f"{function.__name__}.{key}", x):
                self.tell(f"{name}.{key}", x)
        if "__wrapped__" in vars(function):
            self.tell(f"{name}.wrapped", getattr(function, "__wrapped__"))  # noqa: B009

    def _cells(self, name: str, values: Mapping[str, Any]) -> None:
        for key, x in sorted(values.items()):
            self.tell(f"{name}.{key}", x)

    def _variable(self, name: str, value: Any, key: str, used: Uses) -> None:
        """Tell what a function uses by name."""
        if isinstance(value, types.ModuleType) and key not in used.bare:
            for chain in sorted(used.used[key]):
                self._of_module(name, value, chain)
        elif used.only_writes(key, value):
            self._put(name, "only written to")
        else:
            self.tell(name, value, key not in used.passed)

    def _of_module(self, name: str, module: Any, chain: tuple[str, ...]) -> None:
        """Tell what a chain of names finds in a module of the user's."""
        for part in chain:
            if not isinstance(module, types.ModuleType) or foreign(module) or not hasattr(module, part):
                break
            self.places[f"{name}.{part}"] = vars(module), part
            module, name = getattr(module, part), f"{name}.{part}"
        if not isinstance(module, types.ModuleType) and name not in self.told:
            self.tell(name, module)

    def _module(self, name: str, module: types.ModuleType) -> None:
        """Tell a module, of the user's whatever is in it: which of it is used shows only as it runs."""
        self._put(name, f"module {module.__name__}")
        for key, x in () if foreign(module) else sorted(vars(module).items()):
            if not key.startswith("__") and not (isinstance(x, types.ModuleType) and foreign(x)):
                self.places[f"{name}.{key}"] = vars(module), key
                self.tell(f"{name}.{key}", x)

    def _import(self, name: str, wanted: Import, used: Uses, package: str | None) -> None:
        """Tell what a function imports as it runs, where it is the user's."""
        try:
            full = importlib.util.resolve_name("." * wanted.level + wanted.module, package)
            module = imported(full)
            parts = {part: getattr(module, part, None) or imported(f"{full}.{part}") for part in wanted.names}
        except Exception:  # it is not there, or cannot be imported: so it is for the function
            self._put(name, "nothing that can be imported")
            return
        if module is None:
            return
        for part, x in parts.items():
            self.tell(f"{name}.{part}", x)
        if not wanted.names:
            if wanted.local in used.bare or wanted.local not in used.local:
                self.tell(name, module)
            for chain in sorted(used.local.get(wanted.local, ())):
                self._of_module(name, module, chain)

    def _class(self, name: str, cls: type) -> None:
        if foreign(cls):
            self._put(name, f"class {cls.__module__}.{cls.__qualname__}")
            return
        self._put(name, f"class {cls.__qualname__}")
        for base in (type(cls), *cls.__bases__):
            if base not in (object, type):
                self.tell(f"{name}.{base.__name__}", base)
        parameters = getattr(cls, "__dataclass_params__", None)
        if parameters is not None:
            self._put(f"{name}.dataclass", repr([getattr(parameters, x) for x in ("eq", "order", "frozen")]))
            for key, x in getattr(cls, "__dataclass_fields__", {}).items():
                self._put(f"{name}.{key}", f"field {x._field_type}, {x.init}, {x.kw_only}, {x.compare}, {x.type}")
                self.tell(f"{name}.{key}.default", getattr(x, "default"))  # noqa: B009
                self.tell(f"{name}.{key}.factory", x.default_factory)
        members = getattr(cls, "__members__", {}) if issubclass(cls, enum.Enum) else {}
        if members:
            self._put(f"{name}.members", _short(", ".join(members)))
        for key, value in vars(cls).items():
            generated = isinstance(value, types.FunctionType) and is_generated(value)
            if key in _UNTOLD or key.startswith("__dataclass") or generated or isinstance(value, _DESCRIPTORS):
                continue
            if key in members:
                self.tell(f"{name}.{key}", members[key].value)
            elif not issubclass(cls, enum.Enum) or not (key.startswith("_") and key.endswith("_") and key[1] != "_"):
                self._in_class(f"{name}.{key}", value)

    def _in_class(self, name: str, value: Any) -> None:
        """Tell what a class has: its methods, in whatever they are wrapped."""
        if type(value) in PARTS and not isinstance(value, types.CellType | memoryview | slice):
            parts = {key: x for key, x in PARTS[type(value)](value).items() if x is not None}
            if type(value) is not property or set(parts) != {"fget"}:
                self._put(f"{name}.kind", f"{type(value).__name__} {' '.join(parts)}")
            for key, x in parts.items():
                self.tell(name if key in ("fget", "func") else f"{name}.{key}", x)
        else:
            self.tell(name, value)

    def _container(self, name: str, value: Any) -> None:
        kind = type(value)
        kinds: Any = _CONTAINERS
        base = next(x for x in kinds if isinstance(value, x))  # a class of the user's may have other methods
        if base is set or base is frozenset:
            items = [(str(i), x) for i, x in enumerate(sorted(base.__iter__(value), key=_sorting))]
        elif base is dict or base is types.MappingProxyType:
            pairs = list(dict.items(value) if base is dict else value.items())
            items = [(repr(key) if type(key) in _PLAIN else f"#{i}", x) for i, (key, x) in enumerate(pairs)]
            for i, (key, _) in enumerate(pairs):
                if type(key) not in _PLAIN:
                    self.tell(f"{name}[#{i}].key", key)
        else:
            items = [(str(i), x) for i, x in enumerate(base.__iter__(value))]
        keyed, title = base is dict or base is types.MappingProxyType, kind.__qualname__
        plain = all(type(x) in _PLAIN for _, x in items)
        if plain:
            said = [f"{key}: {x!r}" if keyed else repr(x) for key, x in items]
            self._put(name, _short(f"{title} [{', '.join(said)}]"))
        else:
            keys = f": {', '.join(key for key, _ in items)}" if keyed else ""  # in their order, which code may see
            self._put(name, _short(f"{title} of {len(items)}{keys}"))
            for key, x in items:
                self.tell(f"{name}[{key}]", x)
        for key in ("default_factory", "maxlen"):
            if hasattr(value, key) and kind.__module__ == "collections":
                self.tell(f"{name}.{key}", getattr(value, key))
        if kind not in _CONTAINERS:
            self.tell(f"{name}.{kind.__name__}", kind)
            for key, x in sorted((attributes_of(value) or {}).items()):
                self.tell(f"{name}.{key}", x)

    def _builtin(self, name: str, function: Any) -> None:
        owner = getattr(function, "__self__", None)
        where = getattr(function, "__objclass__", None) or getattr(function, "__module__", None) or ""
        own = getattr(function, "__qualname__", function.__name__)
        self._put(name, f"{getattr(where, '__qualname__', where)}.{own}")
        if owner is not None and not isinstance(owner, types.ModuleType):
            self.tell(f"{name}.self", owner)

    def _generator(self, name: str, value: Any) -> None:
        """Tell a generator by its code, how far it came, and its variables."""
        frame = value.gi_frame
        self._put(name, f"generator {text_of(value.gi_code)}")
        self._put(f"{name}.at", "its end" if frame is None else f"{frame.f_lasti}")
        if frame is not None:
            used = uses(value.gi_code)
            self.read = None if self.read is None or used.read is None else self.read | used.read
            given = {key: frame.f_globals[key] for key in used.used if key in frame.f_globals}
            for key, x in sorted({**given, **frame.f_locals}.items()):
                self.tell(f"{name}.{key}", x)
            self.tell(f"{name}.from", value.gi_yieldfrom)

    def _object(self, name: str, value: Any, private: bool) -> None:
        cls = type(value)
        own = not foreign(cls)
        self._put(name, cls.__qualname__ if own else f"{cls.__module__}.{cls.__qualname__}")
        if own:
            self.tell(f"{name}.{cls.__name__}", cls)
        local = isinstance(value, threading.local)
        attributes = (attributes_of(value) if own or local else None) or {}
        if not local and (not own or hides(cls)):
            try:
                attributes |= reduced(value)
            except Exception:  # whatever it raises, it does not say what it holds
                self._cannot_tell(name, value)
        computed = {key for base in cls.__mro__ for key, x in vars(base).items() if isinstance(x, _CACHED)}
        kept = {key: x for key, x in attributes.items() if key not in computed}
        only_written = only_written_in(value, kept) if own and private else set()
        for key, x in sorted(kept.items()):
            if key in only_written:
                self.waiting.append((f"{name}.{key}", x, key))
            else:
                self.tell(f"{name}.{key}", x, private)

    def _cannot_tell(self, name: str, value: Any) -> None:
        """Tell what nothing can be said of as an object of this process, which none of another is equal to."""
        held, number = _unknown.get(id(value), (None, 0))
        if held is None or (held() if isinstance(held, weakref.ref) else held) is not value:
            try:
                held = weakref.ref(value)
            except TypeError:
                held = value
            number = next(_numbers)
            _unknown[id(value)] = held, number
        self.untold.append(name)
        self._put(f"{name}.content", f"of number {number} in process {os.getpid()}-{_PROCESS} alone")

    def _array(self, name: str, value: Any) -> None:
        cls = type(value)
        if isinstance(value, torch.Tensor):
            try:
                x = (value if value.layout == torch.strided else value.to_dense()).detach()
                x = x.resolve_conj().resolve_neg().cpu().reshape(-1).clone(memory_format=torch.contiguous_format)
                kind, content = f"tensor {str(x.dtype).partition('.')[2]}", x.view(torch.uint8).numpy().tobytes()
            except Exception:  # on no device, or of a kind of its own
                self._put(name, cls.__qualname__)
                self._cannot_tell(name, value)
                return
            kind = "".join([kind, *(f" {x}" for x in (value.layout, value.device.type) if str(x)[-7:] not in _USUAL)])
            kind += " that requires grad" if value.requires_grad else ""
        else:
            x = np.ascontiguousarray(np.asarray(value)).reshape(-1)
            kind, content = f"array {x.dtype.str if x.dtype.fields is None else x.dtype}", x.tobytes()
            kind = f"number {kind[6:]}" if isinstance(value, np.generic) else kind
            if x.dtype.hasobject:
                self._put(name, f"{kind} {list(value.shape)}")
                self.tell(f"{name}.values", x.tolist())
                return
            if x.dtype.fields is not None or x.dtype.char in "gG":  # with bytes between that mean nothing
                content = repr(x.tolist()).encode()
        said = str(x.tolist()) if len(x) <= 4 else f"SHA-256 {hashlib.sha256(content).hexdigest()[:16]}"
        self._put(name, f"{kind} {list(value.shape)} {said}")
        if cls not in (torch.Tensor, np.ndarray) and not isinstance(value, np.generic):
            self.tell(f"{name}.{cls.__name__}", cls)
        for key, x in sorted(getattr(value, "__dict__", {}).items()):
            if not isinstance(value, np.ma.MaskedArray) or key in ("_mask", "_fill_value", "_hardmask"):
                self.tell(f"{name}.{key}", x)


# What wraps functions to check or to compile them, and changes no number.
_CHECKING = ("torch._dynamo", "jaxtyping", "beartype")
_BUILTIN = (types.BuiltinFunctionType, types.MethodWrapperType, types.WrapperDescriptorType)
_BUILTIN += (types.MethodDescriptorType, types.ClassMethodDescriptorType)
_CACHED = (functools.cached_property,)
_DESCRIPTORS = (types.GetSetDescriptorType, types.MemberDescriptorType)
_USUAL = ("strided", "cpu")


def _name(file: Any) -> Any:
    try:
        return file.name
    except Exception:
        return None


def _short(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:80]}... SHA-256 {hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _sorting(x: Any) -> str:
    """Return a text to sort a set by: whatever the order that this process has it in."""
    if type(x) in _PLAIN:
        return repr(x)
    teller = Teller()
    teller.tell("", x)
    return repr(sorted(teller.told.items()))
