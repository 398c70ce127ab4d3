"""Proofs on one transition: its eigenvalues, spectral radius and singular values, and what lam = 0 leaves of them."""

from __future__ import annotations

import numpy as np
import sympy as sp

from . import closed_forms
from .claim import Claim, Conclusion
from .dense import MEASURES
from .engine import Derivation
from .notation import (
    DECAY,
    DECAYS,
    PLANE,
    A,
    a,
    across,
    along,
    alpha,
    beta,
    char,
    d,
    kappa,
    key_row,
    lam,
    norm,
    plane_transition,
    radius,
    step,
    vector,
    x,
    xnorm,
    y,
    z,
)
from .proof import Fact, Proof

TRANSITION = r"of the transition $\alpha (I - \beta x k^\top)$ with $x = k + \lambda q$ and alignment $a = k \cdot x$"
larger, smaller = sp.symbols("s_+ s_-", real=True)
_M = sp.MatrixSymbol("M", 2, 2)


def within(expr: sp.Expr, low: object, high: object) -> sp.Basic:
    """Return the condition low <= expr <= high."""
    return sp.And(sp.Ge(expr, low), sp.Le(expr, high), evaluate=False)  # pyright: ignore[reportCallIssue]: not in stubs


def g1() -> Claim:
    """The eigenvalues of A: alpha, d - 1 times, and alpha (1 - beta a)."""
    repeated, single = closed_forms.eigenvalues(alpha, beta, a)
    return Claim(
        "G1",
        "Spectrum of one transition",
        rf"<0>: the eigenvalues {TRANSITION}, one of them repeated.",
        (Conclusion(sp.Eq(char, (z - repeated) ** (d - 1) * (z - single))),),
        "any dimension; written out in three",
        MEASURES,
    )


def spectrum() -> Proof:
    """Eigenvalues of A: alpha, d - 1 times, and alpha (1 - beta a) (claim G1)."""
    repeated, single = closed_forms.eigenvalues(alpha, beta, a)
    p = Derivation(g1())
    p.by(
        Fact.DETERMINANT,
        sp.Eq(char, (z - alpha) ** d + alpha * beta * a * (z - alpha) ** (d - 1)),
        r"Here $B$ is $z I - \alpha I$, $u$ is $\alpha \beta x$ and $w$ is $k$",
    )
    p.states(0, "So the characteristic polynomial has these roots, with these multiplicities")
    p.let(step, alpha * (1 - beta * x * key_row), r"Vectors in any dimension, as letters that do not commute")
    p.let(key_row * x, a, "The alignment")
    p.equal(step * x, single * x, "The mixed direction is an eigenvector")
    p.let(key_row * y, 0, "Let $y$ be any vector orthogonal to $k$")
    p.equal(step * y, repeated * y, "It is an eigenvector too, and these fill a hyperplane")
    written = sp.MatrixSymbol("A_3", 3, 3)
    mixed, key = vector("x", 3), vector("k", 3)
    p.let(
        written, closed_forms.transition(key, mixed, beta, alpha), "Written out with all entries, in three dimensions"
    )
    p.equal(
        sp.Determinant(z * sp.Identity(3) - written),
        (z - repeated) ** 2 * (z - single.subs(a, (key.T * mixed)[0, 0])),
        "The same polynomial, entry by entry",
    )
    return p.proof()


def g2() -> Claim:
    """The spectral radius of A, and where it is at most alpha."""
    return Claim(
        "G2",
        "Spectral radius of one transition",
        rf"<0>, and <1>: the spectral radius {TRANSITION}.",
        (
            Conclusion(sp.Eq(radius, closed_forms.spectral_radius(alpha, beta, a)), (PLANE, DECAYS)),
            Conclusion(sp.Equivalent(sp.Le(radius, alpha), within(beta * a, 0, 2), evaluate=False), (PLANE, DECAYS)),
        ),
        "any dimension from two on, so that both eigenvalues occur",
        MEASURES,
    )


def spectral_radius() -> Proof:
    """rho(A) = alpha max(1, |1 - beta a|) (claim G2)."""
    repeated, single = closed_forms.eigenvalues(alpha, beta, a)
    p = Derivation(g2())
    p.uses(g1(), 0, "the spectrum")
    spectrum_of_a = p.steps[-1].relation
    polynomial = spectrum_of_a.rhs
    p.equal(sp.Subs(polynomial, z, single), 0, "The single eigenvalue is a root")
    one = p.steps[-1].relation
    p.equal(sp.Subs(polynomial, z, repeated), 0, "And so is the other, from two dimensions on", room=p.room(d - 2))
    p.by(
        Fact.ROOTS,
        sp.Eq(radius, sp.Max(sp.Abs(repeated), sp.Abs(single))),
        "There are no more, so this is the larger of the two sizes",
        using=(spectrum_of_a, one, p.steps[-1].relation),
    )
    p.states(0, "With what is common in front")
    p.equivalent(1, beta * a, "Both bound the same interval of alignments", through=p.steps[-1].relation)
    return p.proof()


def g3() -> Claim:
    """The singular values of A."""
    return Claim(
        "G3",
        "Singular values and operator norm of one transition",
        r"<0> and <1> for the largest and smallest singular value of $A / \alpha$, all others being one, so that "
        r"<5> and <7>; hence <6>, in closed form <2>, and <3>, and $A$ without its decay expands wherever "
        r"<4> is not zero. $A$ is the transition "
        r"$\alpha (I - \beta x k^\top)$ with $x = k + \lambda q$, its parts $x_\parallel$ along $k$ and $x_\perp$ "
        r"across it, and alignment $a = k \cdot x$.",
        (
            Conclusion(
                sp.Eq(larger**2 + smaller**2, closed_forms.singular_square_sum(beta, a, kappa**2, xnorm**2)), (PLANE,)
            ),
            Conclusion(sp.Eq(larger**2 * smaller**2, closed_forms.singular_product(beta, a) ** 2), (PLANE,)),
            Conclusion(sp.Eq(norm, closed_forms.operator_norm(alpha, beta, kappa, along, across)), (PLANE, DECAY)),
            Conclusion(sp.Ge(norm, alpha), (PLANE, DECAY)),
            Conclusion(sp.Eq((larger**2 - 1) * (1 - smaller**2), (beta * kappa * across) ** 2), (PLANE,)),
            Conclusion(sp.Ge(larger, 1), (PLANE,)),
            Conclusion(sp.Eq(norm, alpha * larger), (PLANE, DECAY)),
            Conclusion(sp.Le(smaller**2, 1), (PLANE,)),
        ),
        "any dimension from two on; written out in three",
        MEASURES
        | {
            larger: lambda t: np.linalg.svd(t.steps, compute_uv=False)[:, 0],
            smaller: lambda t: np.linalg.svd(t.steps, compute_uv=False)[:, -1],
        },
    )


def operator_norm() -> Proof:
    """The singular values of A, and ||A|| >= alpha (claim G3)."""
    p = Derivation(g3())
    M = plane_transition()
    p.by(
        Fact.PLANE,
        sp.Eq(_M, M, evaluate=False),
        r"In that plane $A / \alpha$ is this, beyond it the identity",
    )
    p.let(a, kappa * along, "The alignment in these coordinates")
    p.let(xnorm, sp.sqrt(along**2 + across**2), "And the length of the mixed direction")
    r1, r2 = sp.symbols("r_1 r_2", real=True)
    for symbol, meaning in zip((r1, r2), closed_forms.sides(beta, kappa, along, across), strict=True):
        p.let(symbol, meaning, "The length of a side of a triangle")
        p.at_least(symbol, 0, meaning, "A length")
    gram = _M.T * _M
    p.equal((r2 + r1) ** 2 / 4 + (r2 - r1) ** 2 / 4, sp.Trace(gram), "Half their sum and half their difference")
    total = p.steps[-1].relation
    p.equal((r2 + r1) ** 2 / 4 * (r2 - r1) ** 2 / 4, sp.Determinant(gram), "Their product")
    product = p.steps[-1].relation
    p.by(Fact.SINGULAR, sp.Eq(larger, (r2 + r1) / 2), "The larger one", using=(total, product))
    p.by(Fact.SINGULAR, sp.Eq(smaller, sp.Abs(r2 - r1) / 2), "The smaller one", using=(total, product))
    p.states(0, "The sum of their squares")
    p.states(1, "Their product")
    p.by(Fact.TRIANGLE, sp.Ge(r1 + r2, 2), "The third side of the triangle has length two")
    p.at_least(larger, 1, p.room(r1 + r2 - 2) / 2, "So the larger one is not below the others")
    p.by(Fact.TRIANGLE, sp.Le(sp.Abs(r1 - r2), 2), "And so has it in the other direction")
    p.at_least(smaller, 0, sp.Abs(r1 - r2) / 2, "A size")
    p.at_least(1, smaller, p.room(2 - sp.Abs(r1 - r2)) / 2, "So the smaller one is not above the others")
    p.states(7, "Nor is its square", p.room(1 - smaller) * (1 + smaller))
    p.at_least(larger, 0, (r1 + r2) / 2, "And a length")
    p.at_least(larger, smaller, r1 * r2, "Nor below the smaller one", squared=True)
    p.by(
        Fact.SINGULAR,
        sp.Eq(norm, alpha * larger),
        "The norm is the largest singular value",
        using=(DECAY, larger >= 1, larger >= smaller),
    )
    p.states(2, "In closed form")
    p.states(3, "It is never below the decay", p.room(alpha) * p.room(larger - 1))
    p.states(4, r"For $x$ not parallel to $k$ the larger one exceeds one")
    off, on = beta * kappa * across, beta * kappa * along
    p.equal(
        gram - _M * _M.T,
        sp.Matrix([[off**2, -off * on], [-off * on, -(off**2)]]),
        "By as much the transition fails to be normal: query feedback makes it so",
    )
    _three_dimensions(p)
    return p.proof()


def _three_dimensions(p: Derivation) -> None:
    written, mixed, key = sp.MatrixSymbol("A_3", 3, 3), vector("x", 3), vector("k", 3)
    p.let(
        written,
        closed_forms.transition(key, mixed, beta),
        "Written out with all entries, in three dimensions without decay",
    )
    kx, kk, xx = ((u.T * w)[0, 0] for u, w in ((key, mixed), (key, key), (mixed, mixed)))
    total = closed_forms.singular_square_sum(beta, kx, kk, xx)
    p.equal(
        sp.Determinant(z * sp.Identity(3) - written.T * written),
        (z - 1) * (z**2 - total * z + closed_forms.singular_product(beta, kx) ** 2),
        "The squares of all singular values",
    )


def g13() -> Claim:
    """What is left without query feedback."""
    nothing = sp.Eq(lam, 0)
    interval = within(beta * kappa**2, 0, 2)
    return Claim(
        "G13",
        "Reduction to Gated DeltaNet",
        r"<0>, <1>, and <2>: without query feedback the transition $\alpha (I - \beta k k^\top)$ is symmetric and "
        r"expands nothing for such gates.",
        (
            Conclusion(sp.Eq(sp.Transpose(A), A), (nothing,)),
            Conclusion(sp.Eq(norm, closed_forms.reduced_norm(alpha, beta, kappa**2)), (nothing, PLANE, DECAYS)),
            Conclusion(sp.Equivalent(sp.Le(norm, alpha), interval, evaluate=False), (nothing, PLANE, DECAYS)),
        ),
        "any dimension, from two on for the norm",
        MEASURES,
    )


def reduction() -> Proof:
    """Without query feedback A is symmetric, with norm alpha max(1, |1 - beta ||k||^2|) (claim G13)."""
    p = Derivation(g13())
    nothing = sp.Eq(lam, 0)
    key, query = sp.MatrixSymbol("k", d, 1), sp.MatrixSymbol("q", d, 1)
    p.let(A, alpha * (sp.Identity(d) - beta * (key + lam * query) * key.T), "The transition, in any dimension")
    p.states(0, "It is its own transpose", at=(nothing,))
    q_along, q_across = sp.symbols(r"q_{\parallel} q_{\perp}", real=True)
    plane = plane_transition().subs({along: kappa + lam * q_along, across: lam * q_across})
    p.by(Fact.PLANE, sp.Eq(_M, plane, evaluate=False), r"$A / \alpha$ in the plane of $k$ and $q$")
    diagonal = sp.diag(1 - beta * kappa**2, 1)
    p.equal(_M, diagonal, "Without feedback it is diagonal", at=(nothing,))
    on_diagonal = p.steps[-1].relation
    for index in (0, 1):
        p.uses(g3(), index, "where $x$ is $k$", at={a: kappa**2, xnorm: kappa})
    total, product = (found.relation for found in p.steps[-2:])
    p.equal(
        z**2 - total.rhs * z + product.rhs,
        (z - diagonal[0, 0] ** 2) * (z - diagonal[1, 1] ** 2),
        "So the squares of the singular values, the roots of this, are those of the entries on the diagonal",
    )
    p.by(
        Fact.SINGULAR,
        sp.Eq(norm, sp.Abs(alpha) * sp.Max(sp.Abs(diagonal[0, 0]), sp.Abs(diagonal[1, 1]))),
        "The larger of the entries on the diagonal",
        using=(on_diagonal, total, product, p.steps[-1].relation),
    )
    p.states(1, "In closed form")
    p.equivalent(2, beta * kappa**2, "Both bound the same interval", through=p.steps[-1].relation)
    return p.proof()
