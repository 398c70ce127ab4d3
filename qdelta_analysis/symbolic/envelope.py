"""Proofs on products of transitions: the norm envelope, and the joint spectral radius that reaches it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import sympy as sp

from . import closed_forms
from .claim import Claim, Conclusion
from .dense import MEASURES, Tokens
from .engine import Derivation
from .notation import (
    BETA_HIGH,
    BETA_LOW,
    DECAY,
    PLANE,
    SHORT_KEY,
    SHORT_QUERY,
    L,
    a_max,
    across,
    along,
    alpha,
    beta,
    c,
    kappa,
    lam,
    norm,
    qnorm,
)
from .proof import Fact, Proof
from .spectrum import TRANSITION, g3

jsr = sp.Symbol(r"\mathrm{JSR}", real=True)
GENTLE = sp.Lt(beta * kappa**2, 2)
FEEDBACK, FEEDBACK_HIGH, DECAY_HIGH = sp.Ge(lam, 0), sp.Le(lam, L), sp.Le(alpha, a_max)
TOKENS = (SHORT_KEY, SHORT_QUERY, BETA_LOW, BETA_HIGH, FEEDBACK, FEEDBACK_HIGH, DECAY, DECAY_HIGH)


def g7() -> Claim:
    """How much one token can expand a memory."""
    sharp = closed_forms.largest_norm(alpha, beta, lam, kappa, qnorm)
    unit = (sp.Eq(kappa, 1), sp.Eq(qnorm, 1))
    step = (PLANE, DECAY, BETA_LOW)
    worst = closed_forms.worst_cosine(beta, lam)
    return Claim(
        "G7",
        "Norm envelope",
        rf"<0>, hence <1>, and <2>. Both are sharp: the first is reached at the worst angle, <3>, and the envelope at "
        rf"<4>. $A$ is {TRANSITION.removeprefix('of ')}, and $c$ is the cosine of $k$ and $q$.",
        (
            Conclusion(sp.Le(norm, sharp), (*step, GENTLE)),
            Conclusion(
                sp.Le(norm, closed_forms.largest_norm(alpha, beta, lam)),
                (*step, SHORT_KEY, SHORT_QUERY, sp.Lt(beta, 2)),
            ),
            Conclusion(sp.Le(norm, closed_forms.norm_envelope(alpha, lam)), (*step, SHORT_KEY, SHORT_QUERY, BETA_HIGH)),
            Conclusion(
                sp.Eq(norm, closed_forms.largest_norm(alpha, beta, lam)),
                (*step, sp.Lt(beta, 2), *unit, sp.Eq(c, worst)),
            ),
            Conclusion(
                sp.Eq(norm, closed_forms.norm_envelope(alpha, lam)),
                (PLANE, DECAY, *unit, sp.Eq(beta, 1), sp.Eq(c, 0)),
            ),
        ),
        "any dimension from two on, by inner products",
        MEASURES,
    )


def norm_envelope() -> Proof:
    """||A|| <= alpha sqrt(1 + lam^2 beta / (2 - beta)) <= alpha sqrt(1 + lam^2), bounds that are reached (claim G7)."""
    p = Derivation(g7())
    sharp, largest = p.claim.conclusions[0].relation.rhs, p.claim.conclusions[1].relation.rhs
    envelope = p.claim.conclusions[2].relation.rhs
    n, r = sp.symbols("n r", real=True)
    p.by(
        Fact.PLANE, sp.Eq(along, kappa + lam * qnorm * c), "Here the mixed direction has these parts, one along the key"
    )
    p.by(Fact.PLANE, sp.Eq(across, lam * qnorm * sp.sqrt(1 - c**2)), "And one across it")
    p.uses(g3(), 2, "the norm in closed form")
    p.let(n, sp.sqrt(along**2 + across**2), "The length of the mixed direction")
    p.let(r, closed_forms.sides(beta, kappa, along, across)[1], "The other side of the triangle")
    p.equal(norm, alpha * (r + beta * kappa * n) / 2, "The norm is their mean, weighed")
    mean = p.steps[-1].relation
    p.equal(
        (beta * n**2 + r**2 / p.room(2 - beta * kappa**2, positive=True)) / 2,
        closed_forms.largest_norm(1, beta, lam, kappa, qnorm) ** 2,
        "With these weights the squares no longer depend on the angle",
    )
    _first_bound(p, sharp, n, r)
    _in_the_ball(p, sharp, largest, envelope)
    worst = p.claim.conclusions[3].given[4:]
    p.states(3, "The worst angle", at=worst, room=p.room(2 - beta, positive=True), through=(mean,))
    p.states(4, "The envelope is reached by orthogonal vectors", at=p.claim.conclusions[4].given[2:])
    return p.proof()


def _first_bound(p: Derivation, sharp: sp.Expr, n: sp.Symbol, r: sp.Symbol) -> None:
    room = p.room(2 - beta * kappa**2, positive=True)
    p.at_least((sharp / alpha) ** 2, 0, 1 + (lam * qnorm) ** 2 * beta / room, "What stands below the root")
    gap = alpha**2 * beta * ((2 - beta * kappa**2) * n - kappa * r) ** 2 / (4 * room)
    p.states(0, "So the norm, a sum of the two, is never above it", gap, squared=True)


def _in_the_ball(p: Derivation, sharp: sp.Expr, largest: sp.Expr, envelope: sp.Expr) -> None:
    """From the bound for these lengths to that for unit vectors, and from this beta to beta = 1."""
    room, key, query = p.room(2 - beta, positive=True), p.room(1 - kappa), p.room(1 - qnorm)
    gentle = room + beta * key * (1 + kappa)
    p.at_least(2, beta * kappa**2, gentle, "Keys in the unit ball are gentle enough", strict=True)
    p.at_least((largest / alpha) ** 2, 0, 1 + lam**2 * beta / room, "What stands below the root for unit vectors")
    p.at_least(
        largest,
        sharp,
        alpha**2 * lam**2 * beta * (query * (1 + qnorm) * room + beta * key * (1 + kappa)) / (room * gentle),
        "Shorter vectors are never worse",
        squared=True,
    )
    p.chain(norm, sharp, largest, reason="So for all of them", without=(GENTLE,))
    p.at_least(2, beta, 1 + p.room(1 - beta), "Now let the strength be at most one", strict=True)
    p.at_least(envelope, largest, 2 * alpha**2 * lam**2 * p.room(1 - beta) / room, "It is the worst", squared=True)
    p.chain(norm, largest, envelope, reason="So for all of them", without=(sp.Lt(beta, 2),))


def g8() -> Claim:
    """The fastest growth that such tokens allow."""
    radius = closed_forms.norm_envelope(a_max, L)
    first, second = sp.symbols("a_1 a_2", real=True)
    return Claim(
        "G8",
        "Joint spectral radius",
        rf"<0> over all sequences of such tokens. A cycle of two reaches it whose alignments are <1> and <2>: the "
        rf"mixed error at full strength has the factors <3> and <4>. A token has {TRANSITION.removeprefix('of ')}.",
        (
            Conclusion(sp.Eq(jsr, radius), (PLANE, *TOKENS)),
            Conclusion(sp.Eq(first, 1)),
            Conclusion(sp.Eq(second, 1)),
            *(Conclusion(sp.Eq(closed_forms.error_factor(1, a_i), 0)) for a_i in (first, second)),
        ),
        "any dimension from two on, by a cycle in a plane",
        MEASURES | {jsr: _fastest_growth, first: _alignment(0), second: _alignment(1)},
    )


def _fastest_growth(t: Tokens) -> float:
    """The joint spectral radius of the box that these tokens span, by trial: the token of the largest norm on a grid.

    With its mirror image it makes a cycle of two, whose growth is measured; lengths and strength are one at least.
    """
    size = [max(1.0, np.linalg.norm(y, axis=-1).max()) for y in (t.k, t.q)]
    angles = np.linspace(0, np.pi, 181) if t.d > 1 else np.array([0, np.pi])
    betas = np.unique([min(0.0, t.beta.min()), 0.25, 0.5, 0.75, 1.0, max(1.0, t.beta.max())])
    lams = np.unique([min(0.0, t.lam.min()), t.numbers["L"], max(t.numbers["L"], t.lam.max())])
    beta, lam, angle = (y.ravel() for y in np.meshgrid(betas, lams, angles))
    x = np.stack([size[0] + lam * size[1] * np.cos(angle), lam * size[1] * np.sin(angle)], -1)
    steps = np.eye(2) - (beta * size[0])[:, None, None] * x[:, :, None] * np.array([1.0, 0.0])
    decay = max(t.numbers["a_max"], np.abs(t.alpha).max())
    if t.d == 1:
        return float(decay * np.abs(steps[:, 0, 0]).max())
    A = steps[np.linalg.norm(steps, 2, axis=(-2, -1)).argmax()]
    left, _, right = np.linalg.svd(A)
    y = left[:, 0] - right[0]
    mirror = np.eye(2) - 2 * np.outer(y, y) / max(y @ y, 1e-300)
    return float(decay * np.sqrt(np.abs(np.linalg.eigvals(mirror @ A @ mirror @ A)).max()))


def _alignment(index: int) -> Callable[[Tokens], float]:
    """The alignment of a token of the cycle, at full feedback."""

    def measure(t: Tokens) -> float:
        k, q = (np.array(y, dtype=float)[:, 0] for y in closed_forms.cycle_tokens(sp.Float(t.numbers["L"]))[index])
        return float(k @ (k + t.numbers["L"] * q))

    return measure


def joint_spectral_radius() -> Proof:
    """JSR = a_max sqrt(1 + L^2), reached by a cycle of two tokens that contract the error perfectly (claim G8)."""
    p = Derivation(g8())
    top = closed_forms.norm_envelope(a_max, L)
    within_the_ranges(p)
    p.by(Fact.GROWTH, sp.Le(jsr, top), "From above", using=(sp.Le(norm, top),))
    product, relations = cycle(p)
    both = sp.Symbol(r"\rho(A_{1} A_{2})", real=True)
    p.equal(sp.Determinant(product), 0, "One eigenvalue of the two steps in the plane is zero")
    p.by(
        Fact.ROOTS,
        sp.Eq(both, sp.Trace(product)),
        "The other is their trace, and beyond the plane there is nothing larger",
        using=(PLANE, p.steps[-1].relation),
    )
    p.equal(both, top**2, "In closed form")
    using = (*relations, p.steps[-1].relation, sp.Ge(a_max, 0), sp.Ge(L, 0))
    p.by(Fact.GROWTH, sp.Ge(jsr, top), "From below, since both tokens are allowed", using=using)
    p.squeeze(jsr, top, "The two bounds meet")
    return p.proof()


def within_the_ranges(p: Derivation) -> None:
    """||A|| <= a_max sqrt(1 + L^2), and that a_max and L are not negative."""
    p.uses(g7(), 2, "for every such token")
    single, top = closed_forms.norm_envelope(alpha, lam), closed_forms.norm_envelope(a_max, L)
    slower, weaker = p.room(a_max - alpha), p.room(L - lam)
    p.at_least(a_max, 0, slower + alpha, "The range of the decay")
    p.at_least(L, 0, weaker + lam, "And that of the feedback")
    gap = slower * (a_max + alpha) * (1 + L**2) + alpha**2 * weaker * (L + lam)
    p.at_least(top, single, gap, "The bound is largest at the ends of the ranges", squared=True)
    p.chain(norm, single, top, reason="So for every token")


def cycle(p: Derivation) -> tuple[sp.Basic, list[sp.Basic]]:
    """Check what is said of the two tokens; returns A_1 A_2 and the relations that say that they are allowed."""
    tokens, steps, relations = closed_forms.cycle_tokens(L), [], []
    for i, (k, q) in enumerate(tokens, 1):
        key, query = sp.MatrixSymbol(f"k_{i}", 2, 1), sp.MatrixSymbol(f"q_{i}", 2, 1)
        p.let(key, k, "A key in the plane")
        p.let(query, q, "And its query")
        p.equal(sp.Tuple(sp.Trace(key * key.T), sp.Trace(query * query.T)), (1, 1), "Unit vectors")
        relations.append(p.steps[-1].relation)
        mixed, alignment = k + L * q, sp.Symbol(f"a_{i}", real=True)
        p.let(alignment, sp.Trace(key * key.T + L * query * key.T), "The alignment at full feedback")
        p.equal(alignment, 1, "It is one")
        p.equal(closed_forms.error_factor(1, alignment), 0, "So at full strength the mixed error is gone after it")
        transition = sp.MatrixSymbol(f"A_{i}", 2, 2)
        p.let(
            transition,
            closed_forms.transition(k, mixed, 1, a_max).applyfunc(sp.factor),
            "The transition at full strength",
        )
        steps.append(transition)
    return steps[0] * steps[1], relations
