"""Proofs on typical tokens: how the mean square of the memory grows when tokens are random and independent."""

from __future__ import annotations

from collections.abc import Callable

import sympy as sp

from . import closed_forms
from .notation import alpha, beta, c, d, dot, lam, tex, vector
from .proof import Derivation, Fact, Proof
from .spectrum import TRANSITION

# For a row s of the memory: sigma = ||s||^2, u = s.x, w = s.k, m = s.n.
sigma = sp.Symbol(r"\|s\|^2", nonnegative=True)
u, w, m = (sp.Symbol(rf"{{(s\cdot{{{name}}})}}", real=True) for name in "xkn")
kk = sp.Symbol(r"\|k\|^2", nonnegative=True)
# mu and Lambda of the vectors alone, without the gates; and the bound with them.
_FIXED = sp.symbols(r"\mu_0 \Lambda_0", positive=True)
_BOUND = r"\mathbb{E}\alpha^2 - 2 \mu + \Lambda"
ONE_TOKEN = sigma - 2 * beta * u * w + beta**2 * u**2 * kk


def mean_square_growth() -> Proof:
    """E||s A||^2 for isotropic keys and queries at a fixed angle to them (claim G10)."""
    growth = closed_forms.mean_square_growth(alpha, beta, lam, c, d)
    critical = closed_forms.critical_beta(lam, c)
    p = Derivation(
        "G10",
        "Mean-square growth for isotropic tokens",
        rf"$\mathbb{{E}} \|s A\|^2 = {tex(growth)}\, \|s\|^2$ for every row $s$, hence its $n$-th power over $n$ "
        rf"tokens; at $\alpha = 1$ the mean square falls where $0 < \beta < \beta^* = {tex(critical)}$ and grows "
        rf"beyond, if $x \ne 0$; {TRANSITION}.",
        hypotheses=(
            r"$k$ uniform on the unit sphere of $\mathbb{R}^d$",
            r"$q = c k + \sqrt{1 - c^2}\, n$, $c \in [-1, 1]$, $n$ uniform among the unit vectors orthogonal to $k$",
            r"tokens independent of each other; the gates and $c$ fixed, or random and independent of the directions, "
            "and the right side averaged over them",
        ),
        dimension="any d >= 2; the averages written out as integrals for d = 2, 3",
    )
    _one_token(p)
    second = _second_moments(p)
    mixed = (1 + lam * c) * w + lam * sp.sqrt(1 - c**2) * m
    p.equal(w + lam * (c * w + sp.sqrt(1 - c**2) * m), mixed, r"The part of $s$ along $x$", shown=r"s \cdot x")
    square = sp.Poly(sp.expand(ONE_TOKEN.subs({kk: 1, u: mixed})), w, m)
    p.equal(
        alpha**2 * sum(factor * second[powers] for powers, factor in square.terms()),
        growth * sigma,
        r"Put into the first line, average by average",
        shown=r"\mathbb{E} \|s A\|^2",
    )
    p.by(
        Fact.EXPECTATION,
        r"\mathbb{E} \|s A_1 \cdots A_n\|^2 = (\mathbb{E} \|s A\|^2 / \|s\|^2)^n \|s\|^2",
        "So token by token",
    )
    p.equal(
        closed_forms.mean_square_growth(1, beta, lam, c, d) - 1,
        beta * (1 + 2 * lam * c + lam**2) * (beta - critical) / d,
        r"So without decay its sign is that of $\beta - \beta^*$",
        shown=r"\mathbb{E} \|s A\|^2 / \|s\|^2 - 1",
    )
    p.nonnegative(1 + 2 * lam * c + lam**2, (lam + c) ** 2 + p.room(1 - c**2), r"Since this factor is $\|x\|^2$")
    _written_out(p)
    return p.proof()


def persistent_excitation() -> Proof:
    """Mean-square contraction for tokens that excite every direction (claim G11)."""
    mean, mu, top = sp.symbols(r"\mathbb{E}\alpha^2 \mu \Lambda", positive=True)
    bound = mean - 2 * mu + top
    first, second = sp.symbols(r"s{M}s^\top s{N}s^\top", real=True)
    p = Derivation(
        "G11",
        "Contraction in mean square under persistent excitation",
        rf"$\mathbb{{E}} \|s A\|^2 \le ({_BOUND})\, \|s\|^2$ for every row $s$, which contracts for "
        rf"$\Lambda < 2 \mu$. With fixed gates this is "
        rf"$\mathbb{{E}} \|s A\|^2 \le {tex(closed_forms.excitation_bound(alpha, beta, *_FIXED))}\, \|s\|^2$, which "
        rf"contracts for $0 < \beta < 2 \mu_0 / \Lambda_0$; {TRANSITION}.",
        hypotheses=(
            r"$\mu = \lambda_{\min}((M + M^\top) / 2) > 0$ for $M = \mathbb{E}[\alpha^2 \beta x k^\top]$",
            r"$\Lambda = \lambda_{\max}(N) < \infty$ for $N = \mathbb{E}[\alpha^2 \beta^2 \|k\|^2 x x^\top]$",
            r"$\mu_0, \Lambda_0$ the same without $\alpha, \beta$",
            r"$0 < \alpha \le 1$",
            "tokens independent of each other",
        ),
        dimension="any d >= 1; one token written out for d = 2, 3",
    )
    _one_token(p)
    for size in (2, 3):
        s, M = vector("s", size), sp.Matrix(size, size, sp.symbols(f"M_1:{size * size + 1}", real=True))
        p.equal(
            (s.T * M * s)[0, 0],
            (s.T * (M + M.T) / 2 * s)[0, 0],
            f"Only the symmetric part counts, $d = {size}$",
            shown=r"s M s^\top",
            shown_right=r"s \tfrac{M + M^\top}{2} s^\top",
        )
    p.by(
        Fact.EXPECTATION,
        r"\mathbb{E} \|s A\|^2 = \mathbb{E}\alpha^2\, \|s\|^2 - 2\, s M s^\top + s N s^\top",
    )
    p.by(
        Fact.RAYLEIGH,
        r"s M s^\top \ge \mu \|s\|^2, \quad s N s^\top \le \Lambda \|s\|^2",
    )
    p.nonnegative(
        bound * sigma - (mean * sigma - 2 * first + second),
        2 * p.room(first - mu * sigma) + p.room(top * sigma - second),
        "So the bound is never below the mean square",
        shown=rf"({_BOUND})\, \|s\|^2 - \mathbb{{E}} \|s A\|^2",
    )
    p.nonnegative(
        1 - bound,
        p.room(1 - mean) + p.room(2 * mu - top, positive=True),
        r"It contracts where $\Lambda < 2 \mu$",
        shown=rf"1 - ({_BOUND})",
        strict=True,
    )
    _fixed_gates(p, bound, mean, mu, top)
    return p.proof()


def _fixed_gates(p: Derivation, bound: sp.Expr, mean: sp.Symbol, mu: sp.Symbol, top: sp.Symbol) -> None:
    mu0, top0 = _FIXED
    fixed = [(mean, alpha**2), (mu, alpha**2 * beta * mu0), (top, alpha**2 * beta**2 * top0)]
    p.equal(
        bound.subs(fixed),
        closed_forms.excitation_bound(alpha, beta, mu0, top0),
        r"With fixed gates $\mu = \alpha^2 \beta \mu_0$ and $\Lambda = \alpha^2 \beta^2 \Lambda_0$",
        shown=_BOUND,
    )
    p.equal(
        (2 * mu - top).subs(fixed),
        alpha**2 * beta * top0 * (2 * mu0 / top0 - beta),
        r"So $\Lambda < 2 \mu$ if and only if $0 < \beta < 2 \mu_0 / \Lambda_0$",
        shown=r"2 \mu - \Lambda",
    )


def _one_token(p: Derivation) -> None:
    """||s A||^2 / alpha^2 from the entries, d = 2 and 3; the same bilinear expansion serves every d."""
    p.equal(
        sigma - beta * u * w - beta * u * (w - beta * u * kk),
        ONE_TOKEN,
        r"One token: $s A / \alpha = s - \beta (s \cdot x) k^\top$",
        shown=r"\|s - \beta (s \cdot x) k\|^2 = s \cdot s - \beta (s \cdot x) (s \cdot k) - \beta (s \cdot x) "
        r"(s \cdot k - \beta (s \cdot x) \|k\|^2)",
        shown_right=r"\|s\|^2 - 2 \beta (s \cdot x)(s \cdot k) + \beta^2 (s \cdot x)^2 \|k\|^2",
    )
    for size in (2, 3):
        s, k, q = (vector(name, size) for name in "skq")
        x = k + lam * q
        row = s.T * closed_forms.transition(k, x, beta)
        p.equal(
            (row * row.T)[0, 0],
            ONE_TOKEN.subs({sigma: dot(s, s), u: dot(s, x), w: dot(s, k), kk: dot(k, k)}),
            f"Written out with all entries for $d = {size}$, $\\alpha = 1$",
            shown=r"\|s A\|^2",
            shown_right=r"\|s\|^2 - 2 \beta (s \cdot x)(s \cdot k) + \beta^2 (s \cdot x)^2 \|k\|^2",
        )


def _second_moments(p: Derivation) -> dict[tuple[int, ...], sp.Expr]:
    """Averages of 1, w^2, w m and m^2, by the powers of (w, m)."""
    scale = sp.Symbol(r"\tau")
    p.by(
        Fact.ISOTROPY,
        r"\mathbb{E}[k k^\top] = \tau I, \quad \mathbb{E}[n n^\top | k] = \tau' (I - k k^\top)",
        "The second within the space orthogonal to $k$",
    )
    p.equal(
        sp.solve(scale * d - 1, scale),
        [1 / d],
        r"The trace of the first is $\tau d = \mathbb{E} \|k\|^2 = 1$",
        shown=r"\tau",
        shown_right=r"\frac{1}{d}",
    )
    p.equal(
        sp.solve(scale * (d - 1) - 1, scale),
        [1 / (d - 1)],
        r"That of the second $\tau' (d - 1) = 1$",
        shown=r"\tau'",
        shown_right=r"\frac{1}{d - 1}",
    )
    w2 = sigma / d
    m2 = (sigma - w2) / (d - 1)
    p.equal(
        m2,
        sigma / d,
        r"So $n$ has the second moment of $k$",
        shown=r"\mathbb{E} (s \cdot n)^2 = \frac{\|s\|^2 - \mathbb{E} (s \cdot k)^2}{d - 1}",
    )
    p.equal((w * m + w * -m) / 2, 0, r"$-n$ is as likely as $n$", shown=r"\mathbb{E}[(s \cdot k) (s \cdot n) | k]")
    first = sp.gammasimp((sp.beta(sp.S(3) / 2, (d - 1) / 2) / sp.beta(sp.S(1) / 2, (d - 1) / 2)).rewrite(sp.gamma))
    p.equal(
        first,
        1 / d,
        r"The same by the density of $r = s \cdot k / \|s\|$, proportional to $(1 - r^2)^{(d - 3) / 2}$",
        shown=r"\mathbb{E}\, r^2 = \frac{B(3/2, (d - 1)/2)}{B(1/2, (d - 1)/2)}",
    )
    return {(0, 0): sp.S.One, (2, 0): w2, (1, 1): sp.S.Zero, (0, 2): m2}


def _written_out(p: Derivation) -> None:
    """The averages over k and n as integrals over angles, d = 2 and 3."""
    for size, (k, n, average) in {2: _circle(), 3: _sphere()}.items():
        p.equal(
            [product.applyfunc(average) for product in (k * k.T, n * n.T, k * n.T + n * k.T)],
            [sp.eye(size) / size, sp.eye(size) / size, sp.zeros(size)],
            f"The averages as integrals over the angles, $d = {size}$",
            shown=rf"\mathbb{{E}}[k k^\top] = \mathbb{{E}}[n n^\top] = \tfrac{{1}}{{{size}}} I, \quad "
            r"\mathbb{E}[k n^\top + n k^\top]",
            shown_right="0",
        )


Draw = tuple[sp.Matrix, sp.Matrix, Callable[[sp.Expr], sp.Expr]]


def _circle() -> Draw:
    """k and n in the plane, and the average over them."""
    turn = sp.Symbol(r"\varphi", real=True)
    k, n = sp.Matrix([sp.cos(turn), sp.sin(turn)]), sp.Matrix([-sp.sin(turn), sp.cos(turn)])
    return k, n, lambda f: sp.integrate(f, (turn, 0, 2 * sp.pi)) / (2 * sp.pi)


def _sphere() -> Draw:
    """k and n in space, and the average over them."""
    polar, turn, around = sp.symbols(r"\theta \varphi \psi", real=True)
    k = sp.Matrix([sp.sin(polar) * sp.cos(turn), sp.sin(polar) * sp.sin(turn), sp.cos(polar)])
    n = sp.Matrix(k.diff(polar) * sp.cos(around) + k.diff(turn) * (sp.sin(around) / sp.sin(polar)))
    full = (0, 2 * sp.pi)
    return (
        k,
        n,
        lambda f: (
            sp.integrate(sp.expand(f * sp.sin(polar)), (turn, *full), (around, *full), (polar, 0, sp.pi))
            / (8 * sp.pi**2)
        ),
    )
