"""What a proof is: steps in LaTeX, each checked by SymPy or citing a named standard fact, and the error otherwise."""

from __future__ import annotations

import html
import random
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal

import sympy as sp
from sympy.core.relational import Relational
from sympy.logic.boolalg import BooleanAtom
from sympy.matrices import MatrixBase

from .notation import parenthesised, tex

Kind = Literal["identity", "inequality", "fact", "claim"]
_TRIES, _CLEARLY = 200, 1e-20  # points tried for a witness; by how much it must fail there


class Fact(Enum):
    """The standard facts that the proofs cite; SymPy checks everything else."""

    CAUCHY_SCHWARZ = r"Cauchy-Schwarz: $|u \cdot w| \le \|u\| \|w\|$"
    COMPACT = r"A continuous function on a closed and bounded set takes a largest value"
    CONVEX = r"The norm of a matrix that is affine in parameters is convex in them, and so is a supremum of such norms"
    DETERMINANT = r"Determinant lemma: $\det(B + u w^\top) = \det(B) (1 + w^\top B^{-1} u)$"
    EXPECTATION = r"Linearity of expectation, and $S_{t-1}$ independent of token $t$"
    GROWTH = r"Joint spectral radius: $\rho(A_1 \cdots A_n)^{1/n} \le \mathrm{JSR} \le \sup \|A\|$"
    INDUCTION = r"Induction: the bound holds for $t = 0$, and the step takes it from $t - 1$ to $t$"
    INTERMEDIATE = r"Intermediate value theorem on a connected set"
    ISOTROPY = r"Isotropy: a symmetric matrix that no rotation changes is a multiple of the identity"
    KERNEL = r"Rank and nullity: what is orthogonal to a non-zero vector of $\mathbb{R}^d$ has dimension $d - 1$"
    PLANE = (
        r"Gram-Schmidt: $k$ and $x$ lie in the span of $e_1 = k / \|k\|$ and a unit vector $e_2 \perp e_1$ ($d \ge 2$)"
    )
    RAYLEIGH = r"Rayleigh: $\lambda_{\min} \|s\|^2 \le s M s^\top \le \lambda_{\max} \|s\|^2$ for symmetric $M$"
    SINGULAR = r"Singular vectors: $A w = \|A\| u$ for some unit vectors $w$ and $u$"
    SUBMULTIPLICATIVE = r"Submultiplicativity: $\|A B\|_2 \le \|A\|_2 \|B\|_2$ and $\|S A\|_F \le \|S\|_F \|A\|_2$"
    TRIANGLE = r"Triangle inequality: $\|u + w\| \le \|u\| + \|w\|$"
    VANISHING = r"A sum of terms $\ge 0$ vanishes only where every term does"


@dataclass(frozen=True)
class Step:
    """One line of a proof: the formula in LaTeX, why it holds, and what vouches for it.

    SymPy checked an "identity" or an "inequality"; a "fact" is a standard one that is cited, and a "claim" another of
    this project's claims.
    """

    latex: str
    reason: str
    kind: Kind = "identity"


@dataclass(frozen=True)
class Proof:
    """A claim with its hypotheses and the steps that prove it; `statement` and `hypotheses` are text with $LaTeX$."""

    claim: str
    title: str
    statement: str
    hypotheses: tuple[str, ...]
    steps: tuple[Step, ...]
    dimension: str

    @property
    def cited(self) -> tuple[Step, ...]:
        """The steps that cite a standard fact or another claim; SymPy checked all others."""
        return tuple(step for step in self.steps if step.kind in ("fact", "claim"))

    @property
    def vouched(self) -> str:
        """What vouches for which step, in words."""
        cited = []
        for kind, name in (("fact", "standard fact"), ("claim", "other claim")):
            numbers = [str(i) for i, step in enumerate(self.steps, 1) if step.kind == kind]
            if numbers:
                cited.append(f"{', '.join(numbers)} ({name}{'s' * (len(numbers) > 1)})")
        return "SymPy checked every step" + (" but " + " and ".join(cited) if cited else "") + "."

    def to_latex(self) -> str:
        """Return a fragment for a LaTeX document (needs amsmath and amssymb)."""
        heading = rf"\paragraph{{{self.claim}. {self.title}.}} {self.statement}"
        given = rf"\emph{{Given}} ({_set(self.dimension)}): {'; '.join(self.hypotheses)}. {self.vouched}"
        steps = [rf"\item {step.reason}. \[ {step.latex} \]" for step in self.steps]
        return "\n".join([heading, "", given, "", r"\begin{enumerate}", *steps, r"\end{enumerate}"])

    def _repr_latex_(self) -> str:
        return self.to_latex()

    def _repr_html_(self) -> str:
        """The same for a notebook, where MathJax sets what stands between dollars."""
        text = lambda source: re.sub(r"\\emph{(.*?)}", r"<em>\1</em>", html.escape(source, quote=False))
        steps = (f"<li>{text(step.reason)}.$${text(step.latex)}$$</li>" for step in self.steps)
        return (
            f"<h4>{self.claim}. {text(self.title)}</h4><p>{text(self.statement)}</p>"
            f"<p><em>Given</em> ({text(_set(self.dimension))}): {text('; '.join(self.hypotheses))}.</p>"
            f"<p><small>{text(self.vouched)}</small></p><ol>{''.join(steps)}</ol>"
        )


class ProofError(AssertionError):
    """A step that does not simplify to true.

    `residual` is what is left over; `witness` is a point at which the step is false, or None where none was found.
    """

    def __init__(self, claim: str, step: str, residual: Any, witness: Mapping[Any, sp.Expr] | None):
        self.claim, self.step, self.residual, self.witness = claim, step, residual, witness
        at = ", ".join(f"{symbol} = {value}" for symbol, value in (witness or {}).items())
        where = "no point at which it fails was found" if witness is None else f"it is false at {at or 'every point'}"
        super().__init__(f'{claim}: the step "{step}" leaves {residual}; {where}.')


Statement = sp.Basic | MatrixBase | bool
Meaning = Mapping[sp.Symbol, sp.Expr]


def check(statement: Statement, reason: str, *, claim: str = "claim", where: Meaning | None = None) -> None:
    """Check that an expression or matrix vanishes, or that an equation or inequality holds.

    statement: an expression or matrix, to be zero; or a relation, to hold under the assumptions of its symbols.
    where: symbols that stand for expressions, such as one that is nonnegative for 1 - beta. Identities see the
        expression, signs see the symbol and its assumption.

    Raises ProofError, which names the claim, the step and the residual, for what does not simplify to true. A sign
    that SymPy cannot see from the form that it is given is refused, even where the inequality is true.
    """
    where = dict(where or {})
    if isinstance(statement, bool | BooleanAtom):
        residual = None if statement else sp.false
    elif isinstance(statement, Relational):
        residual = _unproved(statement, where)
    else:
        residual = _remainder(sp.Matrix([statement]).subs(where))
    if residual is not None:
        raise ProofError(claim, reason, residual, _witness(statement, where))


class Derivation:
    """A proof in the making: each method checks its step, then records it."""

    def __init__(
        self,
        claim: str,
        title: str,
        statement: str,
        *,
        hypotheses: Iterable[str],
        dimension: str,
    ):
        self.claim, self.title, self.statement = claim, title, statement
        self.hypotheses, self.dimension = tuple(hypotheses), dimension
        self.steps: list[Step] = []
        self._where: dict[sp.Symbol, sp.Expr] = {}

    def room(self, expr: Any, positive: bool = False, real: bool = False) -> sp.Symbol:
        """Return a symbol that stands for expr, prints as (expr), and is nonnegative by hypothesis.

        positive: more than that. real: less, nothing is known of its sign.
        """
        given = "real" if real else "positive" if positive else "nonnegative"
        symbol = sp.Symbol(parenthesised(expr), **{given: True})
        self._where[symbol] = expr
        return symbol

    def equal(
        self, left: Any, right: Any, reason: str, shown: str | None = None, shown_right: str | None = None
    ) -> None:
        """Left = right; `shown` and `shown_right` are LaTeX of the sides that reads better than SymPy's."""
        self._check(sp.Matrix([left]) - sp.Matrix([right]), reason)
        self._add("identity", f"{shown or tex(left)} = {shown_right or tex(right)}", reason)

    def nonnegative(self, expr: Any, certificate: Any, reason: str, shown: str | None = None, strict=False) -> None:
        """Expr >= 0 (> 0 where `strict`), because it equals a certificate whose sign is seen from its form."""
        self._check(sp.sympify(expr - certificate), reason)
        self._check(certificate > 0 if strict else certificate >= 0, reason)
        relation = ">" if strict else r"\ge"
        self._add("inequality", rf"{shown or tex(expr)} = {tex(certificate)} {relation} 0", reason)

    def holds(self, statement: Statement, latex: str, reason: str) -> None:
        """Accept a relation, or the truth value that SymPy gave one."""
        self._check(statement, reason)
        self._add("inequality", latex, reason)

    def by(self, fact: Fact, latex: str, reason: str = "") -> None:
        """Cite a standard fact, and say what follows from it."""
        self._add("fact", latex, f"{fact.value}. {reason}".removesuffix(". "))

    def uses(self, claim: str, latex: str, reason: str) -> None:
        """Use another claim."""
        self._add("claim", latex, f"Claim {claim}: {reason}")

    def proof(self) -> Proof:
        """Return what was proved."""
        return Proof(self.claim, self.title, self.statement, self.hypotheses, tuple(self.steps), self.dimension)

    def _check(self, statement: Statement, reason: str) -> None:
        check(statement, reason, claim=self.claim, where=self._where)

    def _add(self, kind: Kind, latex: str, reason: str) -> None:
        self.steps.append(Step(latex, reason, kind))


def _remainder(matrix: MatrixBase) -> sp.Basic | None:
    """What is left of the first entry that does not simplify to zero."""
    for entry in matrix:
        for simplify in (sp.expand, lambda e: sp.cancel(sp.together(e)), sp.simplify):
            entry = simplify(entry)
            if entry == 0:
                break
        else:
            return entry
    return None


def _gap(relation: Any) -> Any:
    """What must vanish, or be at least zero, where the relation holds."""
    left, right = (relation.lhs, relation.rhs) if relation.rel_op == "==" else (relation.gts, relation.lts)
    return left - right


def _unproved(relation: Relational, where: Meaning) -> sp.Basic | None:
    """What is left of an equation, or the difference whose sign is not seen."""
    gap = _gap(relation)
    if isinstance(relation, sp.Eq):
        return _remainder(sp.Matrix([gap]).subs(where))
    seen = "is_positive" if isinstance(relation, sp.StrictGreaterThan | sp.StrictLessThan) else "is_nonnegative"
    return None if any(getattr(form, seen) for form in (gap, sp.expand(gap), sp.factor(gap))) else gap


def _witness(statement: Any, where: Meaning) -> dict[Any, sp.Expr] | None:
    """A point, allowed by the symbols' assumptions, at which the statement is clearly false."""
    if isinstance(statement, bool | BooleanAtom):
        return {}
    inequality = isinstance(statement, Relational) and not isinstance(statement, sp.Eq)
    sides = [_gap(statement)] if isinstance(statement, Relational) else sp.Matrix([statement]).flat()
    rooms = [where[symbol] for symbol in where if symbol in statement.free_symbols and symbol.is_nonnegative]
    sides = [side.subs(where) for side in sides]
    free = sorted(set().union(*(x.free_symbols for x in (*sides, *rooms))), key=str)
    draw = random.Random(0)
    for _ in range(_TRIES):
        point: dict[Any, sp.Expr] = {symbol: _value(symbol, draw) for symbol in free}
        if any(meaning.subs(point).is_negative for meaning in rooms):
            continue
        for side in sides:
            value = sp.N(side.subs(point), 30)
            wrong = -value if inequality else abs(value)
            if wrong.is_extended_real and wrong > _CLEARLY:
                return point
    return None


def _value(symbol: Any, draw: random.Random) -> sp.Expr:
    if symbol.is_integer:
        return sp.Integer(draw.randint(2, 5))
    low = 1 if symbol.is_positive else 0 if symbol.is_nonnegative else -8
    return sp.Rational(draw.randint(low, 8), 4)


def _set(words: str) -> str:
    """Put relations such as d >= 2, or C = 2, 3, 4, between dollars."""
    relation = re.compile(r"[dVC](?:(?:, | = )[dVC])* (?:>=|=) \d+(?:, \d+)*")
    return relation.sub(lambda found: "$" + found[0].replace(">=", r"\ge") + "$", words)
