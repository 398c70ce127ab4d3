"""Proofs on the mixed error v - S x: its one-step contraction, its tracking, and where the gates ensure both."""

from __future__ import annotations

import numpy as np
import sympy as sp

from . import closed_forms
from .claim import Claim, Conclusion
from .dense import MEASURES, length
from .engine import Derivation
from .notation import (
    BETA_HIGH,
    BETA_LOW,
    SHORT_KEY,
    SHORT_QUERY,
    a,
    alpha,
    beta,
    c,
    kappa,
    key_row,
    lam,
    qnorm,
    t,
    x,
)
from .proof import Fact, Proof

RECURRENCE = (
    r"of the memory $S$ whose token takes it to $\alpha S (I - \beta x k^\top) + \beta v k^\top$, with "
    r"$x = k + \lambda q$ and $a = k \cdot x$"
)
old, new, value = sp.symbols("S_{t-1} S_{t} v", commutative=False)
before, after, start, last = sp.symbols(r"\|\varepsilon_{t}\| \|e_{t}\| \|e_{0}\| \|e_{t-1}\|", nonnegative=True)
rho, drift = sp.symbols(r"\rho r", real=True)
change = sp.Symbol(r"\|r_{t}\|", nonnegative=True)


def g4() -> Claim:
    """What one token does to the mixed error."""
    factor = closed_forms.error_factor(beta, a)
    measures = {
        value: lambda t: t.v[0],
        old: lambda t: t.states[0],
        new: lambda t: t.states[1],
        alpha: lambda t: t.alpha[0],
        beta: lambda t: t.beta[0],
        a: lambda t: float(t.x[0] @ t.k[0]),
        x: lambda t: t.x[0],
    }
    return Claim(
        "G4",
        "One-step contraction of the mixed error",
        rf"<0>, so that the mixed error $v - S x$ shrinks exactly where it may, since <1>; {RECURRENCE}.",
        (
            Conclusion(sp.Eq(value - new * x, factor * (value - alpha * old * x))),
            Conclusion(
                sp.Equivalent(sp.Lt(sp.Abs(factor), 1), sp.And(sp.Gt(beta * a, 0), sp.Lt(beta * a, 2)), evaluate=False)
            ),
        ),
        r"any width of keys and of values",
        measures,
    )


def contraction() -> Proof:
    """v - S_t x = (1 - beta a)(v - alpha S_{t-1} x) (claim G4)."""
    p = Derivation(g4())
    step = closed_forms.transition(sp.Matrix([[key_row]]), sp.Matrix([[x]]), beta, alpha)[0, 0]
    p.let(new, old * step + beta * value * key_row, "The recurrence, in letters for vectors of any width")
    p.let(key_row * x, a, "The alignment")
    p.states(0, "What is left of the error")
    p.equivalent(1, beta * a, "A distance from one")
    return p.proof()


def g5() -> Claim:
    """How well the memory follows a moving target."""
    bound = closed_forms.tracking_bound(rho, drift, start, t)
    factor = sp.Abs(closed_forms.error_factor(beta, a))
    given = (sp.Le(factor, rho), sp.Le(change, drift), sp.Ne(rho, 1))
    measures = {
        alpha: lambda t: t.alpha[1:],
        beta: lambda t: t.beta[1:],
        a: lambda t: np.vecdot(t.k, t.x)[1:],
        after: lambda t: length(t.after[1:]),
        start: lambda t: length(t.after[0]),
        change: lambda t: length(t.before[1:] - t.after[:-1]),
        rho: lambda t: t.numbers["rho"],
        drift: lambda t: t.numbers["r"],
        t: lambda tokens: np.arange(1, len(tokens.k)),
    }
    return Claim(
        "G5",
        "Tracking of the mixed error",
        rf"<0> for the error $e_t$ after the write, $v_t - S_t x_t$, and the drift $r_t$ by which it differs from "
        rf"the next one before its write, $v_t - \alpha_t S_{{t-1}} x_t$; {RECURRENCE}. For $\rho$ below one all but "
        r"the drift is forgotten.",
        (Conclusion(sp.Le(after, bound), given),),
        "any width of keys and of values",
        measures,
    )


def tracking() -> Proof:
    """The mixed error stays bounded where its drift is (claim G5)."""
    p = Derivation(g5())
    factor = closed_forms.error_factor(beta, a)
    p.uses(g4(), 0, "one-step contraction")
    p.by(Fact.TRIANGLE, sp.Le(before, last + change), "The error before the write is the last one and the drift")
    p.by(
        Fact.HOMOGENEOUS, sp.Eq(after, sp.Abs(factor) * before), "The factor is a number", using=(p.steps[0].relation,)
    )
    rate = p.room(rho - sp.Abs(factor))
    p.at_least(rho, 0, rate + sp.Abs(factor), "A bound on what is not negative")
    p.at_least(
        rho * (last + drift),
        after,
        rate * before + rho * (p.room(last + change - before) + p.room(drift - change)),
        "One token",
    )
    bound = closed_forms.tracking_bound(rho, drift, start, t)
    stays_below(p, bound, factor=rho, gain=rho * drift, start=start, before=last, after=after)
    return p.proof()


def stays_below(
    p: Derivation,
    bound: sp.Expr,
    *,
    factor: sp.Symbol,
    gain: sp.Expr,
    start: sp.Symbol,
    before: sp.Symbol,
    after: sp.Symbol,
) -> None:
    """Prove y_t <= bound_t where y_0 is start and y_t <= factor y_{t-1} + gain is granted; before is y_{t-1}."""
    previous = sp.Symbol("B_{t-1}", real=True)
    p.equal(sp.Subs(bound, t, 0), start, "The bound holds at the start, with equality")
    first = p.steps[-1].relation
    p.equal(sp.Subs(bound, t, t + 1), factor * bound + gain, "It follows the same recursion, with equality")
    recursion = p.steps[-1].relation
    supposed = p.suppose(sp.Ge(previous, before), "Suppose that its value $B$ at the token before is one")
    p.at_least(
        factor * previous + gain,
        after,
        p.room(factor) * p.room(previous - before) + p.room(factor * before + gain - after),
        "Then so it is at the next",
    )
    p.induct(sp.Le(after, bound), "So it is one at every token", supposed, (first, recursion, p.steps[-1].relation))


def g6() -> Claim:
    """Where the gates keep beta a."""
    low, high, feedback = BETA_LOW, BETA_HIGH, sp.Ge(lam, 0)
    corner = (sp.Eq(kappa, 1), sp.Eq(qnorm, 1), sp.Eq(beta, 2), sp.Eq(lam, 2))
    doubled = (low, sp.Le(beta, 2), feedback, sp.Le(lam, 2), SHORT_QUERY)
    return Claim(
        "G6",
        "Alignment box",
        r"<0> and <1>; moreover <2>. With doubled gates there is no such box: <3> and <4>, both ends taken, <5> and "
        r"<6>. Here $a = k \cdot x$ for $x = k + \lambda q$, and $c$ is the cosine of $k$ and $q$.",
        (
            Conclusion(sp.Le(beta * a, 2), (low, high, feedback, sp.Le(lam, 1), SHORT_QUERY, SHORT_KEY)),
            Conclusion(sp.Ge(beta * a, -beta * (lam * qnorm) ** 2 / 4), (low,)),
            Conclusion(sp.Ge(beta * a, 0), (low, feedback, sp.Ge(kappa, lam * qnorm))),
            Conclusion(sp.Le(beta * a, 6), (*doubled, SHORT_KEY)),
            Conclusion(sp.Ge(beta * a, -2), doubled),
            Conclusion(sp.Eq(beta * a, 6), (*corner, sp.Eq(c, 1))),
            Conclusion(sp.Eq(beta * a, -2), (*corner, sp.Eq(c, -1))),
        ),
        "any dimension, by inner products",
        MEASURES,
    )


def alignment_box() -> Proof:
    """Keys and queries no longer than 1 with beta, lam in [0, 1] keep beta a at most 2 (claim G6)."""
    p = Derivation(g6())
    p.let(a, closed_forms.alignment(lam, c, kappa, qnorm), "The alignment")
    p.by(Fact.CAUCHY_SCHWARZ, sp.Le(c, 1), "A cosine")
    p.by(Fact.CAUCHY_SCHWARZ, sp.Ge(c, -1), "And from below")
    key, query, same, opposite = p.room(1 - kappa), p.room(1 - qnorm), p.room(1 - c), p.room(1 + c)
    # 1 - ||k|| ||q|| c
    apart = key + kappa * query + kappa * qnorm * same
    rest = beta * (key * (1 + kappa) + lam * apart)
    p.states(0, "The upper end", 2 * p.room(1 - beta) + beta * p.room(1 - lam) + rest)
    across = (lam * qnorm) ** 2 * same * opposite / 4
    p.states(1, "The lower end", beta * ((kappa + lam * qnorm * c / 2) ** 2 + across))
    feedback = p.room(kappa - lam * qnorm)
    p.states(2, "Where the key is the longer part", beta * kappa * (feedback + lam * qnorm * opposite))
    strength, doubled = p.room(2 - beta), p.room(2 - lam)
    p.states(3, "The upper end of doubled gates", 3 * strength + beta * doubled + rest)
    p.states(
        4,
        "And their lower end",
        p.room(beta * a + beta * (lam * qnorm) ** 2 / 4)
        + strength
        + beta * (doubled * (2 + lam) + lam**2 * query * (1 + qnorm)) / 4,
    )
    for index in (5, 6):
        p.states(index, "An end that is taken", at=p.claim.conclusions[index].given)
    p.by(Fact.INTERMEDIATE, sp.Contains(beta * a, sp.Interval(-2, 6)), "So is every value between them")
    return p.proof()
