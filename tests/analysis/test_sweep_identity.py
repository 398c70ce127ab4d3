"""What a sweep's store knows of what it computed: the same code is recognised anywhere, and other code is refused."""

import array
import collections
import datetime
import enum
import functools
import importlib
import io
import itertools
import math
import operator
import random
import re
import subprocess
import sys
import textwrap
import threading
import types
import typing
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
import xarray as xr

from qdelta_analysis import QDeltaInputs, generators, sweep
from qdelta_analysis.sweep.identity import difference, tell
from qdelta_analysis.sweep.running import _plan

GRID = {"N": [3, 4], "d": [2]}


def told(measure, make="cone", batched=None):
    return tell(_plan(measure, {"N": [3]}, make, batched)).told


def scaled(scale):
    return lambda x: scale


def written(code: str, folder: Path, name: str = "mine") -> types.ModuleType:
    """A module of that code, imported anew."""
    (folder / f"{name}.py").write_text(textwrap.dedent(code))
    sys.modules.pop(name, None)
    importlib.invalidate_caches()
    sys.path.insert(0, str(folder))
    sys.dont_write_bytecode = True
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(folder))


class Scale:
    def __init__(self, by):
        self.by, self.calls, self.lock = by, 0, threading.Lock()

    def __call__(self, x):
        self.calls += 1
        return self.by

    def measure(self, x):
        return self.by


@dataclass
class Weight:
    by: float = 1.0

    def __call__(self, x):
        return self.by


class Net(torch.nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.full((2,), weight))

    def forward(self, x):
        return float(self.weight.sum())


def logged(function):
    @functools.wraps(function)
    def wrapper(x):
        return function(x)

    return wrapper


def power(x, k=1):
    return float(x.T) ** k


HELD = generators.isotropic(T=3, K=2, V=2)
OTHER = generators.isotropic(T=3, K=2, V=2, seed=1)

# Pairs that compute different things; each is also compared with itself.
DIFFERENT = {
    "source": (lambda x: 1.0, lambda x: 2.0),
    "two on a line": [lambda x: x.T, lambda x: -x.T],
    "nested": (lambda x: (lambda y: y + 1)(x.T), lambda x: (lambda y: y + 2)(x.T)),
    "closure": (scaled(1.0), scaled(2.0)),
    "closure of tensors": (scaled(torch.ones(9)), scaled(torch.ones(9) + 1e-7)),
    "closure of arrays": (scaled(np.arange(9)), scaled(np.arange(9)[::-1])),
    "dtype": (scaled(np.arange(9)), scaled(np.arange(9.0))),
    "closure of lists": (scaled([1, [2.0, 3]]), scaled([1, [2.0, 4]])),
    "closure of dicts": (scaled({"a": np.ones(7)}), scaled({"a": np.zeros(7)})),
    "closure of functions": (scaled(lambda: 1), scaled(lambda: 2)),
    "long text": (scaled("a" * 500), scaled("a" * 499 + "b")),
    "inputs": (scaled(HELD), scaled(OTHER)),
    "path": (scaled(Path("a")), scaled(Path("b"))),
    "default": (lambda x, k=1: k, lambda x, k=2: k),
    "partial": (functools.partial(power, k=1), functools.partial(power, k=2)),
    "partial's position": (functools.partial(operator.add, 1), functools.partial(operator.add, 2)),
    "partial of partial": (functools.partial(scaled(1), k=1), functools.partial(scaled(2), k=1)),
    "object": (Scale(1.0), Scale(2.0)),
    "method": (Scale(1.0).measure, Scale(2.0).measure),
    "dataclass": (Weight(1.0), Weight(2.0)),
    "network": (Net(1.0), Net(2.0)),
    "builtin": (math.sqrt, math.exp),
    "ufunc": (np.sin, np.cos),
    "itemgetter": (operator.itemgetter(1), operator.itemgetter(2)),
    "decorated": (logged(lambda x: 1.0), logged(lambda x: 2.0)),
    "cached": (functools.cache(lambda x: 1.0), functools.cache(lambda x: 2.0)),
    "no grad": (torch.no_grad()(scaled(1.0)), torch.no_grad()(scaled(2.0))),
    "named": ("memory", "recall"),
}


# Values, all of which differ from each other; made twice they are told the same.
VALUES = {
    "nothing": lambda: [None, False, 0, 0.0, -0.0, "0", b"0", 0j, ..., (), [], {}, set(), frozenset(), np.float64(0)],
    "keys": lambda: [{x: 0} for x in (1, "1", 1.0, True, None, "None", (1,), ("1",), Shade.DARK, Shade.LIGHT)],
    "not a number": lambda: [math.nan, math.inf, -math.inf, complex("nan"), "nan", Decimal("nan")],
    "containers": lambda: [
        *(collections.defaultdict(f) for f in (lambda: 1, lambda: 2, int, float)),
        *(collections.deque([1, 2], n) for n in (None, 2, 3)),
        *(collections.OrderedDict(x) for x in ([(1, 2), (3, 4)], [(3, 4), (1, 2)])),
        *(collections.Counter(x) for x in ("ab", "aab")),
        *(types.MappingProxyType({1: x}) for x in (1, 2)),
        *(frozenset([Point(1.0, x), Point(2.0, x), "a", "b"]) for x in (1.0, 2.0)),
    ],
    "iterators": lambda: [
        *(itertools.repeat(x) for x in (1, 2)),
        *(iter(x) for x in ([1, 2], [1, 3], (1, 2), range(2), "ab", {1: 2})),
        *((x for x in y) for y in ([1], [2])),
        *map(after_one, (iter([1, 2]), (x for x in [1]))),
        *(map(f, [1]) for f in (abs, float)),
    ],
    "random": lambda: (
        [
            make(seed)
            for make in (np.random.default_rng, np.random.RandomState, random.Random, np.random.PCG64)
            for seed in (0, 1)
        ]
        + [torch.Generator().manual_seed(x) for x in (0, 1)]
    ),
    "functions": lambda: [
        *(operator.attrgetter(x) for x in "ab"),
        *(operator.methodcaller("a", x) for x in (1, 2)),
        *(functools.partialmethod(power, k=x) for x in (1, 2)),
        *(np.vectorize(scaled(x)) for x in (1, 2)),
        *([x].append for x in (1, 2)),
    ],
    "of the user's kinds": lambda: [
        *(kind(x) for kind in (Numbers, Table, Slotted, Weight) for x in ({1: 2}, {2: 3})),
        *(Real(x) for x in (1, 2)),
        *(Point(1.0, x) for x in (1.0, 2.0)),
        (1.0, 1.0),
        named(Table(), by=1),
        named(Table(), by=2),
        Shade.DARK,
        Shade.LIGHT,
    ],
    "buffers": lambda: [
        *(kind(x) for kind in (memoryview, bytearray, io.BytesIO) for x in (b"a", b"b")),
        *(array.array(kind, [x]) for kind in "il" for x in (1, 2)),
        *(slice(None, x) for x in (1, 2, [1], [2])),
    ],
    "days": lambda: [
        *(datetime.datetime(2020, 1, x) for x in (1, 2)),
        datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC),
        *(Decimal(x) for x in ("1.0", "1.00")),
        *(Fraction(1, x) for x in (2, 3)),
        *(re.compile("a", x) for x in (0, re.IGNORECASE)),
    ],
    "arrays": lambda: [
        *(np.array([1, x], object) for x in ("a", "b", [1], [2])),
        *(np.ma.array([1, 2], mask=x) for x in ([0, 0], [0, 1])),
        *(np.array([(1, [x])], [("a", "i1"), ("o", "O")]) for x in (1, 2)),
        *(torch.arange(4.0)[::2][:1] + x for x in (1, 2)),
        *(torch.complex(torch.ones(1), torch.full((1,), x)).conj().imag for x in (1.0, 2.0)),
        *(torch.nn.Parameter(torch.full((2,), x)) for x in (1.0, 2.0)),
        *(xr.DataArray([x], attrs={"unit": unit}) for x in (1, 2) for unit in "ab"),
        *(pandas.DataFrame({x: [y]}) for x in "ab" for y in (1, 2)),
    ],
}


def after_one(values):
    next(values)
    return values


def named(value, **attributes):
    vars(value).update(attributes)
    return value


class Point(typing.NamedTuple):
    x: float
    y: float


class Real(float):
    pass


class Numbers(list):
    pass


class Table(dict):
    pass


class Slotted:
    __slots__ = ("by",)

    def __init__(self, by):
        self.by = by


class Shade(enum.Enum):
    DARK = 0
    LIGHT = 1


@pytest.mark.parametrize("name", VALUES)
def test_values_are_told_by_what_they_hold(name, recwarn):
    first, second = ([told(scaled(value)) for value in VALUES[name]()] for _ in range(2))
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            assert (a == b) == (i == j), (VALUES[name]()[i], VALUES[name]()[j])
    assert " at 0x" not in str(first)
    assert not recwarn


@pytest.mark.parametrize("name", DIFFERENT)
def test_what_differs_is_told_and_what_does_not_is_the_same(name):
    first, second = DIFFERENT[name]
    assert told(first) == told(first)
    assert told(first) != told(second)
    said = difference(told(first), told(second))
    assert said.startswith("holds a sweep ")
    assert said.count(";") == 1
    assert said.count(".\n") == 0
    assert " at 0x" not in str(told(first))  # no address, which another process has not


def test_the_source_of_tokens_is_told_too():
    assert told("memory", "cone") != told("memory", "isotropic")
    assert told("memory", lambda N: HELD) == told("memory", lambda N: HELD)
    assert told("memory", lambda N: HELD) != told("memory", lambda N: OTHER)
    narrow, wide = (functools.partial(sweep.SOURCES["cone"], d=d) for d in (2, 3))
    assert told("memory", narrow) != told("memory", wide)
    assert told(scaled(1.0), batched=True) != told(scaled(1.0), batched=False)


def test_the_store_refuses_and_says_what_differs(tmp_path):
    path = tmp_path / "it.zarr"
    run = lambda measure, make="cone", grid=GRID: sweep.run(measure, grid, make, path=path, progress=False)
    assert (run(lambda x: 1.0)["value"] == 1).all()
    for grid in (GRID, {**GRID, "N": [3, 4, 5]}):
        with pytest.raises(ValueError, match=r"it\.zarr holds a sweep of measure lambda x: 1\.0; expected lambda x: 2"):
            run(lambda x: 2.0, grid=grid)
    assert sweep.load(path)["value"].values.tolist() == [[1.0], [1.0]]
    assert (run(lambda x: 1.0)["value"] == 1).all()
    path = tmp_path / "other.zarr"
    run(scaled(1.5))
    with pytest.raises(ValueError, match=r"holds a sweep with measure\.scale 1\.5; expected 2\.5: what is there stays"):
        run(scaled(2.5))


def test_a_long_function_is_compared_line_by_line():
    def first(x):
        y = 1
        return y + x.T

    def second(x):
        y = 1
        return y - x.T

    said = difference(
        {"measure": told(first)["measure"]}, {"measure": told(second)["measure"].replace("second", "first")}
    )
    assert "line 3 'return y + x.T'; expected line 3 'return y - x.T'" in said


CODE = '''
    import math
    from dataclasses import dataclass
    SCALE = 2.0
    CALLS = []

    def helper(x, k=1):
        """Say what it does."""
        return SCALE * math.sqrt(x.T) + k

    @dataclass
    class Kept:
        by: float

        def of(self, x):
            return self.by * helper(x)

    def measure(x):
        CALLS.append(x)  # which changes nothing
        return Kept(1.0).of(x)
'''


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("SCALE = 2.0", "SCALE = 2.5", False),
        ("+ k", "- k", False),
        ("k=1", "k=2", False),
        ("self.by * helper", "helper", False),
        ("Kept(1.0)", "Kept(1.5)", False),
        ("math.sqrt", "math.exp", False),
        ("CALLS = []", "CALLS = [1, 2]", True),
        ('"""Say what it does."""', '"""Say something else."""', True),
        ("# which changes nothing", "# what it was called with", True),
        ("import math", "import math, json\n\n\n    UNUSED = 3", True),
        ("def measure(x):", "def measure(\n        x,\n    ):", True),
        ("SCALE * math.sqrt(x.T)", "(SCALE * math.sqrt(x.T))", True),
    ],
)
def test_what_a_function_uses_is_followed(old, new, same, tmp_path):
    first = told(written(CODE, tmp_path).measure)
    assert first == told(written(CODE, tmp_path).measure)  # after a reload
    edited = written(CODE.replace(old, new), tmp_path)
    assert (told(edited.measure) == first) == same
    assert "measure.Kept.of.helper" in first


KINDS = """
import collections, dataclasses, enum, functools, typing
import torch
def logged(function):
    @functools.wraps(function)
    def wrapper(*args):
        return function(*args) + 1
    return wrapper
{}
"""
EDITED = {
    "NamedTuple": "class A(typing.NamedTuple):\n x: float = 1.0\n def of(self): return 1\nmeasure = lambda x: A().of()",
    "dict": "class A(dict):\n def of(self): return 1\na = A()\nmeasure = lambda x: a.of()",
    "float": "class A(float):\n def of(self): return 1\na = A()\nmeasure = lambda x: a.of()",
    "list": "class A(list):\n def of(self): return 1\na = A()\nmeasure = lambda x: a.of()",
    "tuple": "class A(tuple):\n def of(self): return 1\na = A()\nmeasure = lambda x: a.of()",
    "str": "class A(str):\n def of(self): return 1\na = A()\nmeasure = lambda x: a.of()",
    "deque": "class A(collections.deque):\n def of(self): return 1\na = A()\nmeasure = lambda x: a.of()",
    "partial": "class A(functools.partial):\n def of(self): return 1\na = A(abs)\nmeasure = lambda x: a.of()",
    "attribute of a list": "class A(list): pass\na = A()\na.by = 1\nmeasure = lambda x: a.by",
    "attribute of a class": "class A:\n by = 1\nmeasure = lambda x: A.by",
    "attribute of a function": "def measure(x): return measure.by\nmeasure.by = 1",
    "method of an enum": "class A(enum.Enum):\n B = 2\n def of(self): return 1\nmeasure = lambda x: A.B.of()",
    "value of an enum": "class A(enum.Enum):\n B = 1\nmeasure = lambda x: A.B.value",
    "property": "class A:\n @property\n def of(self): return 1\na = A()\nmeasure = lambda x: a.of",
    "setter": "class A:\n def get(self): return self.y\n def set(self, x): self.y = 1\n of = property(get, set)\n"
    "def measure(x):\n a = A()\n a.of = 2\n return a.of",
    "static method": "class A:\n @staticmethod\n def of(): return 1\nmeasure = lambda x: A.of()",
    "class method": "class A:\n @classmethod\n def of(cls): return 1\nmeasure = lambda x: A.of()",
    "partial method": "class A:\n def of(self, k): return k\n one = functools.partialmethod(of, 1)\na = A()\n"
    "measure = lambda x: a.one()",
    "cached property": "class A:\n @functools.cached_property\n def of(self): return 1\nmeasure = lambda x: A().of",
    "metaclass": "class M(type):\n def of(cls): return 1\nclass A(metaclass=M): pass\nmeasure = lambda x: A.of()",
    "base": "class B:\n def of(self): return 1\nclass A(B): pass\na = A()\nmeasure = lambda x: a.of()",
    "factory of a field": "@dataclasses.dataclass\nclass A:\n"
    " x: list = dataclasses.field(default_factory=lambda: [1])\n"
    "measure = lambda x: A().x[0]",
    "network": "class A(torch.nn.Module):\n def forward(self, x): return 1\nmeasure = A()",
    "parameter": "class A(torch.nn.Module):\n def __init__(self):\n  super().__init__()\n"
    "  self.w = torch.nn.Parameter(torch.tensor(0.0) + 1)\n def forward(self, x): return self.w.item()\nmeasure = A()",
    "decorator": "@logged\ndef measure(x): return 1",
    "what decorates": "@logged\ndef measure(x): return 0",
    "wraps a measure of the toolkit's": "from qdelta_analysis.sweep.measures import memory\n@functools.wraps(memory)\n"
    "def measure(x): return 1",
    "dispatched": "@functools.singledispatch\ndef f(x): return 0\n@f.register\ndef _(x: int): return 1\n"
    "measure = lambda x: f(2)",
    "default by keyword": "def measure(x, *, k=1): return k",
    "default of an inner function": "def f(): return 1\ndef measure(x):\n def inner(k=f()): return k\n return inner()",
    "autocast": "def f(x): return 0\nmeasure = torch.autocast('cpu', enabled=bool(1))(f)",
    "by its name alone": "import inner\nmeasure = lambda x: getattr(inner, 'f')(x)",
    "imported as it runs": "def measure(x):\n import inner\n return inner.f(x)",
    "imported from as it runs": "def measure(x):\n from inner import f as g\n return g(x)",
    "made as a dataclass": "A = dataclasses.make_dataclass('A', [], namespace={'of': lambda self: 1})\n"
    "measure = lambda x: A().of()",
    "several of one name": "def f(x, k=1): return k + g.k\ng = lambda x: 0\ng.k = 0\nf.k = 3\n"
    "measure = functools.partial(f, k=5)\nmeasure.k = 4",
}


@pytest.mark.parametrize("name", EDITED)
def test_whatever_was_edited_is_told(name, tmp_path):
    def of(number: str) -> dict[str, str]:
        edited = EDITED[name].replace("1", number)
        if name == "what decorates":
            edited = EDITED[name]
        written(f"def f(x): return {number}", tmp_path, "inner")
        module = written(KINDS.format(edited).replace("+ 1", f"+ {number}" if "decor" in name else "+ 1"), tmp_path)
        return told(module.measure)

    assert of("1") == of("1") != of("0")


def test_modules_of_the_user_s_are_looked_into(tmp_path):
    written("def f(x): return 1.0", tmp_path, "inner")
    code = "import inner\n\ndef measure(x):\n    return inner.f(x)\n"
    first = told(written(code, tmp_path).measure)
    written("def f(x): return 2.0", tmp_path, "inner")
    assert told(written(code, tmp_path).measure) != first


def test_a_file_that_was_edited_and_not_loaded_says_nothing_of_what_runs(tmp_path):
    module = written("def measure(x):\n    return 1.0\n", tmp_path)
    other = written("def measure(x):\n    return 1.0\n\n", tmp_path, "twin")
    first = told(module.measure)
    (tmp_path / "mine.py").write_text("def measure(x):\n    return 2.0\n")
    assert told(module.measure) == first
    (tmp_path / "twin.py").write_text("def measure(x):\n    return 3.0\n")
    assert "3.0" not in str(told(other.measure))


def test_code_without_a_file_is_told_by_its_byte_code():
    spaces = [{"__name__": "nowhere"} for _ in range(3)]
    for space, code in zip(spaces, ("f = lambda x: 1.0", "\n\nf = lambda x: 1.0", "f = lambda x: 2.0"), strict=True):
        exec(code, space)
    first, moved, other = (told(space["f"]) for space in spaces)
    assert "byte code of Python" in first["measure"]
    assert first == moved != other


SCRIPT = """
import collections, enum, functools, itertools, sys, typing
import numpy as np, torch
from qdelta_analysis import sweep
class Shade(enum.Enum):
    DARK = 0
    LIGHT = 1
class Point(typing.NamedTuple):
    x: object
points = {Point(x) for x in "abc"}
weights = {"a": torch.arange(9.0), "b": [1, "two", {3, 4, 5}, None, {"a", "b", "c"}, points, {*Shade}]}
weights["c"] = [collections.defaultdict(lambda: 1), itertools.repeat(1), np.random.default_rng(0), map(abs, [1]),
                collections.Counter("ab"), collections.deque([1], 3), functools.partial(max, 1), (x for x in [1])]
memo = {}
class Kept:
    def __init__(self, by): self.by, self.calls = by, []
    def __call__(self, x):
        self.calls.append(x.T)
        memo[x.T] = memo.get(x.T, x.T)
        return float(memo[x.T] * self.by * weights["a"].sum())
data = sweep.run(Kept(float(sys.argv[2])), {"N": [3, 4], "d": [2]}, functools.partial(sweep.sources.cone, c=0.5),
                 path=sys.argv[1], progress=False)
print(data["value"].values.ravel().tolist())
"""


def test_another_process_recognises_it(tmp_path):
    """Another hash seed, another line, and a file of another name."""
    for name, lines, by, seed in (("a", 0, 1.0, "1"), ("b", 3, 1.0, "2"), ("c", 0, 2.0, "3")):
        (tmp_path / f"{name}.py").write_text("\n" * lines + SCRIPT)
        command = [sys.executable, tmp_path / f"{name}.py", tmp_path / "it.zarr", str(by)]
        environment = {**__import__("os").environ, "PYTHONHASHSEED": seed}
        run = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
        if by == 1.0:
            assert (run.returncode, run.stdout) == (0, "[108.0, 144.0]\n"), run.stderr
    assert "holds a sweep with measure.by 1.0; expected 2.0" in run.stderr


def test_what_changes_by_being_used_is_no_difference(tmp_path):
    seen, count, make = [], {"n": 0}, np.random.default_rng(0)
    scale = Scale(1.0)

    def measure(x):
        seen.append(x.T)
        count["n"] += 1
        return make.normal() * scale(x)

    first = sweep.run(measure, GRID, path=tmp_path / "it.zarr", n_jobs=1, progress=False)
    seen.clear()
    scale.calls = 5
    again = sweep.run(measure, GRID, path=tmp_path / "it.zarr", progress=False)
    assert again.identical(first)
    assert (seen, count["n"], scale.calls) == ([], 2, 5)
    make.normal()
    with pytest.raises(ValueError, match=r"holds a sweep with measure\.make\.\(.*expected"):
        sweep.run(measure, GRID, path=tmp_path / "it.zarr", progress=False)


class Bag:
    """Its methods have the names of those that change a container, and change nothing."""

    def __init__(self):
        self.by = 1.0

    def add(self, x):
        return self.by * x

    pop = update = insert = put = add


CHANGED = {
    "append": lambda held: held["list"].append(2.0),
    "setdefault": lambda held: held["dict"].setdefault("b", 2.0),
    "counter": lambda held: held["counter"].update("a"),
    "switch": lambda held: held["switch"].__setitem__(0, False),
    "object": lambda held: setattr(held["bag"], "by", 2.0),
    "array": lambda held: held["array"].fill(2.0),
    "memo": lambda held: held["memo"].__setitem__(3, 2.0),
    "iterator": lambda held: next(held["iterator"]),
    "class": lambda held: setattr(held["class"], "by", 2.0),
    "module": lambda held: setattr(held["module"], "by", 2.0),
}


def holding(held):
    """A measure that depends on all of these, and itself changes some."""
    numbers, table, counter, switch, bag, filled, memo, iterator, cls, module = held.values()

    def measure(x):
        numbers.append(sum(numbers) * 0)
        table.setdefault("a", 1.0)
        counter["n"] += 1
        if x.T not in memo:
            memo[x.T] = 1.0
        values = sum(numbers), sum(table.values()), len(counter), switch[0], bag.add(1.0), bag.pop(1), filled.sum()
        return sum(values) + memo[x.T] + next(iterator) + cls.by + getattr(module, "by")  # noqa: B009

    return measure


def things():
    module = types.ModuleType("mine_too")
    module.by = 1.0
    counter = collections.Counter()
    kinds = [1.0], {}, counter, [True], Bag(), np.ones(9), {}, itertools.count(1), type("Own", (), {"by": 1.0}), module
    return dict(zip(NAMES, kinds, strict=True))


NAMES = ("list", "dict", "counter", "switch", "bag", "array", "memo", "iterator", "class", "module")


@pytest.mark.parametrize("name", CHANGED)
def test_what_somebody_else_changed_is_told(name, tmp_path):
    """Between two runs in one process, whatever the measure changes itself; and so before the first one."""
    held, path = things(), tmp_path / "it.zarr"
    first = sweep.run(holding(held), GRID, path=path, n_jobs=1, progress=False)
    assert (first.status == 1).all()
    assert sweep.run(holding(held), GRID, path=path, progress=False).identical(first)
    assert sweep.run(holding(things()), GRID, path=path, progress=False).identical(first)  # as another process has it
    CHANGED[name](held)
    other = things()
    CHANGED[name](other)
    for some in (held, other):
        with pytest.raises(ValueError, match="holds a sweep with measure"):
            sweep.run(holding(some), GRID, path=path, progress=False)


LAZY = """
MODEL = None
KEPT = {}
COUNT = 0
def measure(x):
    global MODEL, COUNT
    if MODEL is None:
        MODEL = [2.0]
    COUNT += 1
    if x.T not in KEPT:
        KEPT[x.T] = MODEL[0]
    return KEPT[x.T]
"""


def test_what_a_measure_keeps_for_later_is_there_or_not(tmp_path):
    path = tmp_path / "it.zarr"
    module = written(LAZY, tmp_path)
    first = sweep.run(module.measure, {"N": [3, 4]}, path=path, progress=False)
    more = sweep.run(module.measure, {"N": [3, 4, 5]}, path=path, progress=False)
    assert more.isel(N=slice(2))["value"].equals(first["value"])
    sweep.run(module.measure, {"N": [3, 4]}, path=tmp_path / "other.zarr", progress=False)
    anew = written(LAZY, tmp_path).measure
    for place, grid in ((path, [3, 4, 5, 6]), (tmp_path / "other.zarr", [3, 4])):
        assert (sweep.run(anew, {"N": grid}, path=place, progress=False).status == 1).all()
    module.MODEL = [3.0]
    with pytest.raises(ValueError, match=r"holds a sweep with measure\.MODEL None; expected list \[3\.0\]"):
        sweep.run(module.measure, {"N": [3, 4, 5, 6]}, path=path, progress=False)


def test_what_is_written_to_is_told_where_anything_reads_it(tmp_path):
    """By a method, by another function that has the object, or by any name."""
    code = """
    class Kept:
        def __init__(self): self.calls, self.by = [], 1.0
        def __call__(self, x):
            self.calls.append(x.T)
            return READ
    kept = Kept()
    kept.calls.append(CALLS)
    measure = kept
    """
    same = {"self.by": True, "len(self.calls)": False, "other(self)": False, "getattr(self, 'calls')[0]": False}
    for read, equal in {**same, "sum(kept.calls)": False, "other(kept)": False, "vars(kept)['by']": False}.items():
        texts = [code.replace("READ", read).replace("CALLS", x) + "\n    def other(x): return x.calls" for x in "12"]
        first, second = (told(written(text, tmp_path).measure) for text in texts)
        assert (first == second) == equal, read


def test_what_cannot_be_told_is_this_process_s_own(tmp_path):
    unknown = np.frompyfunc(lambda x: x, 1, 1)
    run = lambda ufunc: sweep.run(scaled_by(ufunc), GRID, path=tmp_path / "it.zarr", progress=False)
    said = r"measure\.ufunc cannot be told by content: no other process can go on with this sweep\."
    for _ in range(2):
        with pytest.warns(UserWarning, match=said):
            run(unknown)
    with pytest.warns(UserWarning, match=said), pytest.raises(ValueError, match=r"of number .* in process .* alone"):
        run(np.frompyfunc(lambda x: x, 1, 1))


def scaled_by(ufunc):
    return lambda x: float(ufunc(x.T))


def test_a_store_without_numbers_is_taken_over(tmp_path):
    """Nothing is mixed where nothing is; failed points stay failed until they are computed again."""

    def broken(x):
        raise ValueError("broken")

    options = {"path": tmp_path / "it.zarr", "progress": False}
    assert (sweep.run(broken, GRID, **options).status == 2).all()
    assert (sweep.run(scaled(1.0), GRID, **options).error == "ValueError: broken").all()
    assert (sweep.run(scaled(1.0), GRID, retry_failed=True, **options)["value"] == 1).all()
    with pytest.raises(ValueError, match="holds a sweep"):
        sweep.run(broken, GRID, **options)


def test_inputs_are_told_by_their_content():
    same = QDeltaInputs(*(x.clone() for x in (HELD.q, HELD.k, HELD.v, HELD.g, HELD.beta, HELD.lam)))
    same = types.SimpleNamespace(x=same.q)
    assert told(scaled(same)) == told(scaled(types.SimpleNamespace(x=HELD.q)))
    assert told(scaled(same)) != told(scaled(types.SimpleNamespace(x=OTHER.q)))
