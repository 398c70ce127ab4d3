"""Proof for any box of gates: a reflection turns the largest norm of one step into a cycle that grows by it."""

from __future__ import annotations

import sympy as sp

from . import closed_forms
from .claim import Claim, Conclusion
from .engine import Derivation
from .envelope import g7, jsr
from .notation import PLANE, L, a, a_max, alpha, beta, c, kappa, key_row, lam, norm, qnorm, step, x, xnorm
from .proof import Fact, Proof
from .spectrum import g3, larger, smaller

b, most, corner = sp.symbols(r"b \max\|A\| N", real=True)
_STRENGTH, _FEEDBACK, _DECAY = sp.Ge(b, 0), sp.Ge(L, 0), sp.Ge(a_max, 0)
_CROSSED, _BEYOND = sp.Lt(L * (b - 1), 2 - b), sp.Ge(L * (b - 1), 2 - b)
_UNIT = {alpha: 1, beta: b, lam: L, kappa: 1, qnorm: 1}


def box() -> Claim:
    """The joint spectral radius of a box of gates, and the largest norm that it is."""
    crossed = (PLANE, _DECAY, _STRENGTH, sp.Lt(b, 2), _FEEDBACK, sp.Le(L, 2), _CROSSED)
    return Claim(
        "Beside G8",
        "Joint spectral radius of any box of gates",
        r"<0>, over any closed and bounded set of gates and cosines of unit $k$ and $q$, reached by a cycle of two "
        r"tokens. For all cosines and gates up to $b$, $L$ and $\alpha_{\max}$ it is <1>, and beyond <2>.",
        (
            Conclusion(sp.Eq(jsr, most)),
            Conclusion(sp.Eq(most, closed_forms.largest_norm(a_max, b, L)), crossed),
            Conclusion(sp.Eq(most, closed_forms.aligned_norm(a_max, b, L)), (PLANE, _DECAY, sp.Gt(L, 0), _BEYOND)),
        ),
        "any dimension, from two on for the closed forms",
    )


def joint_spectral_radius_of_a_box() -> Proof:
    """JSR = max ||A|| over any box of gates, and that norm in closed form."""
    p = Derivation(box())
    _cycle(p, _reflection(p))
    p.uses(g3(), 5, "no step without decay contracts everything", at=_UNIT)
    p.by(
        Fact.RISING,
        sp.Eq(most, a_max * corner),
        r"$N$ is the largest norm over all angles at the corner, without decay: the norm is convex in $\beta$ and in "
        r"$\beta \lambda$, and $-q$ is as good as $q$",
        using=(p.steps[-1].relation, _DECAY),
    )
    _crossed(p)
    _aligned(p)
    return p.proof()


def _reflection(p: Derivation) -> list[sp.Basic]:
    """The reflection F that swaps two unit vectors turns a token into a token."""
    h, n = sp.symbols("h n", real=True)
    u, w, y, y_row, F = sp.symbols(r"u w y y^{\top} F", commutative=False)
    p.by(Fact.CAUCHY_SCHWARZ, sp.Lt(h, 1), r"The cosine $h$ of two different unit vectors $u$ and $w$")
    p.equal(
        u - 2 * (u - w) * (1 - h) / (2 - 2 * h),
        w,
        r"A reflection along their difference takes $u$ to $w$: its product with $u$ and its squared length stand here",
    )
    swaps = p.steps[-1].relation
    p.let(y_row * y, n, "The squared length of any vector")
    p.by(Fact.POSITIVE, sp.Gt(n, 0), "It is not zero")
    mirror = 1 - 2 * y * y_row / n
    p.equal(mirror * mirror, 1, "A reflection is its own inverse, so it takes $w$ to $u$ as well")
    p.let(F * F, 1, "So much for reflections")
    A = closed_forms.transition(sp.Matrix([[key_row]]), sp.Matrix([[x]]), beta, alpha)[0, 0]
    p.equal(
        F * A * F,
        alpha * (1 - beta * (F * x) * (key_row * F)),
        "Between two reflections a transition is that of the reflected token, with the same gates and cosine",
    )
    return [swaps, p.steps[-1].relation]


def _cycle(p: Derivation, relations: list[sp.Basic]) -> None:
    """The token of the largest norm and its reflection grow by it each."""
    u, w, F = sp.symbols("u w F", commutative=False)
    p.by(Fact.COMPACT, sp.Ge(most, 0), r"Let $A$ be a transition of the largest norm")
    p.by(
        Fact.SINGULAR_VECTORS,
        sp.Eq(step * w, most * u),
        r"For equal $u$ and $w$ its spectral radius is its norm already",
    )
    p.let(step * w, most * u, "So let them differ")
    p.let(F * u, w, "And let $F$ be the reflection")
    p.let(F * w, u, "In both directions")
    p.equal(F * step * F * step * w, most**2 * w, "Both tokens, one after the other")
    p.by(Fact.GROWTH, sp.Ge(jsr, most), "The growth of this cycle", using=(*relations, p.steps[-1].relation))
    p.by(Fact.GROWTH, sp.Le(jsr, most), "And that of any product")
    p.squeeze(jsr, most, "The two bounds meet")


def _crossed(p: Derivation) -> None:
    """The corner where the worst angle of G7 is one."""
    worst, top = closed_forms.worst_cosine(b, L), closed_forms.largest_norm(1, b, L)
    room, more = p.room(2 - b, positive=True), p.room(2 - L)
    p.uses(g7(), 1, "at the corner, over all angles", at={**_UNIT, norm: corner})
    p.uses(g7(), 3, "at the worst angle", at={**_UNIT, c: worst, norm: sp.Symbol(r"\|A_{*}\|", real=True)})
    reached = p.steps[-1].relation
    p.at_least(1, worst, p.room(2 - b - L * (b - 1), positive=True) / room, "Its cosine is one", strict=True)
    p.at_least(worst, -1, (more * room + L * b) / (2 * room), "From below too")
    below = p.steps[-1].relation
    p.by(Fact.COMPACT, sp.Ge(corner, top), "That angle is one of them", using=(reached, worst < 1, below))
    p.squeeze(corner, top, "So this is the largest")
    p.states(1, "With decay", through=(sp.Eq(most, a_max * corner), p.steps[-1].relation))


def _aligned(p: Derivation) -> None:
    """The corner where its cosine would exceed 1: q = k is the worst."""
    R = closed_forms.aligned_norm(1, b, L)
    unit = {**_UNIT, a: closed_forms.alignment(L, c), xnorm: sp.sqrt(1 + 2 * L * c + L**2)}
    for index in (0, 1, 7):
        p.uses(g3(), index, "at the corner", at=unit)
    total, product, inside = (s.relation for s in p.steps[-3:])
    p.by(Fact.CAUCHY_SCHWARZ, sp.Le(c, 1), "A cosine")
    e, same, feedback = p.room(L * (b - 1) - (2 - b)), p.room(1 - c), p.room(L, positive=True)
    p.at_least(R, 1, e + feedback, "Here this exceeds one", strict=True)
    p.at_least(R**2, 1, p.room(R - 1, positive=True) * (e + feedback + 2), "And so does its square", strict=True)
    p.at_least(
        R**2,
        smaller**2,
        p.room(R**2 - 1, positive=True) + p.room(1 - smaller**2),
        "So it exceeds the smaller singular value",
        strict=True,
    )
    above = p.steps[-1].relation
    p.at_least(
        R**4 - total.rhs * R**2 + product.rhs,
        0,
        b**2 * feedback * same * (2 * e * (1 + e + feedback) + feedback * same),
        "By their sum and product this is the product of its squared distances from both",
    )
    distances = p.steps[-1].relation
    p.by(Fact.PRODUCT, sp.Le(larger**2, R**2), "So the larger one", using=(total, product, distances, above, inside))
    p.at_least(R, 0, p.room(R - 1, positive=True) + 1, "It is not negative")
    p.at_least(R, larger, p.room(R**2 - larger**2), "So the larger one is no larger", squared=True)
    p.by(Fact.COMPACT, sp.Le(corner, R), "For every angle, and so for the worst", using=(sp.Le(larger, R),))
    turned = -closed_forms.error_factor(b, closed_forms.alignment(L, 1))
    p.by(Fact.COMPACT, sp.Ge(corner, turned), "The size of an eigenvalue at a key that is its query, by claim G1")
    p.equal(turned, R, "Which is the same")
    p.at_least(corner, R, p.room(corner - turned), "So it is reached")
    p.squeeze(corner, R, "The two bounds meet")
    p.states(2, "With decay", through=(sp.Eq(most, a_max * corner), p.steps[-1].relation))
