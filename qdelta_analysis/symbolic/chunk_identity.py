"""Proof that the chunk form equals the recurrence, for any number of tokens, and how its inverse can grow."""

from __future__ import annotations

import numpy as np
import sympy as sp

from . import closed_forms
from .chunks import Tokens as Inner
from .claim import Claim, Conclusion
from .dense import MEASURES, Tokens, length
from .engine import Derivation
from .envelope import g7
from .notation import (
    BETA_HIGH,
    BETA_LOW,
    DECAY,
    PLANE,
    SHORT_KEY,
    SHORT_QUERY,
    alpha,
    beta,
    kappa,
    lam,
    norm,
    qnorm,
    xnorm,
)
from .proof import Fact, Proof

# The limit of lam in this claim, where L is a matrix.
ell = sp.Symbol(r"\ell", real=True)
entry, product = sp.symbols(r"T_{ij} \|A_{j+1}\|\cdots\|A_{i-1}\|", real=True)
n = sp.Symbol("n", integer=True, nonnegative=True)
path, mixed = sp.symbols(r"k_j^{\top}A_{j+1}\cdots{A_{i-1}} x_{i}", commutative=False)
fast, slow = sp.symbols(r"S^{\mathrm{chunk}} S^{\mathrm{recurrence}}", commutative=False)
_ALIKE = (PLANE, SHORT_KEY, SHORT_QUERY, BETA_LOW, BETA_HIGH, DECAY, sp.Le(alpha, 1), sp.Ge(lam, 0), sp.Le(lam, ell))


def _pairs(t: Tokens) -> tuple[np.ndarray, np.ndarray]:
    return np.tril_indices(len(t.k), -1)


def inverse(t: Tokens) -> np.ndarray:
    """T = (I + L)^-1 of these tokens as one chunk, [T, T]."""
    i, j = np.indices((len(t.k), len(t.k)))
    decay = np.ones(i.shape)
    for row, column in zip(*_pairs(t), strict=True):
        decay[row, column] = np.prod(t.alpha[column + 1 : row + 1])
    return np.linalg.inv(np.eye(len(t.k)) + np.where(i > j, t.beta[:, None] * decay * (t.x @ t.k.T), 0))


def _along_path(t: Tokens, what: str) -> np.ndarray:
    found = []
    for i, j in zip(*_pairs(t), strict=True):
        vector, sizes = t.k[j], 1.0
        for m in range(j + 1, i):
            vector, sizes = vector @ t.A[m], sizes * np.linalg.norm(t.A[m], 2)
        found.append(float(vector @ t.x[i]) if what == "vector" else sizes)
    return np.array(found)


def _by_chunk(t: Tokens) -> np.ndarray:
    """The last memory by the chunk form, [V, d]."""
    total = np.cumprod(t.alpha)
    writes = t.beta[:, None] * t.v - (t.beta * total)[:, None] * (t.x @ t.S.T)
    U = inverse(t) @ writes
    since = np.array([np.prod(t.alpha[i + 1 :]) for i in range(len(t.k))])
    return total[-1] * t.S + (since[:, None] * U).T @ t.k


def g12() -> Claim:
    """The chunk form, and the entries of its inverse."""
    bound = beta * alpha * kappa * xnorm * product
    later = lambda measure: lambda t: measure(t)[_pairs(t)[0]]
    earlier = lambda measure: lambda t: measure(t)[_pairs(t)[1]]
    return Claim(
        "G12",
        "Chunk identity and its conditioning",
        r"<0>: the memory after a chunk, and with it every output, by the chunk form with $T$ the inverse of $I + L$, "
        r"$L$ strictly lower with $\beta_i e^{G_i - G_j} x_i \cdot k_j$ and $G$ the running sum of $\log \alpha$. For "
        r"$i$ after $j$ its entries are <1>, of size <2>, with $k$ that of token $j$ and all else of token $i$; and "
        r"<3> for $n$ tokens in between.",
        (
            Conclusion(sp.Eq(fast, slow)),
            Conclusion(sp.Eq(entry, -beta * alpha * path * mixed)),
            Conclusion(sp.Le(sp.Abs(entry), bound), (BETA_LOW, DECAY)),
            Conclusion(sp.Le(sp.Abs(entry), (1 + ell) * closed_forms.norm_envelope(1, ell) ** n), _ALIKE),
        ),
        "any number of tokens, and any width of keys and values; three tokens written out",
        MEASURES
        | {
            fast: _by_chunk,
            slow: lambda t: t.states[-1],
            entry: lambda t: inverse(t)[_pairs(t)],
            path: lambda t: _along_path(t, "vector"),
            mixed: lambda t: 1.0,
            product: lambda t: _along_path(t, "sizes"),
            n: lambda t: _pairs(t)[0] - _pairs(t)[1] - 1,
            ell: lambda t: t.numbers["L"],
            alpha: later(lambda t: t.alpha),
            beta: later(lambda t: t.beta),
            xnorm: later(lambda t: length(t.x)),
            kappa: earlier(lambda t: length(t.k)),
        },
    )


def chunk_identity() -> Proof:
    """The chunk form equals the recurrence, and the size of the entries of its inverse (claim G12)."""
    p = Derivation(g12())
    _any_chunk(p)
    _entries(p)
    _sizes(p)
    _three_tokens(p)
    _cycle(p)
    return p.proof()


def _any_chunk(p: Derivation) -> None:
    """The memory inside a chunk, by induction over its tokens; one earlier write stands for all."""
    before, now, other = sp.symbols("G_{i-1} G_{i} G_{j}", real=True)
    start, state, u, new, k, k_i, x_i, v = sp.symbols(
        r"S S_{i-1} u_{j} u_{i} k_{j}^{\top} k_{i}^{\top} x_{i} v_{i}", commutative=False
    )
    strength = sp.Symbol(r"\beta_{i}", real=True)
    form = sp.exp(before) * start + sp.exp(before - other) * u * k
    p.suppose(
        sp.Eq(state, form),
        "Suppose that before a token the memory has this form, one earlier write standing for all of them",
    )
    p.let(new, strength * (v - sp.exp(now - before) * form * x_i), "What the token writes, by the recurrence")
    decayed = sp.exp(now - before) * form
    p.equal(
        decayed - strength * decayed * x_i * k_i + strength * v * k_i,
        sp.exp(now) * start + sp.exp(now - other) * u * k + new * k_i,
        "Then the recurrence keeps the form, with the new write among them",
    )
    keeps = p.steps[-1].relation
    inner = sp.Symbol(r"(k_{j}\cdot{x_{i}})", real=True)
    p.let(k * x_i, inner, "An inner product")
    erase = closed_forms.erase_entry(strength, sp.exp(now - other), inner)
    p.equal(
        new + erase * u,
        strength * v - strength * sp.exp(now) * start * x_i,
        r"And the writes solve the triangular system of the chunk form, its row $i$",
    )
    p.by(
        Fact.INDUCTION,
        p.claim.conclusions[0].relation,
        "So both take the memory that enters to the same one",
        using=(keeps, p.steps[-1].relation),
    )


def _entries(p: Derivation) -> None:
    """T_ij = -beta_i alpha_i k_j^T A_{j+1} .. A_{i-1} x_i, for any i > j, by induction over i."""
    first, before, now, other, last = sp.symbols("G_{j} G_{m-1} G_{m} G_{l} G_{i}", real=True)
    strength, final, at_l = sp.symbols(r"\beta_{m} \beta_{i} T_{lj}", real=True)
    k_j, k_l, k_m, x_m, row, t_mj = sp.symbols(
        r"k_{j}^{\top} k_{l}^{\top} k_{m}^{\top} x_{m} z_{m-1} \tau_{m}", commutative=False
    )
    form = sp.exp(before - first) * k_j + sp.exp(before - other) * at_l * k_l
    p.suppose(
        sp.Eq(row, form),
        r"By induction over $m$: suppose that the row $z$, the key $j$ times the transitions after it, has this form, "
        r"with one entry $T_{lj}$ between $j$ and $m$ standing for all",
    )
    decay = sp.exp(now - before)
    p.let(t_mj, -strength * decay * form * x_m, "The entry that is claimed for the next token")
    step = closed_forms.transition(sp.Matrix([[k_m]]), sp.Matrix([[x_m]]), strength, decay)[0, 0]
    p.equal(
        sp.expand(form * step),
        sp.exp(now - first) * k_j + sp.exp(now - other) * at_l * k_l + t_mj * k_m,
        "Then one more transition keeps the form, with that entry in it",
    )
    keeps = p.steps[-1].relation
    to_j, to_l = sp.symbols(r"(k_{j}\cdot{x_{i}}) (k_{l}\cdot{x_{i}})", real=True)
    x_i = sp.Symbol("x_{i}", commutative=False)
    p.let(k_j * x_i, to_j, "An inner product")
    p.let(k_l * x_i, to_l, "And another")
    whole = sp.exp(last - first) * k_j + sp.exp(last - other) * at_l * k_l
    p.equal(
        -final * whole * x_i,
        -closed_forms.erase_entry(final, sp.exp(last - first), to_j)
        - closed_forms.erase_entry(final, sp.exp(last - other), to_l) * at_l,
        r"What is claimed of $T_{ij}$ is row $i$ of the inverse, solved from the top: minus $L$ minus $L$ times $T$",
    )
    using = (keeps, p.steps[-1].relation)
    p.by(Fact.INDUCTION, p.claim.conclusions[1].relation, "So it holds for every entry", using=using)


def _sizes(p: Derivation) -> None:
    relation = p.claim.conclusions[1].relation
    p.by(
        Fact.SUBMULTIPLICATIVE,
        p.claim.conclusions[2].relation,
        "With Cauchy-Schwarz",
        using=(relation, BETA_LOW, DECAY),
    )
    p.by(Fact.TRIANGLE, sp.Le(xnorm, kappa + lam * qnorm), "The mixed direction", using=(sp.Ge(lam, 0),))
    more, key, query = p.room(ell - lam), p.room(1 - kappa), p.room(1 - qnorm)
    p.at_least(1 + ell, xnorm, more + key + lam * query + p.room(kappa + lam * qnorm - xnorm), "Is no longer than this")
    p.at_least(ell, 0, more + lam, "The limit of the feedback")
    p.uses(g7(), 2, "every transition")
    one = closed_forms.norm_envelope(1, ell)
    single = closed_forms.norm_envelope(alpha, lam)
    slower = p.room(1 - alpha)
    p.at_least(
        one,
        single,
        slower * (1 + alpha) * (1 + ell**2) + alpha**2 * more * (ell + lam),
        "And none is larger than this",
        squared=True,
    )
    p.chain(norm, single, one, reason="So every one of them")
    p.by(Fact.SUBMULTIPLICATIVE, sp.Le(product, one**n), "All between", using=(sp.Le(norm, one),))
    bound = beta * alpha * kappa * xnorm * product
    p.at_least(
        (1 + ell) * one**n,
        bound,
        beta * alpha * kappa * (xnorm * p.room(one**n - product) + p.room(1 + ell - xnorm) * one**n)
        + (1 + ell) * one**n * (p.room(1 - beta) + beta * slower + beta * alpha * key),
        "Together",
    )
    p.chain(sp.Abs(entry), bound, (1 + ell) * one**n, reason="So the entries are no larger")


def _three_tokens(p: Derivation) -> None:
    """Three tokens written out, for one row s of the memory, by inner products."""
    t = Inner.symbols(3)
    along: list[sp.Symbol] = []
    for i in range(3):
        u = sp.Symbol(f"u_{i + 1}", real=True)
        seen = t.decay(i, -1) * t.sx(i) + sum(t.decay(i, j) * along[j] * t.xk(i, j) for j in range(i))
        p.let(u, t.beta[i] * (t.v[i] - seen), "What the recurrence writes")
        along.append(u)
    erase = sp.MatrixSymbol("L", 3, 3)
    p.let(erase, t.erase(), "The triangular matrix of the chunk form, three tokens")
    writes = sp.Matrix([t.beta[i] * (t.v[i] - t.decay(i, -1) * t.sx(i)) for i in range(3)])
    p.equal((sp.Identity(3) + erase) * sp.Matrix(along), writes, "The writes solve its system")


def _cycle(p: Derivation) -> None:
    """The entries along the two-token cycle: j of either kind, an even or odd number of transitions in between."""
    tokens = closed_forms.cycle_tokens(ell)
    (k, _), (k2, q2) = tokens
    A, B = (closed_forms.transition(key, key + ell * query, 1) for key, query in tokens)
    M = sp.MatrixSymbol("M", 2, 2)
    p.let(M, (B * A).applyfunc(sp.factor), "Two steps of the two-token cycle of claim G8, without decay")
    p.equal(M * M, (1 + ell**2) * M, "They repeat themselves but for a factor")
    key, query = sp.MatrixSymbol("k", 2, 1), sp.MatrixSymbol("x", 2, 1)
    p.let(key, k, "Its first key")
    p.let(query, (k2 + ell * q2).applyfunc(sp.factor), "And its second mixed direction")
    power = (1 + ell**2) ** n
    p.equal(
        -sp.Trace(query * key.T * (power * M)),
        ell**2 * power * sp.sqrt(1 + ell**2),
        "So the entries do grow like the bound: this one is after twice $n + 1$ tokens in between",
    )
