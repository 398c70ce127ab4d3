"""What a function's code says: its source in one way of writing, or a hash of its byte code, and what it uses."""

from __future__ import annotations
import __future__

import ast
import dis
import functools
import hashlib
import json
import linecache
import sys
import types
from collections.abc import Iterator
from typing import Any

# Methods that change what they are called of.
_CHANGING = {"append", "extend", "insert", "add", "update", "setdefault", "pop", "popitem", "clear", "remove", "put"}
_CHANGING |= {"discard", "appendleft"}
_FUTURE = functools.reduce(int.__or__, (getattr(__future__, x).compiler_flag for x in __future__.all_feature_names))


def text_of(code: types.CodeType) -> str:
    """Return what code does, and nothing of where it stands: its source, or else the hash of its byte code."""
    python = ".".join(map(str, sys.version_info[:2]))
    return _source(code) or f"byte code of Python {python}, SHA-256 {_digest(code)}"


def uses(code: types.CodeType) -> tuple[dict[str, set[tuple[str, ...]]], frozenset[str]]:
    """Return the names that code looks up, each with the attributes that it takes from there, and those it changes.

    Changed is what it stores to or calls a method like `append` of: "name", or "name.attribute".
    """
    used: dict[str, set[tuple[str, ...]]] = {}
    changed: set[str] = set()
    for part in _codes(code):
        starts: dict[Any, list[str]] = {}
        chain: list[str] | None = None
        for i in dis.get_instructions(part):
            at = i.positions and (i.positions.lineno, i.positions.col_offset)
            if i.opname.startswith("LOAD_") and i.opname not in ("LOAD_CONST", "LOAD_ATTR", "LOAD_METHOD"):
                names = i.argval if isinstance(i.argval, tuple) else (i.argval,)
                chain = [str(names[-1])]
                starts[at] = chain
                if "FAST" not in i.opname:
                    used.setdefault(chain[0], set()).add(())
            elif i.opname in ("LOAD_ATTR", "LOAD_METHOD") and chain is not None:
                if i.argval in _CHANGING:
                    changed.add(".".join(chain[:2]))
                chain.append(str(i.argval))
                used.get(chain[0], set()).add(tuple(chain[1:]))
            else:
                chain = None
                if i.opname in ("STORE_SUBSCR", "DELETE_SUBSCR", "STORE_SLICE") and at in starts:
                    changed.add(".".join(starts[at][:2]))
                if i.opname in ("STORE_ATTR", "DELETE_ATTR") and at in starts:
                    changed.add(".".join([*starts[at], str(i.argval)][:2]))
                if i.opname in ("STORE_GLOBAL", "STORE_DEREF"):
                    changed.add(str(i.argval))
    return used, frozenset(changed)


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
def _source(code: types.CodeType) -> str | None:
    """Return the source of a function, written in one way; None unless there is one that compiles to this code.

    A file that was edited after it was imported has another, and so have functions that a test runner rewrote.
    """
    linecache.checkcache(code.co_filename)
    text = "".join(linecache.getlines(code.co_filename))
    parsed = _parsed(text, code.co_filename, code.co_flags & _FUTURE) if text else None
    if parsed is None or code not in parsed[1]:
        return None
    found = [node for node in ast.walk(parsed[0]) if _is_of(node, code)]
    return ast.unparse(_bare(min(found, key=_extent))) if found else None


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
