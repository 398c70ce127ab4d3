"""Proof for any box of gates: a reflection turns the largest norm of one step into a cycle that grows by it."""

from __future__ import annotations

import sympy as sp

from . import closed_forms
from .notation import UNIT, L, a_max, alpha, beta, c, dot, lam, tex, vector
from .proof import Derivation, Fact, Proof
from .spectrum import TRANSITION

b = sp.Symbol("b", nonnegative=True)


def joint_spectral_radius_of_a_box() -> Proof:
    """JSR = max ||A|| over any box of gates, and that norm in closed form."""
    crossed, aligned = closed_forms.largest_norm(a_max, b, L), closed_forms.aligned_norm(a_max, b, L)
    p = Derivation(
        "Beside G8",
        "Joint spectral radius of any box of gates",
        r"$\mathrm{JSR} = \max \|A\|$ over all tokens that the gates allow, reached by a cycle of two: "
        rf"${tex(crossed)}$ where $L (b - 1) < 2 - b$, and ${tex(aligned)}$ elsewhere. The first equality holds for "
        rf"any closed and bounded set of gates and cosines $k \cdot q$; {TRANSITION}.",
        hypotheses=(
            UNIT,
            r"$\beta \in [0, b]$, $b \le 2$",
            r"$\lambda \in [0, L]$, $L \le 2$",
            r"$\alpha \in [0, \alpha_{\max}]$",
        ),
        dimension="any d >= 2; the reflected token and the cycle written out for d = 2, 3",
    )
    _reflection(p)
    _cycle(p)
    _corner(p)
    _crossed(p)
    _aligned(p)
    return p.proof()


def _reflection(p: Derivation) -> None:
    """The reflection F that swaps two unit vectors turns a token into a token."""
    u, w, h, n, P = sp.symbols(r"u w h n P", real=True)
    p.by(Fact.COMPACT, r"s = \max \|A\| = \|A\|", "So let $A$, with its $k$, $q$ and gates, be one of the largest norm")
    p.by(Fact.SINGULAR, r"A w = s u, \quad \|w\| = \|u\| = 1", r"If $u = w$ then $\rho(A) = s$ already; let $u \ne w$")
    p.equal(
        u - 2 * (u - w) * (1 - h) / (2 - 2 * h),
        w,
        r"The reflection $F = I - 2 y y^\top / \|y\|^2$ along $y = u - w$ takes $u$ to $w$; with $h = u \cdot w$, "
        r"$y \cdot u = 1 - h$ and $\|y\|^2 = 2 - 2 h$",
        shown=r"F u = u - \frac{2 (1 - h)}{2 - 2 h} (u - w)",
    )
    p.equal(
        1 - 4 * P / n + 4 * P * n / n**2,
        1,
        r"It is symmetric and its own inverse, so $F w = u$, and it keeps inner products; with $P = y y^\top$, "
        r"$n = \|y\|^2$, $P^2 = n P$",
        shown=r"F F = I - \frac{4}{n} P + \frac{4}{n^2} P^2",
        shown_right="I",
    )
    for size in (2, 3):
        y, k, q = (vector(name, size) for name in "ykq")
        x, n = k + lam * q, dot(y, y)
        F = _reflection_by_square(y)
        p.equal(
            F * closed_forms.transition(k, x, beta, alpha) * F,
            alpha * (n**2 * sp.eye(size) - beta * (F * x) * (F * k).T),
            r"So $F A F$ is the transition of the token $F k$, $F q$, allowed too: it has the same gates and the same "
            rf"$k \cdot q$. With all entries, $d = {size}$",
            shown=r"F A F",
            shown_right=r"\alpha (I - \beta (F k + \lambda F q) (F k)^\top)",
        )


def _reflection_by_square(y: sp.MatrixBase) -> sp.Matrix:
    """||y||^2 F = ||y||^2 I - 2 y y^T, a polynomial in y."""
    return dot(y, y) * sp.eye(y.rows) - 2 * y * y.T


def _cycle(p: Derivation) -> None:
    """The two tokens grow by s each: in coordinates with w = e_1, u in a plane with it, and any A with A w = s u."""
    s, m = sp.Symbol("s", positive=True), sp.Symbol("m", real=True)
    for size in (2, 3):
        w = sp.eye(size)[:, 0]
        # Every unit vector of the plane but -w, where y is along w, is that for a slope m; times 1 + m^2.
        u = sp.Matrix([1 - m**2, 2 * m, *[0] * (size - 2)])
        size_u = 1 + m**2
        rest = sp.Matrix(size, size - 1, sp.symbols(f"A_1:{size * (size - 1) + 1}", real=True))
        A, y = sp.Matrix.hstack(s * u, size_u * rest), u - size_u * w
        F = _reflection_by_square(y)
        p.equal(
            F * A * F * A * w,
            (size_u * dot(y, y)) ** 2 * s**2 * w,
            rf"These two tokens one after the other, for any $A$ with $A w = s u$; with all entries, $d = {size}$",
            shown=r"F A F (A w) = s\, F A (F u) = s\, F (A w) = s^2 F u",
            shown_right="s^2 w",
        )
    p.by(Fact.GROWTH, r"s \le \rho(F A F A)^{1/2} \le \mathrm{JSR} \le \max \|A\| = s", "Both bounds meet")


def _corner(p: Derivation) -> None:
    """The largest norm rises in every gate."""
    f0, f1, share, m, M = sp.Symbol("f_0"), sp.Symbol("f_1"), sp.Symbol(r"\theta"), sp.Symbol("m"), sp.Symbol("M")
    p.by(
        Fact.CONVEX,
        r"N(\beta, m) = \max_{q, k} \|I - \beta k k^\top - m\, q k^\top\|, \quad m = \beta \lambda",
        r"Here for one step without decay",
    )
    rest, rise = p.room(1 - share), p.room(f1 - f0)
    p.nonnegative(
        f1 - ((1 - share) * f0 + share * f1),
        rest * rise,
        r"$N$ does not fall as $\beta$ rises: on the segment from $(0, 0)$ to $(\beta, m)$ it lies below its chord, "
        r"$f_0 = N(0, 0) = 1$, $f_1 = N(\beta, m) \ge 1$ by claim G3, $0 \le \theta \le 1$",
    )
    p.equal(
        [(1 + share) / 2 * m + (1 - share) / 2 * -m, (1 + share) / 2 * M + (1 - share) / 2 * M],
        [share * m, M],
        r"Nor as $\lambda$ does: $-q$ is as good as $q$, so $N(\beta, -m) = N(\beta, m) = M$, and "
        r"$N(\beta, \theta m) \le \tfrac{1 + \theta}{2} N(\beta, m) + \tfrac{1 - \theta}{2} N(\beta, -m)$",
        shown=r"\tfrac{1 + \theta}{2} m - \tfrac{1 - \theta}{2} m = \theta m, \quad "
        r"\tfrac{1 + \theta}{2} M + \tfrac{1 - \theta}{2} M",
        shown_right="M",
    )


def _crossed(p: Derivation) -> None:
    """The corner (alpha_max, b, L) where the worst angle of G7 is one."""
    worst, more, less = closed_forms.worst_cosine(b, L), p.room(b - 1), p.room(1 - b)
    largest = closed_forms.largest_norm(a_max, b, L)
    p.uses(
        "G7",
        rf"\|A\| \le {tex(largest)}, \text{{ reached at }} c = {tex(worst)}",
        "so at the corner, for $b < 2$, where that is a cosine",
    )
    room = p.room(2 - b, positive=True)
    p.nonnegative(
        1 - worst,
        p.room(2 - b - L * (b - 1), positive=True) / room,
        r"It is below $1$ where $L (b - 1) < 2 - b$",
        shown="1 - c",
        strict=True,
    )
    p.nonnegative(1 + worst, (b + p.room(2 - L) * less) / room, r"And never below $-1$: for $b \le 1$", shown="1 + c")
    p.nonnegative(1 + worst, (p.room(2 - b) + L * more) / room, r"And for $b \ge 1$", shown="1 + c")


def _aligned(p: Derivation) -> None:
    """The corner where it would exceed 1: q = k is the worst."""
    e, same = sp.Symbol("e", nonnegative=True), p.room(1 - c)
    R = closed_forms.aligned_norm(1, b, L)
    a = closed_forms.unit_alignment(L, c)
    total = closed_forms.singular_square_sum(b, a, 1, 1 + 2 * L * c + L**2)
    product = closed_forms.singular_product(b, a) ** 2
    gap = b**2 * L * (1 - c) * (2 * e * (1 + e + L) + L * (1 - c))
    strength = (2 + L + e) / (1 + L)
    p.equal(
        (R - 1).subs(b, strength),
        e + L,
        r"Elsewhere $e = L (b - 1) - (2 - b) \ge 0$, and $R = b (1 + L) - 1$ is at least $1$, so at least $s_-$",
        shown="R - 1",
        shown_right="e + L",
    )
    p.equal(
        (R**4 - total * R**2 + product).subs(b, strength),
        gap.subs(b, strength),
        r"By claim G3 for unit vectors, $b = (2 + L + e) / (1 + L)$",
        shown=r"(R^2 - s_+^2)(R^2 - s_-^2)",
        shown_right=r"b^2 L (1 - c) \left(2 e (1 + e + L) + L (1 - c)\right)",
    )
    p.nonnegative(
        gap,
        b**2 * L * same * (2 * e * (1 + e + L) + L * same),
        r"So $s_+ \le R$ ($R = 1$ leaves $L = 0$, where claim G13 says the same)",
        shown=r"(R^2 - s_+^2)(R^2 - s_-^2)",
    )
    p.equal(
        sp.Abs(closed_forms.error_factor(strength, closed_forms.unit_alignment(L, 1))),
        R.subs(b, strength),
        r"Reached at $q = k$: by claim G3 the singular values there are $1$ and this one",
        shown=r"|1 - b (1 + L)|",
        shown_right="R",
    )
