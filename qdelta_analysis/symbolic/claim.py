"""What a claim says: relations between quantities, each with the hypotheses it needs, printed and measured alike.

A relation is a SymPy one. `text` prints it, a proof derives it, and `holds` evaluates it on dense matrices, so that
these three cannot say different things.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import numpy as np
import sympy as sp

from .notation import tex


@dataclass(frozen=True)
class Words:
    """A hypothesis that is no relation between numbers, such as the independence of tokens; text with $LaTeX$."""

    text: str
    short: str


Hypothesis = Any  # a SymPy relation, or Words
Measure = Callable[[Any], Any]
# Of what both sides measure together: what rounding may do to one relation on dense matrices.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Conclusion:
    """One relation that a claim states, and exactly the hypotheses that its proof needs."""

    relation: Any
    given: tuple[Hypothesis, ...] = ()


@dataclass(frozen=True)
class Claim:
    """Relations between quantities under hypotheses; `text` has a place <0>, <1>, ... for each.

    measures: what each symbol is on dense matrices, a function of the inputs drawn; commentary: what the words around
    the relations may not say, which is anything that no relation does.
    """

    name: str
    title: str
    text: str
    conclusions: tuple[Conclusion, ...]
    dimension: str
    measures: Mapping[sp.Basic, Measure] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def hypotheses(self) -> tuple[Hypothesis, ...]:
        """All of them, each once, in order."""
        return tuple(dict.fromkeys(h for conclusion in self.conclusions for h in conclusion.given))

    @cached_property
    def common(self) -> tuple[Hypothesis, ...]:
        """Those that every relation needs."""
        return tuple(h for h in self.hypotheses if all(h in conclusion.given for conclusion in self.conclusions))

    @property
    def statement(self) -> str:
        """The words, with every relation in its place and what it alone needs behind it."""
        text = self.text
        for index, conclusion in enumerate(self.conclusions):
            own = [h for h in conclusion.given if h not in self.common]
            needs = f" (if {', '.join(in_words(own))})" if own else ""
            text = text.replace(f"<{index}>", f"${tex(conclusion.relation)}${needs}")
        return text

    def meets(self, inputs: Any, hypothesis: Hypothesis) -> bool:
        """Whether inputs meet a hypothesis, everywhere and up to no rounding; words have measures too."""
        if isinstance(hypothesis, Words):
            return bool(self.measures[hypothesis](inputs))  # type: ignore[index]
        return bool(np.all(self._margin(hypothesis, inputs, rounding=-1e-12) >= 0))

    def holds(self, inputs: Any, conclusion: Conclusion) -> bool:
        """Whether a relation of this claim is true of dense matrices, up to rounding, wherever it speaks of them."""
        return bool(np.all(self._margin(conclusion.relation, inputs, _ROUNDING) >= 0))

    def _margin(self, relation: Any, inputs: Any, rounding: float) -> Any:
        """By how much a relation holds, at least zero where it does: a number, or one for each token."""
        if isinstance(relation, sp.Equivalent):
            sides = [self._margin(side, inputs, 0.0) for side in relation.args]
            close = np.min(np.abs(sides), axis=0) < _ROUNDING
            return np.where(close | ((sides[0] >= 0) == (sides[1] >= 0)), 1.0, -1.0)
        if isinstance(relation, sp.And):
            return np.min([self._margin(side, inputs, rounding) for side in relation.args], axis=0)
        left, right = self.value(relation.lhs, inputs), self.value(relation.rhs, inputs)
        allowed = abs(rounding) * (1 + np.abs(left) + np.abs(right))
        if relation.rel_op in ("==", "!="):
            apart = np.abs(left - right) - allowed
            return -apart if relation.rel_op == "==" else np.where(apart > 0, 1.0, -1.0)
        gap = left - right if relation.rel_op in (">", ">=") else right - left
        if rounding < 0:  # a hypothesis: as it stands
            return np.where(gap > 0, gap, np.where((gap == 0) & (relation.rel_op in (">=", "<=")), 0.0, -1.0))
        return gap + allowed

    def value(self, expr: Any, inputs: Any) -> np.ndarray:
        """Return what an expression is on dense matrices."""
        if not expr.is_commutative and not isinstance(expr, sp.MatrixExpr):
            return self._product(sp.expand(expr), inputs)
        symbols, function = _function(expr)
        with np.errstate(all="ignore"):
            return np.asarray(function(*(self.measures[symbol](inputs) for symbol in symbols)), dtype=float)

    def _product(self, expr: Any, inputs: Any) -> np.ndarray:
        """The value of sums of products of letters that do not commute, by matrix products."""
        if isinstance(expr, sp.Add):
            return sum((self._product(term, inputs) for term in expr.args), np.zeros(()))
        numbers, letters = expr.args_cnc()
        value = np.asarray(self.measures[letters[0]](inputs), dtype=float)
        for letter in letters[1:]:
            other = np.asarray(self.measures[letter](inputs), dtype=float)
            value = value @ other if value.ndim and other.ndim else value * other
        return self.value(sp.Mul(*numbers), inputs) * value


@cache
def _function(expr: Any) -> tuple[list[Any], Callable[..., Any]]:
    """The symbols of an expression, and the expression as a NumPy function of these."""
    symbols = sorted(expr.free_symbols, key=str)
    return symbols, sp.lambdify(symbols, expr, "numpy")


def in_words(hypotheses: Sequence[Hypothesis], short: bool = False) -> list[str]:
    """Print hypotheses, two bounds of one quantity as one."""
    shown: list[str] = []
    taken: set[Hypothesis] = set()
    for h in hypotheses:
        if h in taken:
            continue
        upper = None
        if isinstance(h, sp.Ge) and not h.rhs.free_symbols:
            upper = next((o for o in hypotheses if isinstance(o, sp.Le | sp.Lt) and o.lhs == h.lhs), None)
        if upper is not None:
            taken.add(upper)
            sign = r"\le" if isinstance(upper, sp.Le) else "<"
            shown.append(rf"${tex(h.rhs)} \le {tex(h.lhs)} {sign} {tex(upper.rhs)}$")
        else:
            shown.append((h.short if short else h.text) if isinstance(h, Words) else f"${tex(h)}$")
    return shown
