"""Proofs on products of transitions: the norm envelope, and the joint spectral radius that reaches it."""

from __future__ import annotations

import sympy as sp

from . import closed_forms
from .notation import UNIT, L, a_max, alpha, beta, c, dot, lam, tex, vector, z
from .proof import Derivation, Fact, Proof
from .spectrum import TRANSITION, characteristic


def norm_envelope() -> Proof:
    """||A|| <= alpha sqrt(1 + lam^2), a bound that is reached (claim G7)."""
    envelope = closed_forms.norm_envelope(1, lam)
    p = Derivation(
        "G7",
        "Norm envelope",
        rf"$\|A\| \le {tex(closed_forms.norm_envelope(alpha, lam))}$, with equality at $\beta = 1$, $q \perp k$; "
        rf"{TRANSITION}.",
        hypotheses=(UNIT, r"$\beta \in [0, 1]$", r"$\alpha > 0$", r"$\lambda \ge 0$"),
        dimension="any d >= 2; the parallelogram law written out for d = 2, 3",
    )
    u, w = _chord(p)
    _at_the_ends(p, u, w)
    p.nonnegative(
        envelope - (1 - beta) - beta * envelope,
        p.room(1 - beta) * lam**2 / (1 + envelope),
        "And the chord between $1$ and that lies below its upper end",
    )
    p.equal(
        closed_forms.operator_norm(alpha, 1, 1, 1, lam),
        closed_forms.norm_envelope(alpha, lam),
        r"Reached at $\beta = 1$, $q \perp k$: $x_\parallel = 1$, $x_\perp = \lambda$",
        shown=r"\|A\|",
    )
    return p.proof()


def _chord(p: Derivation) -> tuple[sp.Symbol, sp.Symbol]:
    """Bound s+ by its chord; returns ||k - lam q|| and ||k + lam q||."""
    k, q = sp.symbols("k q")
    x = k + lam * q
    u, w = sp.symbols("u w", nonnegative=True)
    p.uses("G3", r"\|A\| = \frac{\alpha}{2} (\|2 k - \beta x\| + \|\beta x\|)", "for unit $k$")
    p.equal(
        2 * k - beta * x,
        (1 - beta) * 2 * k + beta * (k - lam * q),
        "The first vector moves along a segment",
        shown=r"2 k - \beta x",
        shown_right=r"(1 - \beta)\, 2 k + \beta (k - \lambda q)",
    )
    p.by(Fact.CHORD, r"\|2 k - \beta x\| \le 2 (1 - \beta) + \beta \|k - \lambda q\|", r"Here $\|k\| = 1$")
    p.equal(
        (2 * (1 - beta) + beta * u + beta * w) / 2,
        (1 - beta) + beta * (u + w) / 2,
        r"So $s_+ = \|A\| / \alpha$ is below its chord, with $u = \|k - \lambda q\|$, $w = \|x\| = \|k + \lambda q\|$",
        shown=r"s_+ \le \tfrac{1}{2} \left(2 (1 - \beta) + \beta u + \beta w\right)",
    )
    return u, w


def _at_the_ends(p: Derivation, u: sp.Symbol, w: sp.Symbol) -> None:
    """Bound (u + w) / 2, the chord's upper end."""
    p.equal(
        (1 - 2 * lam * c + lam**2) + (1 + 2 * lam * c + lam**2),
        2 * closed_forms.norm_envelope(1, lam) ** 2,
        "Parallelogram law, for unit vectors with $k \\cdot q = c$",
        shown=r"u^2 + w^2 = \|k - \lambda q\|^2 + \|k + \lambda q\|^2",
    )
    for size in (2, 3):
        key, query = vector("k", size), vector("q", size)
        minus, plus = key - lam * query, key + lam * query
        p.equal(
            dot(minus, minus) + dot(plus, plus),
            2 * (dot(key, key) + lam**2 * dot(query, query)),
            f"The law with all entries, $d = {size}$",
            shown=r"\|k - \lambda q\|^2 + \|k + \lambda q\|^2",
            shown_right=r"2 (\|k\|^2 + \lambda^2 \|q\|^2)",
        )
    p.nonnegative(
        (u**2 + w**2) / 2 - ((u + w) / 2) ** 2,
        ((u - w) / 2) ** 2,
        r"A mean is at most the root mean square, here $\sqrt{1 + \lambda^2}$",
    )


def joint_spectral_radius() -> Proof:
    """JSR = a_max sqrt(1 + L^2), reached by a cycle of two tokens that contract the error perfectly (claim G8)."""
    radius = closed_forms.norm_envelope(a_max, L)
    p = Derivation(
        "G8",
        "Joint spectral radius",
        rf"Over all sequences of such tokens $\mathrm{{JSR}} = {tex(radius)}$: along a cycle of two tokens with "
        rf"$\beta a = 1$ at both, where the mixed error contracts to $0$ at once, the memory grows by this factor per "
        rf"token; {TRANSITION}.",
        hypotheses=(UNIT, r"$\beta \in [0, 1]$", r"$\lambda \in [0, L]$", r"$\alpha \in [0, \alpha_{\max}]$"),
        dimension="any d >= 2, by a cycle in a plane; written out for d = 2, 3",
    )
    p.uses("G7", r"\|A\| \le \alpha \sqrt{1 + \lambda^2}", "for every such token")
    p.nonnegative(
        radius**2 - closed_forms.norm_envelope(alpha, lam) ** 2,
        p.room(a_max - alpha) * (a_max + alpha) * (1 + L**2) + alpha**2 * p.room(L - lam) * (L + lam),
        r"The bound is largest at the ends of the ranges (at $\alpha = 0$ there is nothing to show)",
    )
    p.by(Fact.GROWTH, rf"\mathrm{{JSR}} \le {tex(radius)}", "The upper bound")
    A1, A2 = _cycle(p)
    product = A1 * A2 * a_max**2
    p.equal(product.det(), 0, r"One eigenvalue of the product is $0$", shown=r"\det(A_1 A_2)")
    p.equal(product.trace(), radius**2, "So the other is its trace", shown=r"\mathrm{tr}(A_1 A_2)")
    wide = sp.diag(A1 * A2, 1)
    p.equal(
        characteristic(wide),
        z * (z - 1) * (z - (1 + L**2)),
        r"In $d = 3$, $\alpha = 1$: $1$ beyond the plane",
        shown=r"\det(z I - A_1 A_2)",
    )
    p.by(Fact.GROWTH, r"\mathrm{JSR} \ge \rho(A_1 A_2)^{1/2}", "The lower bound")
    p.equal(sp.sqrt(sp.factor(product.trace())), radius, "And the two bounds meet", shown=r"\rho(A_1 A_2)^{1/2}")
    return p.proof()


def _cycle(p: Derivation) -> tuple[sp.Matrix, sp.Matrix]:
    """Check what is said of the two tokens, and return their transitions without decay."""
    tokens = closed_forms.cycle_tokens(L)
    (k1, q1), (k2, q2) = tokens
    p.equal(
        [dot(y, y) for y in (k1, q1, k2, q2)],
        [1, 1, 1, 1],
        "Four unit vectors in a plane",
        shown=rf"k_1 = {tex(k1)}, q_1 = {tex(q1)}, k_2 = {tex(k2)}, q_2 = {tex(q2)}: \quad \|\cdot\|^2",
        shown_right="1",
    )
    r = closed_forms.norm_envelope(1, L)
    p.equal(r * q2, q1 - L * k1, "The second query", shown=r"\sqrt{1 + L^2}\, q_2", shown_right="q_1 - L k_1")
    p.equal(
        q2 - L * k2,
        r * q1,
        "And the second key are chosen for this",
        shown="q_2 - L k_2",
        shown_right=r"\sqrt{1 + L^2}\, q_1",
    )
    transitions = []
    for i, (k, q) in enumerate(tokens, 1):
        x = k + L * q
        p.equal(
            closed_forms.error_factor(1, dot(k, x)),
            0,
            r"$\beta = 1$, $\lambda = L$ give $\beta a = 1$: the mixed error after the token is $0$",
            shown=rf"1 - \beta_{i} a_{i}",
        )
        transitions.append(closed_forms.transition(k, x, 1))
    return transitions[0], transitions[1]
