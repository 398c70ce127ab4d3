"""Proofs on products of transitions: the norm envelope, and the joint spectral radius that reaches it."""

from __future__ import annotations

import sympy as sp

from . import closed_forms
from .notation import UNIT, L, a_max, alpha, beta, c, dot, lam, tex, vector, z
from .proof import Derivation, Fact, Proof
from .spectrum import TRANSITION, characteristic


def norm_envelope() -> Proof:
    """||A|| <= alpha sqrt(1 + lam^2 beta / (2 - beta)) <= alpha sqrt(1 + lam^2), bounds that are reached (claim G7)."""
    largest, envelope = closed_forms.largest_norm(1, beta, lam), closed_forms.norm_envelope(1, lam)
    p = Derivation(
        "G7",
        "Norm envelope",
        rf"$\|A\| \le {tex(closed_forms.largest_norm(alpha, beta, lam))}$ for every $\beta < 2$, with equality if "
        rf"and only if $c = {tex(closed_forms.worst_cosine(beta, lam))}$ or $\beta \lambda = 0$. For $\beta \le 1$ "
        rf"hence $\|A\| \le {tex(closed_forms.norm_envelope(alpha, lam))}$, with equality for "
        rf"$\lambda > 0$ only at $\beta = 1$, $q \perp k$; {TRANSITION}.",
        hypotheses=(UNIT + r", $c = k \cdot q$", r"$\beta \in [0, 2)$", r"$\alpha > 0$", r"$\lambda \ge 0$"),
        dimension="any d >= 2; the two lengths written out for d = 2, 3",
    )
    n, r = _lengths(p)
    p.equal(
        (beta * _square_n() + _square_r() / (2 - beta)) / 2,
        largest**2,
        r"Weighed like this the two squares no longer depend on the angle",
        shown=r"\tfrac{1}{2} \left(\beta n^2 + \frac{r^2}{2 - \beta}\right)",
    )
    room, gap = p.room(2 - beta, positive=True), p.room((2 - beta) * n - r, real=True)
    p.nonnegative(
        (beta * n**2 + r**2 / (2 - beta)) / 2 - ((r + beta * n) / 2) ** 2,
        beta * gap**2 / (4 * room),
        "And $s_+^2 = (r + \\beta n)^2 / 4$ is never above that",
        shown=rf"{tex(largest**2)} - s_+^2",
    )
    p.equal(
        (2 - beta) ** 2 * _square_n() - _square_r(),
        4 * lam * (2 - beta) * (c - closed_forms.worst_cosine(beta, lam)),
        "And equal to it where $(2 - \\beta) n = r$, so where the squares agree, unless $\\beta = 0$",
        shown=r"(2 - \beta)^2 n^2 - r^2",
    )
    _up_to_one(p, envelope)
    return p.proof()


def _square_n() -> sp.Expr:
    """n^2 = ||x||^2 for unit vectors."""
    return 1 + 2 * lam * c + lam**2


def _square_r() -> sp.Expr:
    """r^2 = ||2 k - beta x||^2 for unit vectors."""
    return 4 - 4 * beta * closed_forms.unit_alignment(lam, c) + beta**2 * _square_n()


def _lengths(p: Derivation) -> tuple[sp.Symbol, sp.Symbol]:
    """State the two lengths whose half sum is s+; returns n = ||x|| and r = ||2 k - beta x||."""
    n, r = sp.symbols("n r", nonnegative=True)
    p.uses(
        "G3",
        r"s_+ = \|A\| / \alpha = \tfrac{1}{2} (r + \beta n), \quad r = \|2 k - \beta x\|,\ n = \|x\|",
        "for unit $k$",
    )
    kk, kq, qq = sp.symbols(r"\|k\|^2 k\cdot{q} \|q\|^2")
    squares = lambda kk, kq, qq: [
        kk + 2 * lam * kq + lam**2 * qq,
        4 * kk - 4 * beta * (kk + lam * kq) + beta**2 * (kk + 2 * lam * kq + lam**2 * qq),
    ]
    p.equal(
        [y.subs({kk: 1, kq: c, qq: 1}) for y in squares(kk, kq, qq)],
        [_square_n(), _square_r()],
        "For unit vectors, by bilinearity",
        shown=rf"n^2 = {tex(_square_n())}, \quad r^2",
        shown_right=r"4 - 4 \beta (1 + \lambda c) + \beta^2 n^2",
    )
    for size in (2, 3):
        key, query = vector("k", size), vector("q", size)
        x = key + lam * query
        p.equal(
            [dot(y, y) for y in (x, 2 * key - beta * x)],
            squares(dot(key, key), dot(key, query), dot(query, query)),
            f"The same with all entries and any lengths, $d = {size}$",
            shown=r"n^2 = \|k\|^2 + 2 \lambda k \cdot q + \lambda^2 \|q\|^2, \quad r^2",
            shown_right=r"4 \|k\|^2 - 4 \beta (\|k\|^2 + \lambda k \cdot q) + \beta^2 n^2",
        )
    return n, r


def _up_to_one(p: Derivation, envelope: sp.Expr) -> None:
    """From the bound for each beta to the one for all beta <= 1."""
    strength, feedback = p.room(1 - beta), p.room(1 - lam)
    p.nonnegative(
        1 - closed_forms.worst_cosine(beta, lam) ** 2,
        (1 + strength * (1 + lam)) * (1 + strength * feedback) / p.room(2 - beta, positive=True) ** 2,
        r"There is such an angle whenever $\beta, \lambda \le 1$, so the bound is the maximum over unit $q, k$",
        shown=r"1 - c^2",
    )
    p.nonnegative(
        envelope**2 - closed_forms.largest_norm(1, beta, lam) ** 2,
        2 * lam**2 * strength / p.room(2 - beta, positive=True),
        r"For $\beta \le 1$ it is at most the envelope, and below it for $\beta < 1$, $\lambda > 0$",
        shown=rf"{tex(envelope**2)} - \left({tex(closed_forms.largest_norm(1, beta, lam) ** 2)}\right)",
    )
    p.equal(
        closed_forms.operator_norm(alpha, 1, 1, 1, lam),
        closed_forms.norm_envelope(alpha, lam),
        r"Reached at $\beta = 1$, $q \perp k$: $x_\parallel = 1$, $x_\perp = \lambda$",
        shown=r"\|A\|",
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
