"""What a sweep's store knows of what it computed: the same code is recognised anywhere, and other code is refused."""

import functools
import importlib
import math
import operator
import subprocess
import sys
import textwrap
import threading
import types
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from qdelta_analysis import QDeltaInputs, generators, sweep
from qdelta_analysis.sweep.identity import difference, identity
from qdelta_analysis.sweep.running import _plan

GRID = {"N": [3, 4], "d": [2]}


def told(measure, make="cone", batched=None):
    return identity(_plan(measure, {"N": [3]}, make, batched))


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
import functools, sys
import numpy as np, torch
from qdelta_analysis import sweep
weights = {"a": torch.arange(9.0), "b": [1, "two", {3, 4, 5}, None]}
class Kept:
    def __init__(self, by): self.by = by
    def __call__(self, x): return float(x.T * self.by * weights["a"].sum())
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
    seen, count, make, switch = [], {"n": 0}, np.random.default_rng(0), [True]
    scale = Scale(1.0)

    def measure(x):
        seen.append(x.T)
        count["n"] += 1
        return make.normal() * scale(x) * switch[0]

    first = sweep.run(measure, GRID, path=tmp_path / "it.zarr", n_jobs=1, progress=False)
    switch[0] = False
    again = sweep.run(measure, GRID, path=tmp_path / "it.zarr", progress=False)
    assert again.identical(first)
    assert len(seen) == count["n"] == scale.calls == 2


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
