"""Proofs on the memory: the bound that decay buys, and what it costs to grow no more."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import sympy as sp

from . import closed_forms
from .claim import Claim, Conclusion
from .dense import MEASURES, Tokens, length
from .engine import Derivation
from .envelope import TOKENS, g7, within_the_ranges
from .mixed_error import RECURRENCE, stays_below
from .notation import (
    BETA_LOW,
    DECAYS,
    PLANE,
    SHORT_KEY,
    SHORT_QUERY,
    L,
    a_max,
    across,
    along,
    alpha,
    beta,
    kappa,
    lam,
    norm,
    t,
)
from .proof import Fact, Proof
from .spectrum import g3, larger

gamma, b, part, write, delta = sp.symbols(r"\gamma b c_{n} w \delta", real=True)
after, before, start, value = sp.symbols(r"\|S_{t}\|_F \|S_{t-1}\|_F \|S_{0}\|_F \|v\|", nonnegative=True)
following = sp.Symbol("c_{n+1}", real=True)
paid = sp.Symbol(r"\|A'\|", real=True)
WRITES = sp.Le(beta * value, b)
_TOP = closed_forms.norm_envelope(a_max, L)
_RATE = sp.Ge(gamma, _TOP)
_MEASURES = MEASURES | {
    after: lambda tokens: np.linalg.norm(tokens.states[1:], axis=(-2, -1)),
    start: lambda tokens: float(np.linalg.norm(tokens.S)),
    value: lambda tokens: length(tokens.v),
    t: lambda tokens: np.arange(1, len(tokens.k) + 1),
    **{symbol: lambda tokens, name=name: tokens.numbers[name] for symbol, name in ((gamma, "gamma"), (b, "b"))},
    part: lambda tokens: tokens.numbers["part"],
    write: lambda tokens: tokens.numbers["written"] * _seen(tokens.numbers["L"]),
}


def g9() -> Claim:
    """What decay makes of the memory, and what it may do without enough of it."""
    given = (PLANE, *TOKENS, WRITES, _RATE)
    limit = gamma**t * start + b / (1 - gamma)
    return Claim(
        "G9",
        "Uniform bound on the memory",
        rf"<0> and <1>. The threshold is sharp: along the two-token cycle of claim G8 the part $c_n$ of the memory "
        rf"along one direction obeys <2> with $w$ what each cycle writes, so for positive $w$ it has no bound. "
        rf"This is {RECURRENCE}.",
        (
            Conclusion(sp.Le(after, closed_forms.memory_bound(gamma, b, start, t)), (*given, sp.Ne(gamma, 1))),
            Conclusion(sp.Le(after, limit), (*given, sp.Lt(gamma, 1))),
            Conclusion(sp.Ge(following, part + write), (sp.Ge(part, 0), sp.Ge(_TOP, 1))),
        ),
        "any dimension from two on, any width of values",
        _MEASURES | {following: _next_part},
    )


def _seen(L: float) -> float:
    """The part along u = (0, -1) of the cycle's second key: what is written along u of a value."""
    return L / np.sqrt(1 + L**2)


def _next_part(tokens: Tokens) -> float:
    """(S u)_1 after two tokens of the cycle, when the memory was c_n u^T before and the second has a value."""
    size = tokens.numbers["L"]
    root = np.sqrt(1 + size**2)
    (k1, q1), (k2, q2) = ([1, 0], [0, 1]), (np.array([-1, -size]) / root, np.array([-size, 1]) / root)
    u = np.array([0, -1.0])
    k, q = np.array([k1, k2], dtype=float), np.array([q1, q2], dtype=float)
    v = np.array([[0.0], [tokens.numbers["written"]]])
    gates = {"beta": np.ones(2), "lam": np.full(2, size), "alpha": np.full(2, tokens.numbers["a_max"])}
    two = replace(tokens, k=k, q=q, v=v, S=tokens.numbers["part"] * u[None], **gates)
    return float(two.states[-1][0] @ u)


def memory_bound() -> Proof:
    """The memory is bounded where gamma >= a_max sqrt(1 + L^2) is below 1, and need not be beyond (claim G9)."""
    p = Derivation(g9())
    within_the_ranges(p)
    p.chain(norm, _TOP, gamma, reason="The rate")
    p.at_least(gamma, 0, p.room(gamma - _TOP) + p.room(a_max) * sp.sqrt(1 + L**2), "It is not negative")
    _expansion(p)
    p.by(
        Fact.RANK_ONE, sp.Le(after, before * norm + beta * value * kappa), "With submultiplicativity", using=(BETA_LOW,)
    )
    written = p.room(b - beta * value) + beta * value * p.room(1 - kappa)
    p.at_least(
        gamma * before + b,
        after,
        p.room(gamma - norm) * before + written + p.room(before * norm + beta * value * kappa - after),
        "One token",
    )
    bound = closed_forms.memory_bound(gamma, b, start, t)
    stays_below(p, bound, factor=gamma, gain=b, start=start, before=before, after=after)
    p.at_least(b, 0, p.room(b - beta * value) + beta * value, "What is written at most")
    below = p.room(1 - gamma, positive=True)
    limit = p.claim.conclusions[1].relation.rhs
    p.at_least(limit, bound, p.room(b) * p.room(gamma) ** t / below, "The bound is at most its limit form")
    p.chain(after, bound, limit, reason="So is the memory", without=(sp.Ne(gamma, 1),))
    _unbounded(p)
    return p.proof()


def _expansion(p: Derivation) -> None:
    """What the memory is after any number of tokens, by induction: the decayed first one, and every write since."""
    names = r"S_{t-1} S_{0} P_{t-1} W_{t-1} A_{t} v_{t} k_{t}^{\top}"
    state, first, product, writes, step, v, k = sp.symbols(names, commutative=False)
    form = sp.Eq(state, first * product + writes)
    p.suppose(
        form,
        r"Suppose that before a token the memory is the first one times the product $P$ of all transitions, and the "
        r"writes so far, each times the transitions after it",
    )
    p.equal(
        (first * product + writes) * step + beta * v * k,
        first * (product * step) + (writes * step + beta * v * k),
        "Then so it is after the token: the product has one more factor, and so has every write but the new one",
    )


def _unbounded(p: Derivation) -> None:
    (k1, q1), (k2, q2) = closed_forms.cycle_tokens(L)
    two = sp.MatrixSymbol("A_{12}", 2, 2)
    steps = [closed_forms.transition(k, k + L * q, 1, a_max) for k, q in ((k1, q1), (k2, q2))]
    u = sp.Matrix([0, -1])
    p.let(
        two,
        (steps[0] * steps[1]).applyfunc(sp.factor),
        "Both steps of the cycle, at full strength and the largest gates",
    )
    p.equal(two * u, _TOP**2 * u, "This direction is kept")
    p.equal(
        sp.Trace(k2 * u.T), L / sp.sqrt(1 + L**2), "And the second key has this part along it, through which it writes"
    )
    p.let(following, _TOP**2 * part + write, "So each cycle takes the part of the memory along it to this")
    p.at_least(_TOP**2, 1, p.room(_TOP - 1) ** 2 + 2 * p.room(_TOP - 1), "Without enough decay")
    p.states(2, "It grows without end", p.room(_TOP**2 - 1) * part)


def g14() -> Claim:
    """The least decay that pays for query feedback."""
    least = closed_forms.compensated_decay(alpha, larger)
    given = (PLANE, DECAYS)
    memory = (sp.Le(alpha, a_max), SHORT_KEY, BETA_LOW, WRITES, sp.Ne(a_max, 1))
    price = closed_forms.compensation_price(beta, lam)
    return Claim(
        "G14",
        "The price of query feedback",
        rf"With $s_+$ the norm of a step but for its decay, the compensated decay makes <0>, and no decay that does "
        rf"is larger: <1>. The memory then has the bounds of Gated DeltaNet, <2>. The price per token, in further "
        rf"decay, is <3>. This is {RECURRENCE}.",
        (
            Conclusion(sp.Eq(paid, alpha), given),
            Conclusion(sp.Le(delta, least), (PLANE, sp.Le(delta * larger, alpha))),
            Conclusion(sp.Le(after, closed_forms.memory_bound(a_max, b, start, t)), (*given, *memory)),
            Conclusion(sp.Le(sp.log(larger), price), (PLANE, BETA_LOW, sp.Lt(beta, 2), SHORT_KEY, SHORT_QUERY)),
        ),
        "any dimension from two on, any width of values",
        _MEASURES
        | {
            larger: lambda tokens: np.linalg.norm(tokens.steps, 2, axis=(-2, -1)),
            paid: lambda tokens: np.linalg.norm(_compensated(tokens).A, 2, axis=(-2, -1)),
            after: lambda tokens: np.linalg.norm(_compensated(tokens).states[1:], axis=(-2, -1)),
            delta: lambda tokens: tokens.numbers["delta"],
        },
    )


def _compensated(tokens: Tokens) -> Tokens:
    return replace(tokens, alpha=tokens.alpha / np.linalg.svd(tokens.steps, compute_uv=False)[:, 0])


def compensated_decay() -> Proof:
    """The decay g - log s+ makes the norm alpha exactly, and is the least that does (claim G14)."""
    p = Derivation(g14())
    least = closed_forms.compensated_decay(alpha, larger)
    p.uses(g3(), 5, "no step is below its decay")
    p.at_least(larger, 0, p.room(larger - 1) + 1, "So one may divide by it", strict=True)
    p.by(
        Fact.HOMOGENEOUS,
        sp.Eq(paid, sp.Abs(least) * larger),
        "The norm of a matrix with another factor",
        using=(PLANE,),
    )
    p.states(0, "What is left is the decay")
    p.states(1, "The largest such decay", p.room(alpha - delta * larger) / p.room(larger, positive=True))
    p.by(
        Fact.RANK_ONE, sp.Le(after, before * paid + beta * value * kappa), "With submultiplicativity", using=(BETA_LOW,)
    )
    p.at_least(a_max, 0, p.room(a_max - alpha) + alpha, "The range of the decay")
    written = p.room(b - beta * value) + beta * value * p.room(1 - kappa)
    p.at_least(
        a_max * before + b,
        after,
        p.room(a_max - alpha) * before + written + p.room(before * paid + beta * value * kappa - after),
        "One token",
    )
    bound = closed_forms.memory_bound(a_max, b, start, t)
    stays_below(p, bound, factor=a_max, gain=b, start=start, before=before, after=after)
    p.uses(g7(), 1, "without decay", at={alpha: 1, norm: larger})
    sharp, room = closed_forms.largest_norm(1, beta, lam), p.room(2 - beta, positive=True)
    top = 1 + lam**2 * beta / room
    p.at_least(sharp**2, 0, top, "What stands below the root")
    p.at_least(sharp**2, larger**2, p.room(sharp - larger) * (p.room(larger, positive=True) + sharp), "Their squares")
    p.by(Fact.LOGARITHM, sp.Le(sp.log(larger**2), larger**2 - 1), using=(sp.Gt(larger, 0),))
    gap = p.room(larger**2 - 1 - sp.log(larger**2)) + p.room(sharp**2 - larger**2)
    p.states(3, "So this is the most that is to be paid", gap / 2)
    _paid_by_orthogonal_vectors(p)
    return p.proof()


def _paid_by_orthogonal_vectors(p: Derivation) -> None:
    """The price is what orthogonal unit vectors do cost, to third order in lam."""
    s, room = sp.Symbol("s_0", real=True), p.room(2 - beta, positive=True)
    p.uses(g3(), 2, "for orthogonal unit $k$ and $q$", at={alpha: 1, kappa: 1, along: 1, across: lam, norm: s})
    written = (beta * sp.sqrt(1 + lam**2) + sp.sqrt((2 - beta) ** 2 + beta**2 * lam**2)) / 2
    p.equal(s, written, "Without what is common below the first root")
    p.equal(sp.Subs(written, lam, 0), 1, "Nothing is to be paid without feedback", room=room)
    p.equal(sp.Subs(written, lam, -lam), written, "The sign of the feedback does not matter")
    second = sp.Subs(sp.Derivative(sp.log(written), (lam, 2)), lam, 0)
    p.equal(second * lam**2 / 2, closed_forms.compensation_price(beta, lam), "So the price begins as stated", room=room)
