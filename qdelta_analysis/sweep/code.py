"""What a function's code says: its source in one way of writing, or a hash of its byte code, and what it uses."""

from __future__ import annotations
import __future__

import ast
import collections
import dis
import functools
import hashlib
import json
import linecache
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

# Methods of Python's own containers that add to what they are called of, or empty it, and depend on nothing there.
_ADDING = {"append", "appendleft", "extend", "extendleft", "insert", "add", "update", "setdefault", "clear", "discard"}
# What finds attributes by other ways than their names in the code.
_ANY_NAME = {"getattr", "vars", "eval", "exec", "globals", "locals", "attrgetter", "asdict", "astuple", "__dict__"}
_FUTURE = functools.reduce(int.__or__, (getattr(__future__, x).compiler_flag for x in __future__.all_feature_names))


def text_of(code: types.CodeType) -> str:
    """Return what code does, and nothing of where it stands: its source, or else the hash of its byte code."""
    python = ".".join(map(str, sys.version_info[:2]))
    node = _node(code)
    return ast.unparse(node) if node is not None else f"byte code of Python {python}, SHA-256 {_digest(code)}"


@dataclass(frozen=True)
class Import:
    """An import inside of a function: `from .module import names`, or with no names a module that becomes `local`."""

    module: str
    level: int
    names: tuple[str, ...]
    local: str


@dataclass
class Uses:
    """What code looks up by name, and what it does with it.

    used, local: the names from outside and its own, each with the chains of attributes that it takes from there.
    bare: names of which something else is taken than attributes.
    imports: what it imports as it runs.
    read: attributes of anything that it reads; None where it may read any.
    kept: "name" or "name.attribute", of which it does more than to write to it.
    stored: what it replaces as a whole; added: what it adds to.
    passed: names of which it does more than to take attributes and to call them.
    """

    used: dict[str, set[tuple[str, ...]]] = field(default_factory=dict)
    local: dict[str, set[tuple[str, ...]]] = field(default_factory=dict)
    bare: set[str] = field(default_factory=set)
    imports: list[Import] = field(default_factory=list)
    read: set[str] | None = field(default_factory=set)
    kept: set[str] = field(default_factory=set)
    stored: set[str] = field(default_factory=set)
    added: set[str] = field(default_factory=set)
    passed: set[str] = field(default_factory=set)

    def only_writes(self, name: str, value: Any) -> bool:
        """Whether nothing that this code does depends on what `name` holds."""
        if name in self.kept:
            return False
        return (name in self.added and type(value) in _HOLDERS) or (name in self.stored and name not in self.added)


_HOLDERS = (list, dict, set, collections.deque, collections.defaultdict, collections.Counter, int, float)


@functools.lru_cache(maxsize=4096)
def uses(code: types.CodeType) -> Uses:
    """Return what code uses, with the functions inside of it."""
    found = Uses()
    for part in _codes(code):
        _look_up(part, found)
    node = _node(code)
    if node is None:
        names = {name for part in _codes(code) for name in part.co_names}
        found.read, found.passed = None if names & _ANY_NAME else names, {*found.used, *found.local}
        found.kept = {*found.passed, *(f"{x}.{y}" for x in found.passed for y in names)}
    else:
        _Writes(found).visit(node)
    if (found.read is not None and found.read & _ANY_NAME) or {*found.used} & _ANY_NAME:
        found.read = None
    return found


def _look_up(code: types.CodeType, found: Uses) -> None:
    """Add the names that byte code looks up."""
    chain: list[str] | None = None
    chains: dict[str, set[tuple[str, ...]]] = {}
    constants: list[Any] = []
    pending: tuple[str, int, tuple[str, ...]] | None = None
    for i in dis.get_instructions(code):
        taken = i.opname in ("LOAD_ATTR", "LOAD_METHOD")
        if chain is not None and len(chain) == 1 and not taken:
            found.bare.add(chain[0])
        if pending is not None and i.opname.startswith("STORE_"):
            found.imports.append(Import(*pending, str(i.argval)))
            pending = None
        if i.opname == "IMPORT_NAME":
            level, names = constants[-2:]
            pending = str(i.argval), level, tuple(names or ())
            if names:
                found.imports.append(Import(*pending, ""))
                pending = None
        if i.opname in ("LOAD_CONST", "LOAD_SMALL_INT"):
            constants.append(i.argval)
            chain = None
        elif taken and chain is not None:
            chain.append(str(i.argval))
            chains.get(chain[0], set()).add(tuple(chain[1:]))
        elif i.opname.startswith("LOAD_") and not taken:
            names = i.argval if isinstance(i.argval, tuple) else (i.argval,)
            chain = [str(names[-1])]
            found.bare.update(map(str, names[:-1]))
            chains = found.local if "FAST" in i.opname else found.used
            for name in map(str, names):
                chains.setdefault(name, set()).add(())
        else:
            chain = None


class _Writes(ast.NodeVisitor):
    """Tells names and attributes that are only written to from those that are read."""

    def __init__(self, found: Uses):
        self.found = found

    def visit_Expr(self, node: ast.Expr) -> None:
        call = node.value
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in _ADDING:
            self._written(call.func.value, self.found.added)
            for part in (*call.args, *call.keywords):
                self.visit(part)
        else:
            self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if isinstance(node.target, ast.Subscript):
            self.visit(node.target)
        else:
            self._written(node.target, self.found.added)
        self.visit(node.value)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if isinstance(node.ctx, ast.Store):
            self._written(node.value, self.found.added)
            self.visit(node.slice)
        else:
            self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Name):  # called: of an object of the user's its class is looked into
            self.found.kept.add(node.func.id)
        else:
            self.visit(node.func)
        for part in (*node.args, *node.keywords):
            self.visit(part)

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Store):
            self.found.stored.add(node.id)
        else:
            self.found.kept.add(node.id)
            self.found.passed.add(node.id)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if isinstance(node.ctx, ast.Store):
            self._written(node, self.found.stored)
            return
        if self.found.read is not None:
            self.found.read.add(node.attr)
        if isinstance(node.value, ast.Name):
            self.found.kept |= {node.value.id, f"{node.value.id}.{node.attr}"}
        else:
            self.visit(node.value)

    def _written(self, node: ast.expr, how: set[str]) -> None:
        if isinstance(node, ast.Name):
            how.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            how.add(f"{node.value.id}.{node.attr}")
        elif isinstance(node, ast.Attribute):
            self.visit(node.value)
        else:
            self.visit(node)


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _digest(code: types.CodeType) -> str:
    """Hash what code does, and nothing of where it stands."""
    plain = lambda x: sorted(map(repr, x)) if isinstance(x, frozenset) else repr(x)
    constants = [_digest(x) if isinstance(x, types.CodeType) else plain(x) for x in code.co_consts]
    names = [code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars, code.co_argcount, code.co_flags]
    said = json.dumps([code.co_code.hex(), code.co_exceptiontable.hex(), constants, names])
    return hashlib.sha256(said.encode()).hexdigest()[:16]


@functools.lru_cache(maxsize=1024)  # a function keeps its source when the file is edited later
def _node(code: types.CodeType) -> ast.AST | None:
    """Return the source of a function, written in one way; None unless there is one that compiles to this code.

    A file that was edited after it was imported has another, and so have functions that a test runner rewrote.
    """
    linecache.checkcache(code.co_filename)
    text = "".join(linecache.getlines(code.co_filename))
    parsed = _parsed(text, code.co_filename, code.co_flags & _FUTURE) if text else None
    if parsed is None or code not in parsed[1]:
        return None
    found = [node for node in ast.walk(parsed[0]) if _is_of(node, code)]
    return _bare(min(found, key=_extent)) if found else None


@functools.lru_cache(maxsize=16)
def _parsed(text: str, name: str, flags: int) -> tuple[ast.Module, frozenset[types.CodeType]] | None:
    try:
        whole = compile(text, name, "exec", flags | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        return ast.parse(text), frozenset(_codes(whole))
    except (SyntaxError, ValueError):
        return None


def _is_of(node: ast.AST, code: types.CodeType) -> bool:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        first = min([node.lineno, *(x.lineno for x in node.decorator_list)])
        return (node.name, first) == (code.co_name, code.co_firstlineno)
    if not isinstance(node, ast.Lambda) or code.co_name != "<lambda>" or node.lineno != code.co_firstlineno:
        return False
    # Several lambdas may share a line: this one's body holds all of its instructions.
    body = node.body
    spans = [(a, b, c, d) for a, b, c, d in code.co_positions() if None not in (a, b, c, d) and (a, c) != (b, d)]
    start, end = (body.lineno, body.col_offset), (body.end_lineno, body.end_col_offset)
    return all(start <= (a, c) and (b, d) <= end for a, b, c, d in spans)  # pyright: ignore[reportOperatorIssue]


def _extent(node: Any) -> tuple[int, int]:
    return node.end_lineno - node.lineno, node.end_col_offset - node.col_offset


def _bare(node: ast.AST) -> ast.AST:
    """Return a function without its decorators, and without docstrings."""
    node = ast.parse(ast.unparse(node)).body[0]
    for part in ast.walk(node):
        if (
            isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            and ast.get_docstring(part) is not None
        ):
            part.body = part.body[1:] or [ast.Pass()]
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        node.decorator_list = []
    return node
