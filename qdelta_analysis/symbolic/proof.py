"""What a proof is: steps, each checked by SymPy or citing a named standard fact, and how it is shown."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

import sympy as sp

from .notation import d, tex

Kind = Literal["identity", "inequality", "definition", "supposition", "fact", "claim"]


class Fact(Enum):
    """The standard facts that the proofs cite; SymPy checks everything else."""

    CAUCHY_SCHWARZ = r"Cauchy-Schwarz: $|u \cdot w| \le \|u\| \|w\|$"
    COMPACT = r"A continuous function on a closed and bounded set takes a largest value"
    CONVEX = r"The norm of a matrix that is affine in parameters is convex in them, and so is a supremum of such norms"
    DETERMINANT = r"Determinant lemma: $\det(B + u w^\top) = \det B + w^\top \mathrm{adj}(B)\, u$"
    EXPECTATION = r"Linearity of expectation, and $S_{t-1}$ independent of token $t$"
    GROWTH = r"Joint spectral radius: $\rho(A_1 \cdots A_n)^{1/n} \le \mathrm{JSR} \le \sup \|A\|$"
    HOMOGENEOUS = r"Lengths: $\|\tau v\| = |\tau| \|v\|$ for a number $\tau$"
    INDUCTION = r"Induction: it holds for $t = 0$, and from $t - 1$ on for $t$"
    INTERMEDIATE = r"Intermediate value theorem on a connected set"
    ISOTROPY = r"Isotropy: a symmetric matrix that no rotation changes is a multiple of the identity"
    LOGARITHM = r"The logarithm lies below its tangent: $\log y \le y - 1$"
    PLANE = (
        r"Gram-Schmidt: $k$ and $x$ lie in the span of $e_1 = k / \|k\|$ and a unit vector $e_2 \perp e_1$ ($d \ge 2$)"
    )
    POSITIVE = r"The length of a vector other than zero is positive"
    PRODUCT = r"Where a product is not negative and one factor is positive, the other is not negative"
    RISING = r"A convex function with its least value at zero does not fall along a ray from there"
    RANK_ONE = r"The Frobenius norm of $v k^\top$ is $\|v\| \|k\|$"
    RAYLEIGH = r"Rayleigh: $\lambda_{\min} \|s\|^2 \le s M s^\top \le \lambda_{\max} \|s\|^2$ for symmetric $M$"
    ROOTS = r"The eigenvalues are the roots of $\det(z I - A)$"
    SINGULAR = (
        r"Singular values: the squares of those of $M$ are the eigenvalues of $M^\top M$, with its trace and "
        r"determinant"
    )
    SINGULAR_VECTORS = r"Singular vectors: $A w = \|A\| u$ for some unit vectors $w$ and $u$"
    SUBMULTIPLICATIVE = r"Submultiplicativity: $\|A B\|_2 \le \|A\|_2 \|B\|_2$ and $\|S A\|_F \le \|S\|_F \|A\|_2$"
    TRIANGLE = r"Triangle inequality: $\|u + w\| \le \|u\| + \|w\|$"

    @property
    def needs(self) -> tuple[sp.Basic, ...]:
        """Hypotheses without which it is no fact: two dimensions, for a plane to lie in."""
        return (d >= 2,) if self in (Fact.PLANE,) else ()


@dataclass(frozen=True)
class Step:
    """One line of a proof: the relation that was checked, why it holds, what it used, and what vouches for it.

    latex: the relation as it was compared, printed. given: the hypotheses it rests on, through earlier steps too.
    SymPy checked an "identity" or an "inequality"; a "definition" names an expression, a "fact" is a standard one that
    is cited, a "claim" another of this project's claims, and a "supposition" what an induction later takes
    back. states: it is what the claim states.
    """

    latex: str
    reason: str
    kind: Kind = "identity"
    given: tuple[str, ...] = ()
    states: bool = False
    relation: Any = field(default=None, compare=False, repr=False)


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
        """The steps that cite a standard fact or another claim; SymPy checked all others but definitions."""
        return tuple(step for step in self.steps if step.kind in ("fact", "claim"))

    @property
    def vouched(self) -> str:
        """What vouches for which step, in words."""
        others = []
        names = {
            "definition": "definition",
            "supposition": "supposition",
            "fact": "standard fact",
            "claim": "other claim",
        }
        for kind, name in names.items():
            numbers = [str(i) for i, step in enumerate(self.steps, 1) if step.kind == kind]
            if numbers:
                others.append(f"{', '.join(numbers)} ({name}{'s' * (len(numbers) > 1)})")
        return "SymPy checked every step" + (" but " + " and ".join(others) if others else "") + "."

    def to_latex(self) -> str:
        """Return a fragment for a LaTeX document (needs amsmath and amssymb)."""
        heading = rf"\paragraph{{{self.claim}. {self.title}.}} {self.statement}"
        given = rf"\emph{{Given}} ({self.dimension}): {self._given}. {self.vouched}"
        steps = [rf"\item {_because(step)} \[ {_shown(step)} \]" for step in self.steps]
        return "\n".join([heading, "", given, "", r"\begin{enumerate}", *steps, r"\end{enumerate}"])

    @property
    def _given(self) -> str:
        return "; ".join(self.hypotheses) or "nothing"

    def _repr_latex_(self) -> str:
        return self.to_latex()

    def _repr_html_(self) -> str:
        """The same for a notebook, where MathJax sets what stands between dollars."""
        text = lambda source: re.sub(r"\\emph{(.*?)}", r"<em>\1</em>", html.escape(source, quote=False))
        steps = (f"<li>{text(_because(step))}$${text(_shown(step))}$$</li>" for step in self.steps)
        return (
            f"<h4>{self.claim}. {text(self.title)}</h4><p>{text(self.statement)}</p>"
            f"<p><em>Given</em> ({text(self.dimension)}): {text(self._given)}.</p>"
            f"<p><small>{text(self.vouched)}</small></p><ol>{''.join(steps)}</ol>"
        )


def _because(step: Step) -> str:
    given = f" (by {', '.join(step.given)})" if step.given and step.kind != "definition" else ""
    return f"{step.reason}{given}."


def _shown(step: Step) -> str:
    return step.latex + (r" \qquad \square" if step.states else "")


def shown(relation: Any, certificate: Any = None) -> str:
    """Print a relation; with a certificate as lhs - rhs = certificate, and what that says of its sign."""
    if certificate is None:
        return tex(relation)
    big: Any
    small: Any
    big, small, sign = (
        (relation.lhs, relation.rhs, ">" if isinstance(relation, sp.Gt) else r"\ge")
        if isinstance(relation, sp.Ge | sp.Gt)
        else (relation.rhs, relation.lhs, ">" if isinstance(relation, sp.Lt) else r"\ge")
    )
    left = tex(big) if small == 0 else tex(sp.Add(big, sp.Mul(-1, small, evaluate=not small.is_Add), evaluate=False))
    return rf"{left} = {tex(certificate)} {sign} 0"
