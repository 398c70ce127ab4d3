"""Proofs on the memory: the bound that decay buys, and what it costs to grow no more."""

from __future__ import annotations

import sympy as sp

from . import closed_forms
from .mixed_error import RECURRENCE, stays_below
from .notation import UNIT, L, a_max, across, along, alpha, beta, dot, kappa, lam, t, tex, vector
from .proof import Derivation, Fact, Proof
from .spectrum import TRANSITION

gamma, b, s0, before = sp.symbols(r"\gamma b \|S_{0}\|_F \|S_{t-1}\|_F", nonnegative=True)


def memory_bound() -> Proof:
    """The memory is bounded where gamma = a_max sqrt(1 + L^2) < 1, and need not be beyond (claim G9)."""
    bound = closed_forms.memory_bound(gamma, b, s0, t)
    p = Derivation(
        "G9",
        "Uniform bound on the memory",
        rf"$\|S_t\|_F \le {tex(bound)} \le \gamma^t \|S_0\|_F + \frac{{b}}{{1 - \gamma}}$ for "
        rf"$\gamma = {tex(closed_forms.norm_envelope(a_max, L))} < 1$; for $\gamma \ge 1$ there are inputs that "
        rf"meet the other hypotheses along which $\|S_t\|_F$ has no bound. {RECURRENCE}.",
        hypotheses=(
            UNIT,
            r"$\beta_t \in [0, 1]$",
            r"$\lambda_t \in [0, L]$",
            r"$\alpha_t \in [0, \alpha_{\max}]$",
            r"$b = \sup_t \beta_t \|v_t\| < \infty$",
        ),
        dimension="any d >= 2 and any width of $v$",
    )
    for size in (2, 3):
        v, k = vector("v", 2), vector("k", size)
        p.equal(
            ((v * k.T).T * (v * k.T)).trace(),
            dot(v, v) * dot(k, k),
            f"The size of a write, $d = {size}$, two values",
            shown=r"\|v k^\top\|_F^2",
            shown_right=r"\|v\|^2 \|k\|^2",
        )
    p.uses("G7", r"\|A_t\| \le \alpha_{\max} \sqrt{1 + L^2} = \gamma", "and the ranges of the gates")
    p.by(
        Fact.SUBMULTIPLICATIVE,
        r"\|S_t\|_F \le \|S_{t-1}\|_F \|A_t\| + \beta_t \|v_t\| \|k_t\| \le \gamma \|S_{t-1}\|_F + b",
        "With the triangle inequality",
    )
    stays_below(p, bound, factor=gamma, gain=b, start=s0, before=before)
    p.nonnegative(
        s0 * gamma**t + b / (1 - gamma) - bound,
        b * gamma**t / p.room(1 - gamma, positive=True),
        "And is at most its limit form",
        shown=r"\gamma^t \|S_0\|_F + \frac{b}{1 - \gamma} - B_t",
    )
    _unbounded(p)
    return p.proof()


def _unbounded(p: Derivation) -> None:
    (k1, q1), (k2, q2) = closed_forms.cycle_tokens(L)
    M = closed_forms.transition(k1, k1 + L * q1, 1) * closed_forms.transition(k2, k2 + L * q2, 1)
    u = sp.Matrix([0, -1])
    p.equal(
        a_max**2 * M * u,
        closed_forms.norm_envelope(a_max, L) ** 2 * u,
        rf"Along the two-token cycle of claim G8, $\beta = 1$, $\lambda = L$, $\alpha = \alpha_{{\max}}$, the "
        rf"direction of $u = {tex(u)}$ is kept",
        shown="A_1 A_2 u",
        shown_right=r"\gamma^2 u",
    )
    p.equal(
        dot(k2, u),
        L / sp.sqrt(1 + L**2),
        r"And each second write, of $v$, is seen along it: positive for $L > 0$",
        shown=r"k_2 \cdot u",
    )
    part, w = sp.symbols("c_n w", nonnegative=True)
    p.nonnegative(
        (gamma**2 * part + w) - part - w,
        p.room(gamma**2 - 1) * part,
        r"For $\gamma \ge 1$, $c_n = (S_{2n} u)_1$ from $0$, $w = v_1 k_2 \cdot u$, $v_1 > 0$: it grows by at least "
        r"$w$ per cycle, without end",
        shown=r"c_{n+1} - c_n - w",
    )
    key, v1 = sp.symbols(r"s\cdot{k} v_1", real=True)
    norm2 = sp.Symbol(r"\|s\|^2", positive=True)
    row2 = alpha**2 * norm2 + 2 * alpha * (v1 - alpha * key) * key + (v1 - alpha * key) ** 2
    p.equal(
        row2.subs(key, 0),
        alpha**2 * norm2 + v1**2,
        r"For $L = 0$, $\gamma = \alpha$: with a unit key orthogonal to a row $s$ of the memory and $\beta = 1$ the "
        r"row grows at every token where $\alpha \ge 1$, without end",
        shown=r"\|\alpha s + (v_1 - \alpha s \cdot k) k\|^2",
    )


def compensated_decay() -> Proof:
    """The decay g - log s+ makes the norm alpha exactly, and is the least that does (claim G14)."""
    s = sp.Symbol("s_+", positive=True)
    less = closed_forms.compensated_decay(alpha, s)
    p = Derivation(
        "G14",
        "The price of query feedback",
        r"No step with $\beta > 0$ and $x \nparallel k$ is non-expansive but for its decay, $\|A\| > \alpha$. The "
        r"least extra decay that mends it is $g' = g - \log s_+$: then $\|A'\| = \alpha$, and the memory has the "
        r"bounds of Gated DeltaNet. For orthogonal unit $k, q$ it costs "
        rf"$\log s_+ = {tex(closed_forms.compensation_price(beta, lam))} + O(\lambda^4)$ per token; {TRANSITION}.",
        hypotheses=(r"$\alpha = e^g > 0$", r"$\beta \in [0, 2)$ for the price, $\beta \ge 0$ otherwise"),
        dimension="any d >= 2",
    )
    p.uses(
        "G3",
        r"(s_+^2 - 1)(1 - s_-^2) = \beta^2 \|k\|^2 x_\perp^2 > 0",
        r"so $s_+ > 1$ where $x \nparallel k$, $\beta > 0$",
    )
    p.equal(less, alpha / s, "The compensated decay is a division", shown=r"\alpha' = e^{g - \log s_+}")
    largest = closed_forms.operator_norm(1, beta, kappa, along, across)
    p.equal(
        closed_forms.operator_norm(less.subs(s, largest), beta, kappa, along, across),
        alpha,
        r"It takes the norm to $\alpha$, whatever $k$ and $x$",
        shown=r"\|A'\| = \alpha' s_+",
    )
    other = sp.Symbol(r"\delta", positive=True)
    p.nonnegative(
        less - other,
        p.room(alpha - other * s) / s,
        r"Every decay $\delta$ with $\delta s_+ \le \alpha$ is at most this one",
        shown=r"\alpha' - \delta",
    )
    _memory_of_compensated(p)
    _price(p)
    return p.proof()


def _memory_of_compensated(p: Derivation) -> None:
    p.by(
        Fact.SUBMULTIPLICATIVE,
        r"\|S_t\|_F \le \alpha_{\max} \|S_{t-1}\|_F + b",
        r"For unit $k$, $b = \sup \beta \|v\|$, as in Gated DeltaNet",
    )
    bound = closed_forms.memory_bound(a_max, b, s0, t)
    p.equal(
        bound.subs(t, t + 1),
        a_max * bound + b,
        r"So for $\alpha_{\max} < 1$ the bound of claim G9 holds with $\gamma = \alpha_{\max}$",
        shown="B_{t+1}",
        shown_right=r"\alpha_{\max} B_t + b",
    )
    p.equal(
        s0 + (t + 1) * b,
        (s0 + t * b) + b,
        r"And for $\alpha_{\max} = 1$ the memory gains at most $b$ per token",
        shown=r"B_t = \|S_0\|_F + t b: \quad B_{t+1}",
        shown_right="B_t + b",
    )


def _price(p: Derivation) -> None:
    rest = sp.Symbol("m", positive=True)
    strength = sp.Symbol(r"\beta", positive=True)
    log_norm = sp.log(closed_forms.operator_norm(1, strength, 1, 1, lam)).subs(2 - strength, rest)
    at_zero = lambda n: sp.diff(log_norm, lam, n).subs(lam, 0).subs(rest, 2 - strength)
    p.equal(
        log_norm.subs(lam, -lam),
        log_norm,
        r"For orthogonal unit $k, q$, $\log s_+$ is even in $\lambda$",
        shown=r"\log s_+(-\lambda)",
        shown_right=r"\log s_+(\lambda)",
    )
    p.equal(at_zero(0), 0, r"It vanishes at $\lambda = 0$", shown=r"\log s_+ |_{\lambda = 0}")
    p.equal(
        at_zero(2) / 2 * lam**2,
        closed_forms.compensation_price(strength, lam),
        "And begins with this term",
        shown=r"\frac{\lambda^2}{2} \partial_\lambda^2 \log s_+ |_{\lambda = 0}",
    )
    example = sp.log(closed_forms.operator_norm(1, sp.Rational(1, 2), 1, 1, sp.Rational(3, 10)))
    leading = closed_forms.compensation_price(sp.Rational(1, 2), sp.Rational(3, 10))
    p.equal(
        leading,
        sp.Rational(15, 1000),
        r"For instance $\beta = 1/2$, $\lambda = 3/10$: the first term",
        shown=r"\frac{\beta \lambda^2}{2 (2 - \beta)}",
    )
    p.holds(
        sp.Abs(example - leading) < sp.Rational(1, 2000),
        rf"\left|{tex(example)} - {tex(leading)}\right| < 0.0005",
        r"And $\log s_+$ itself is as near to it as this",
    )
