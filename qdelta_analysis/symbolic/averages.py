"""Proofs on typical tokens: how the mean square of the memory grows when tokens are random and independent."""

from __future__ import annotations

import numpy as np
import sympy as sp

from . import closed_forms
from .claim import Claim, Conclusion, Words
from .dense import MEASURES, Tokens
from .engine import Derivation
from .notation import PLANE, alpha, beta, c, d, key_row, lam, x
from .proof import Fact, Proof
from .spectrum import TRANSITION

# For a row s of the memory: u = s.x, w = s.k, m = s.n, and averages over one token or n of them.
u, w, m, kk = (sp.Symbol(rf"{{({name})}}", real=True) for name in (r"s\cdot x", r"s\cdot k", r"s\cdot n", r"k\cdot k"))
square = sp.Symbol(r"\|s\|^2", nonnegative=True)
mean, mean_n = sp.symbols(r"\mathbb{E}\|s{A}\|^2 \mathbb{E}\|s{A_1\cdots{A_n}}\|^2", real=True)
n = sp.Symbol("n", integer=True, nonnegative=True)
row, column, key, mixed_row = sp.symbols(r"s s^{\top} k x^{\top}", commutative=False)
ISOTROPIC = Words(
    r"$k$ uniform on the unit sphere of $\mathbb{R}^d$, $q$ at a fixed angle to it, its part across $k$ uniform in "
    r"direction: $c$ times $k$ and the sine times a unit vector $n \perp k$",
    "isotropy",
)
INDEPENDENT = Words(
    "tokens independent of each other and identically distributed, $k$, $q$ and the gates jointly", "independence"
)
_SIZE = 1 + 2 * lam * c + lam**2


def _mean_square(tokens: Tokens) -> float:
    """The average of ||s A||^2 over the tokens, each as likely as any other; s is the first row of the memory."""
    return float(np.mean(np.sum((tokens.S[0] @ tokens.A) ** 2, axis=-1)))


def _mean_square_of_sequences(tokens: Tokens) -> float:
    """The average of ||s A_1 .. A_n||^2 where the next token is drawn by `follows`, [T, T]: the chance of j after i."""
    follows, T = tokens.numbers["follows"], len(tokens.k)
    moments = np.broadcast_to(np.outer(tokens.S[0], tokens.S[0]) / T, (T, tokens.d, tokens.d))
    for _ in range(tokens.numbers["n"] - 1):
        moved = np.einsum("tji,tjk,tkl->til", tokens.A, moments, tokens.A)
        moments = np.einsum("ts,til->sil", follows, moved)
    return float(np.einsum("tji,tjk,tki->", tokens.A, moments, tokens.A))


_MEASURES = MEASURES | {
    square: lambda t: float(np.sum(t.S[0] ** 2)),
    mean: _mean_square,
    mean_n: _mean_square_of_sequences,
    n: lambda t: t.numbers["n"],
    ISOTROPIC: lambda t: t.numbers["isotropic"],
    INDEPENDENT: lambda t: np.allclose(t.numbers["follows"], 1 / len(t.k)),
}


def g10() -> Claim:
    """How the memory grows in mean square under isotropic tokens."""
    growth, critical = closed_forms.mean_square_growth(alpha, beta, lam, c, d), closed_forms.critical_beta(lam, c)
    alone = closed_forms.mean_square_growth(1, beta, lam, c, d) - 1
    given = (PLANE, ISOTROPIC)
    return Claim(
        "G10",
        "Mean-square growth for isotropic tokens",
        rf"<0> for every row $s$ of the memory, and <1>. Without decay the growth is that of <2>, so the mean square "
        rf"falls up to the critical strength and grows beyond it. $A$ is {TRANSITION.removeprefix('of ')}.",
        (
            Conclusion(sp.Eq(mean, growth * square), given),
            Conclusion(sp.Eq(mean_n, growth**n * square), (*given, INDEPENDENT)),
            Conclusion(sp.Eq(alone, beta * _SIZE * (beta - critical) / d), (sp.Ne(_SIZE, 0),)),
        ),
        "any dimension from two on; the averages also as integrals",
        _MEASURES,
    )


def mean_square_growth() -> Proof:
    """E||s A||^2 for isotropic keys and queries at a fixed angle to them (claim G10)."""
    p = Derivation(g10())
    one = one_token(p, 1)
    ww, wm, mm, uw, uu = (sp.Symbol(rf"\mathbb{{E}}[{y}]", real=True) for y in ("w^2", "w m", "m^2", "u w", "u^2"))
    p.at_least(d - 1, 0, p.room(d - 2) + 1, "There is a direction across the key", strict=True)
    trace = r"The trace of the second moment of a unit vector is one"
    p.by(Fact.ISOTROPY, sp.Eq(ww, square / d), trace, using=(ISOTROPIC,))
    p.by(
        Fact.ISOTROPY,
        sp.Eq(mm, (square - ww) / (d - 1)),
        r"The same in the space orthogonal to $k$, where the row has what is left of it",
        using=(ISOTROPIC, PLANE),
    )
    p.by(Fact.ISOTROPY, sp.Eq(wm, 0), r"Both directions of $n$ are as likely", using=(ISOTROPIC,))
    p.equal(mm, square / d, r"So $n$ has the second moment of $k$")
    along, across = 1 + lam * c, lam * sp.sqrt(1 - c**2)
    p.equal(w + lam * (c * w + sp.sqrt(1 - c**2) * m), along * w + across * m, "The part of the row along $x$")
    part = p.steps[-1].relation
    p.by(Fact.EXPECTATION, sp.Eq(uw, along * ww + across * wm), "By this part", using=(part, ISOTROPIC))
    uu_meaning = along**2 * ww + 2 * along * across * wm + across**2 * mm
    p.by(Fact.EXPECTATION, sp.Eq(uu, uu_meaning), "And by its square", using=(part, ISOTROPIC))
    p.by(
        Fact.EXPECTATION,
        sp.Eq(mean, alpha**2 * (square - 2 * beta * uw + beta**2 * uu)),
        r"With $u$, $w$, $m$ for $s \cdot x$, $s \cdot k$ and $s \cdot n$",
        using=(one, ISOTROPIC),
    )
    p.states(0, "Put into the first line, average by average")
    mean_one = p.steps[-1].relation
    p.by(Fact.EXPECTATION, p.claim.conclusions[1].relation, "So token by token", using=(mean_one, INDEPENDENT))
    p.states(2, "Without decay its sign is that of the last factor")
    p.by(Fact.CAUCHY_SCHWARZ, sp.Le(c**2, 1), "A cosine")
    p.at_least(_SIZE, 0, (lam + c) ** 2 + p.room(1 - c**2), "The one before it is a square length")
    _by_integrals(p)
    return p.proof()


def one_token(p: Derivation, size: object) -> sp.Basic:
    """||s A||^2 in any dimension, by the bilinear expansion; k.k is `size`. Returns the relation."""
    matrix = closed_forms.transition(sp.Matrix([[key_row]]), sp.Matrix([[x]]), beta, alpha)[0, 0]
    transposed = closed_forms.transition(sp.Matrix([[mixed_row]]), sp.Matrix([[key]]), beta, alpha)[0, 0]
    for product, meaning in (
        (row * x, u),
        (key_row * column, w),
        (mixed_row * column, u),
        (key_row * key, size),
        (row * key, w),
        (row * column, square),
    ):
        p.let(product, meaning, "An inner product")
    expanded = alpha**2 * (square - 2 * beta * u * w + beta**2 * u**2 * size)
    p.equal(row * matrix * (transposed * column), expanded, "One token takes a row to this length, squared")
    return p.steps[-1].relation


def _by_integrals(p: Derivation) -> None:
    """The second moment of one coordinate by its density, in any dimension, and on the sphere by an integral."""
    share = (sp.beta(sp.S(3) / 2, (d - 1) / 2) / sp.beta(sp.S(1) / 2, (d - 1) / 2)).rewrite(sp.gamma)
    p.equal(share, 1 / d, "The second moment of one coordinate of a unit vector, by its density")
    polar = sp.Symbol(r"\theta", real=True)
    on_sphere = sp.Integral(sp.cos(polar) ** 2 * sp.sin(polar), (polar, 0, sp.pi)) / 2
    p.equal(on_sphere, sp.Rational(1, 3), "And in space, over the sphere")


mean_decay, mu, top, mu0, top0 = sp.symbols(r"\mathbb{E}\alpha^2 \mu \Lambda \mu_0 \Lambda_0", real=True)
sMs, sNs = sp.symbols(r"s{M}s^{\top} s{N}s^{\top}", real=True)
MU = Words(
    r"$\mu$ the least eigenvalue of the symmetric part of $M = \mathbb{E}[\alpha^2 \beta x k^\top]$",
    r"the meaning of $\mu$",
)
TOP = Words(
    r"$\Lambda$ the largest of $N = \mathbb{E}[\alpha^2 \beta^2 \|k\|^2 x x^\top]$", r"the meaning of $\Lambda$"
)


def _moments(t: Tokens) -> tuple[np.ndarray, np.ndarray]:
    weight = t.alpha**2 * t.beta
    M = np.mean(weight[:, None, None] * t.x[:, :, None] * t.k[:, None, :], axis=0)
    size = weight * t.beta * np.sum(t.k**2, axis=-1)
    return (M + M.T) / 2, np.mean(size[:, None, None] * t.x[:, :, None] * t.x[:, None, :], axis=0)


def g11() -> Claim:
    """How tokens that excite every direction contract the memory in mean square."""
    bound = mean_decay - 2 * mu + top
    fixed = alpha**2 - 2 * alpha**2 * beta * mu0 + alpha**2 * beta**2 * top0
    return Claim(
        "G11",
        "Contraction in mean square under persistent excitation",
        rf"<0> for every row $s$ of the memory, and <1>; the factor contracts, <2>. With fixed gates and $\mu_0$, "
        rf"$\Lambda_0$ the same eigenvalues without them it is <3>. $A$ is {TRANSITION.removeprefix('of ')}.",
        (
            Conclusion(sp.Le(mean, bound * square), (MU, TOP)),
            Conclusion(sp.Le(mean_n, bound**n * square), (MU, TOP, INDEPENDENT)),
            Conclusion(sp.Lt(bound, 1), (sp.Le(mean_decay, 1), sp.Lt(top, 2 * mu))),
            Conclusion(sp.Eq(fixed, closed_forms.excitation_bound(alpha, beta, mu0, top0))),
        ),
        "any dimension",
        _MEASURES
        | {
            mean_decay: lambda t: np.mean(t.alpha**2),
            mu: lambda t: np.linalg.eigvalsh(_moments(t)[0])[0] + t.numbers["mu_off"],
            top: lambda t: np.linalg.eigvalsh(_moments(t)[1])[-1] - t.numbers["top_off"],
            mu0: lambda t: t.numbers["mu_off"],
            top0: lambda t: t.numbers["top_off"],
            MU: lambda t: t.numbers["mu_off"] == 0,
            TOP: lambda t: t.numbers["top_off"] == 0,
        },
    )


def persistent_excitation() -> Proof:
    """Mean-square contraction for tokens that excite every direction (claim G11)."""
    p = Derivation(g11())
    one = one_token(p, kk)
    p.by(Fact.EXPECTATION, sp.Eq(mean, mean_decay * square - 2 * sMs + sNs), "Over tokens", using=(one,))
    p.by(Fact.RAYLEIGH, sp.Ge(sMs, mu * square), "Only the symmetric part counts", using=(MU,))
    p.by(Fact.RAYLEIGH, sp.Le(sNs, top * square), using=(TOP,))
    first, second = p.room(sMs - mu * square), p.room(top * square - sNs)
    p.states(0, "So the bound is never below the mean square", 2 * first + second)
    using = (p.claim.conclusions[0].relation, INDEPENDENT)
    p.by(Fact.EXPECTATION, p.claim.conclusions[1].relation, "So token by token", using=using)
    p.states(2, "It contracts", p.room(1 - mean_decay) + p.room(2 * mu - top, positive=True))
    p.states(3, "With fixed gates")
    return p.proof()
