"""Proofs on the mixed error v - S x: its one-step contraction, its tracking, and where the gates ensure both."""

from __future__ import annotations

import sympy as sp

from . import closed_forms
from .notation import a, alpha, beta, c, dot, lam, t, tex, vector, z
from .proof import Derivation, Fact, Proof

RECURRENCE = (
    r"$S_t = \alpha_t S_{t-1} (I - \beta_t x_t k_t^\top) + \beta_t v_t k_t^\top$, $x_t = k_t + \lambda_t q_t$, "
    r"$a_t = k_t \cdot x_t$"
)


def contraction() -> Proof:
    """v - S_t x = (1 - beta a)(v - alpha S_{t-1} x) (claim G4)."""
    p = Derivation(
        "G4",
        "One-step contraction of the mixed error",
        rf"$v_t - S_t x_t = (1 - \beta_t a_t) (v_t - \alpha_t S_{{t-1}} x_t)$ for "
        rf"{RECURRENCE}; the error shrinks if and only if $\beta_t a_t \in (0, 2)$.",
        hypotheses=(r"$\alpha_t > 0$", r"any $\beta_t, \lambda_t, k_t, q_t, v_t, S_{t-1}$"),
        dimension="any d >= 1 and any width of $v$; written out for d = 2, 3",
    )
    v, Sx = sp.symbols("v Sx")
    after = alpha * Sx - alpha * beta * a * Sx + beta * a * v
    factor = closed_forms.error_factor(beta, a)
    p.equal(
        v - after,
        factor * (v - alpha * Sx),
        r"$S_t x = \alpha S x - \alpha \beta (S x) (k^\top x) + \beta v (k^\top x)$ with $k^\top x = a$, $S = S_{t-1}$",
        shown="v - S_t x",
        shown_right=r"(1 - \beta a) (v - \alpha S x)",
    )
    for size in (2, 3):
        k, q, values = vector("k", size), vector("q", size), vector("v", 2)
        S = sp.Matrix(2, size, sp.symbols(f"S_1:{2 * size + 1}", real=True))
        x = k + lam * q
        new = S * closed_forms.transition(k, x, beta, alpha) + beta * values * k.T
        p.equal(
            values - new * x,
            (values - alpha * S * x) * factor.subs(a, dot(k, x)),
            f"Written out with all entries for $d = {size}$ and two values",
            shown="v - S_t x",
            shown_right=r"(1 - \beta\, k \cdot x) (v - \alpha S x)",
        )
    p.equal(1 - (1 - z) ** 2, z * (2 - z), r"With $z = \beta a$, $|1 - z| < 1$ where this is positive")
    inside = sp.solve_univariate_inequality(z * (2 - z) > 0, z, relational=False)
    p.holds(
        sp.Eq(inside, sp.Interval.open(0, 2)), r"z (2 - z) > 0 \iff z \in (0, 2)", "A parabola that opens downwards"
    )
    return p.proof()


def tracking() -> Proof:
    """The mixed error stays bounded where its drift does (claim G5)."""
    rho, drift, e0, before = sp.symbols(r"\rho r \|e_{0}\| \|e_{t-1}\|", nonnegative=True)
    bound = closed_forms.tracking_bound(rho, drift, e0, t)
    p = Derivation(
        "G5",
        "Tracking of the mixed error",
        rf"$\|e_t\| \le {tex(bound)}$ for the error $e_t = v_t - S_t x_t$ and the drift "
        rf"$r_t = \varepsilon_t - e_{{t-1}}$, $\varepsilon_t = v_t - \alpha_t S_{{t-1}} x_t$; {RECURRENCE}.",
        hypotheses=(r"$\rho = \sup_t |1 - \beta_t a_t| < 1$", r"$r = \sup_t \|r_t\| < \infty$"),
        dimension="any d >= 1 and any width of $v$",
    )
    e, eps = sp.symbols(r"e_{t-1} \varepsilon_t")
    factor = closed_forms.error_factor(beta, a)
    p.uses("G4", r"e_t = (1 - \beta_t a_t)\, \varepsilon_t", "one-step contraction")
    p.equal(
        factor * eps,
        factor * (e + (eps - e)),
        r"In terms of the drift",
        shown=r"e_t = (1 - \beta_t a_t)\, \varepsilon_t",
        shown_right=r"(1 - \beta_t a_t) (e_{t-1} + r_t)",
    )
    p.by(Fact.TRIANGLE, r"\|e_t\| \le \rho (\|e_{t-1}\| + r)")
    stays_below(p, bound, factor=rho, gain=rho * drift, start=e0, before=before)
    p.nonnegative(
        rho**t * e0 + rho * drift / (1 - rho) - bound,
        rho ** (t + 1) * drift / p.room(1 - rho, positive=True),
        r"In the long run only the drift is left, $\rho r / (1 - \rho)$",
        shown=r"\rho^t \|e_0\| + \frac{\rho r}{1 - \rho} - B_t",
    )
    return p.proof()


def stays_below(
    p: Derivation, bound: sp.Expr, *, factor: sp.Symbol, gain: sp.Expr, start: sp.Symbol, before: sp.Symbol
) -> None:
    """Prove that y_t <= factor y_{t-1} + gain keeps y_t below the bound B_t, if y_0 = start; before is y_{t-1}."""
    B = sp.Symbol("B_{t-1}", nonnegative=True)
    p.equal(bound.subs(t, 0), start, "The bound $B_t$ holds at the start", shown="B_0")
    p.equal(
        bound.subs(t, t + 1),
        factor * bound + gain,
        "It follows the same recursion, with equality",
        shown="B_{t+1}",
        shown_right=rf"{tex(factor)} B_t + {tex(gain)}",
    )
    p.nonnegative(
        (factor * B + gain) - (factor * before + gain),
        factor * p.room(B - before),
        "So it stays above",
        shown=rf"B_t - ({tex(factor)} {tex(before)} + {tex(gain)})",
    )
    p.by(Fact.INDUCTION, rf"{tex(before).replace('t-1', 't')} \le B_t \text{{ for all }} t")


def alignment_box() -> Proof:
    """Unit q and k with beta, lam in [0, 1] keep beta a in [0, 2]; doubled gates do not (claim G6)."""
    p = Derivation(
        "G6",
        "Alignment box",
        r"$\beta a \in [0, 2]$, hence $|1 - \beta a| \le 1$; the open interval fails only at $\beta = 0$, at "
        r"$\lambda = 1, q = -k$, and at $\beta = \lambda = 1, q = k$. With doubled gates, $\beta, \lambda \in [0, 2]$, "
        r"$\beta a$ takes all values in $[-2, 6]$ and $1 - \beta a$ all values in $[-5, 3]$; "
        r"$a = k \cdot x$, $x = k + \lambda q$.",
        hypotheses=(r"$\|q\| = \|k\| = 1$, $c = q \cdot k \in [-1, 1]$", r"$\beta, \lambda \in [0, 1]$"),
        dimension="any d >= 1 (all values between: d >= 2); the alignment written out for d = 2, 3",
    )
    strength, feedback, same, opposite = p.room(1 - beta), p.room(1 - lam), p.room(1 - c), p.room(1 + c)
    kk, kq = sp.symbols(r"\|k\|^2 k\cdot{q}")
    aligned = closed_forms.unit_alignment(lam, c)
    p.equal((kk + lam * kq).subs({kk: 1, kq: c}), aligned, "For unit vectors", shown=r"a = \|k\|^2 + \lambda k \cdot q")
    for size in (2, 3):
        k, q = vector("k", size), vector("q", size)
        p.equal(
            dot(k, k + lam * q),
            dot(k, k) + lam * dot(k, q),
            f"The alignment with all entries, $d = {size}$",
            shown=r"k \cdot (k + \lambda q)",
            shown_right=r"\|k\|^2 + \lambda k \cdot q",
        )
    below, above = beta * (feedback + lam * opposite), 2 * strength + beta * feedback + beta * lam * same
    p.nonnegative(beta * aligned, below, "The lower end", shown=r"\beta a")
    p.nonnegative(2 - beta * aligned, above, "The upper end", shown=r"2 - \beta a")
    _ends(p)
    _doubled_gates(p, aligned, same, opposite)
    return p.proof()


def _ends(p: Derivation) -> None:
    p.by(Fact.VANISHING, r"\beta a = 0 \text{ or } \beta a = 2", "So the ends are taken only as follows")
    terms = [1 - lam, lam * (1 + c)]
    p.holds(
        sp.solve(terms, [lam, c]) == [(1, -1)],
        r"1 - \lambda = \lambda (1 + c) = 0 \iff \lambda = 1, c = -1",
        r"The lower end, unless $\beta = 0$",
    )
    terms = [1 - beta, beta * (1 - lam), beta * lam * (1 - c)]
    p.holds(
        sp.solve(terms, [beta, lam, c]) == [(1, 1, 1)],
        r"1 - \beta = \beta (1 - \lambda) = \beta \lambda (1 - c) = 0 \iff \beta = \lambda = c = 1",
        "The upper end",
    )
    kk, kq = sp.symbols(r"\|k\|^2 k\cdot{q}")
    p.equal((kk - 2 * kq + kk).subs({kk: 1, kq: c}), 2 * (1 - c), "$c = 1$ means $q = k$", shown=r"\|q - k\|^2")
    p.equal((kk + 2 * kq + kk).subs({kk: 1, kq: c}), 2 * (1 + c), "$c = -1$ means $q = -k$", shown=r"\|q + k\|^2")


def _doubled_gates(p: Derivation, aligned: sp.Expr, same: sp.Symbol, opposite: sp.Symbol) -> None:
    strength, feedback = p.room(2 - beta), p.room(2 - lam)
    p.nonnegative(
        6 - beta * aligned,
        3 * strength + beta * feedback + beta * lam * same,
        r"With doubled gates $\beta a \le 6$",
        shown=r"6 - \beta a",
    )
    p.nonnegative(
        2 + beta * aligned,
        strength + beta * feedback + beta * lam * opposite,
        r"And $\beta a \ge -2$",
        shown=r"2 + \beta a",
    )
    corner = {beta: 2, lam: 2}
    p.equal(
        (beta * aligned).subs({**corner, c: 1}),
        6,
        r"Both are taken, at $\beta = \lambda = 2$: for $q = k$",
        shown=r"\beta a",
    )
    p.equal((beta * aligned).subs({**corner, c: -1}), -2, "And for $q = -k$", shown=r"\beta a")
    p.by(Fact.INTERMEDIATE, r"\beta a \in [-2, 6], \quad 1 - \beta a \in [-5, 3]", "And every value between them")
