"""Proofs on the chunk form: it equals the recurrence, how its inverse can grow, and what the released form changes.

For one row of the memory and C tokens everything depends on the vectors through their inner products alone: s.k_i and
s.q_i for the entering row s, k_i.k_j, and q_i.k_j. With these as symbols an identity holds in every dimension.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import sympy as sp
from sympy.matrices import MatrixBase

from . import closed_forms
from .notation import UNIT, c, dot, lam, vector
from .proof import Derivation, Fact, Proof
from .spectrum import TRANSITION

CHUNK = (
    r"$U = T\, (\mathrm{diag}(\beta) V - \mathrm{diag}(\beta e^G) X S^\top)$, $T = (I + L)^{-1}$, "
    r"$O = \mathrm{diag}(e^G) Q S^\top + \mathrm{lower}(e^{G_i - G_j} q_i \cdot k_j)\, U$, "
    r"$S \leftarrow e^{G_C} S + (\mathrm{diag}(e^{G_C - G}) U)^\top K$, with $G$ the running sum of $g = \log \alpha$"
)

# The limit of lam in this claim, where L is a matrix.
ell = sp.Symbol(r"\ell", nonnegative=True)


@dataclass(frozen=True)
class Tokens:
    """The symbols of C tokens as one row of the memory sees them."""

    C: int
    alpha: tuple[sp.Symbol, ...]
    beta: tuple[sp.Symbol, ...]
    lam: tuple[sp.Symbol, ...]
    v: tuple[sp.Symbol, ...]
    sk: tuple[sp.Symbol, ...]
    sq: tuple[sp.Symbol, ...]
    kk: MatrixBase  # [C, C], symmetric
    qk: MatrixBase  # [C, C], q_i.k_j

    @classmethod
    def symbols(cls, C: int) -> Tokens:
        """Draw up C tokens."""
        names = lambda name, **given: tuple(sp.Symbol(f"{name}_{{{i}}}", **given) for i in range(1, C + 1))
        inner = lambda u, w, i, j: sp.Symbol(rf"{{({u}_{i + 1}\cdot{{{w}_{j + 1}}})}}", real=True)
        return cls(
            C,
            names(r"\alpha", positive=True),
            names(r"\beta", positive=True),
            names(r"\lambda", nonnegative=True),
            names("v", real=True),
            names(r"s\cdot k", real=True),
            names(r"s\cdot q", real=True),
            _square(C, lambda i, j: inner("k", "k", max(i, j), min(i, j))),
            _square(C, lambda i, j: inner("q", "k", i, j)),
        )

    def xk(self, i: int, j: int) -> sp.Expr:
        """Return x_i.k_j."""
        return self.kk[i, j] + self.lam[i] * self.qk[i, j]

    def sx(self, i: int) -> sp.Expr:
        """Return s.x_i for the entering row s."""
        return self.sk[i] + self.lam[i] * self.sq[i]

    def decay(self, i: int, j: int) -> sp.Expr:
        """Return e^(G_i - G_j), i >= j; j = -1 is the start of the chunk."""
        return sp.Mul(*self.alpha[j + 1 : i + 1])

    def erase(self, released: bool = False) -> sp.Matrix:
        """Return L, with x_i.k_j, or with k_i.x_j as the released kernels have it."""
        entry = lambda i, j: self.kk[i, j] + self.lam[j] * self.qk[j, i] if released else self.xk(i, j)
        return _square(
            self.C,
            lambda i, j: closed_forms.erase_entry(self.beta[i], self.decay(i, j), entry(i, j)) if i > j else 0,
        )


def _square(size: int, entry: Callable[[int, int], sp.Expr | int]) -> sp.Matrix:
    return sp.Matrix([[entry(i, j) for j in range(size)] for i in range(size)])


def recurrence(t: Tokens) -> tuple[sp.Matrix, sp.Matrix, sp.Matrix]:
    """Return (U, O, final row), each from the recurrence; the row in terms of s, k_1, ..., k_C."""
    entering, along = sp.S.One, [sp.S.Zero] * t.C
    U, O = [], []
    for i in range(t.C):
        seen = entering * t.sx(i) + sum(along[j] * t.xk(i, j) for j in range(i))
        entering, along = t.alpha[i] * entering, [t.alpha[i] * part for part in along]
        along[i] = sp.expand(t.beta[i] * (t.v[i] - t.alpha[i] * seen))
        U.append(along[i])
        O.append(entering * t.sq[i] + sum(along[j] * t.qk[i, j] for j in range(i + 1)))
    return sp.Matrix(U), sp.Matrix(O), sp.Matrix([entering, *along])


def chunk(t: Tokens, released: bool = False) -> tuple[sp.Matrix, sp.Matrix, sp.Matrix]:
    """Return (U, O, final row) from the chunk form."""
    start = [t.decay(i, -1) for i in range(t.C)]
    writes = sp.Matrix([t.beta[i] * (t.v[i] - start[i] * t.sx(i)) for i in range(t.C)])
    U = inverse(t.erase(released)) * writes
    readout = _square(t.C, lambda i, j: t.decay(i, j) * t.qk[i, j] if i >= j else 0)
    O = sp.Matrix([start[i] * t.sq[i] for i in range(t.C)]) + readout * U
    return U, O, sp.Matrix([start[-1], *(t.decay(t.C - 1, j) * U[j] for j in range(t.C))])


def inverse(erase: MatrixBase) -> sp.Matrix:
    """Return T = (I + L)^-1 for strictly lower L, by forward substitution."""
    return sp.Matrix((sp.eye(erase.rows) + erase).lower_triangular_solve(sp.eye(erase.rows)))


def chunk_identity() -> Proof:
    """The chunk form equals the recurrence, and the size of the entries of its inverse (claim G12)."""
    p = Derivation(
        "G12",
        "Chunk identity and its conditioning",
        rf"The recurrence equals {CHUNK}, $L_{{ij}} = \beta_i e^{{G_i - G_j}} x_i \cdot k_j$ for $i > j$. Moreover "
        r"$|T_{ij}| \le \beta_i \alpha_i \|x_i\| \|k_j\| \prod_{m=j+1}^{i-1} \|A_m\| \le "
        r"(1 + \ell) (1 + \ell^2)^{(i-j-1)/2}$ for $i > j$, the second for unit vectors with $\beta, \alpha \le 1$, "
        r"$\lambda \le \ell$; and along the two-token cycle with $\alpha = \beta = 1$, $\lambda = \ell$: "
        rf"$T_{{ij}} = \ell^2 (1 + \ell^2)^{{(i-j-2)/2}}$ for $i - j \ge 2$; {TRANSITION}.",
        hypotheses=(
            r"any $k_t, q_t, v_t, S$ and gates for the identity",
            rf"for the bounds {UNIT} and the gates named",
        ),
        dimension="any d, V >= 1 by inner products, C = 2, 3, 4 (any $C$ by induction); all entries at d = V = C = 2",
    )
    _unrolled(p)
    for C in (2, 3, 4):
        t = Tokens.symbols(C)
        p.equal(
            sp.Matrix.vstack(*chunk(t)),
            sp.Matrix.vstack(*recurrence(t)),
            f"Chunk form against recurrence, entry by entry with all inner products symbols, $C = {C}$",
            shown=r"(U, O, S_C)^{\text{chunk}}",
            shown_right=r"(U, O, S_C)^{\text{recurrence}}",
        )
    _dense(p)
    _inverse_entries(p)
    _bounds(p)
    _cycle(p)
    return p.proof()


def _unrolled(p: Derivation) -> None:
    G, g, Gj, u, s, k = sp.symbols("G_{i-1} g_i G_j u_j S k_j")
    p.equal(
        sp.exp(g) * (sp.exp(G) * s + sp.exp(G - Gj) * u * k),
        sp.exp(G + g) * s + sp.exp(G + g - Gj) * u * k,
        r"Induction over the tokens: if $S_{i-1} = e^{G_{i-1}} S + \sum_{j<i} e^{G_{i-1} - G_j} u_j k_j^\top$ (one "
        r"summand stands for all), then $S_i = \alpha_i S_{i-1} + u_i k_i^\top$ has that form, $G_i = G_{i-1} + g_i$",
        shown=r"\alpha_i S_{i-1}",
        shown_right=r"e^{G_i} S + \sum_{j < i} e^{G_i - G_j} u_j k_j^\top",
    )
    v, b, sx, kx = sp.symbols(r"v_i \beta_i Sx_i x_i\cdot{k_j}")
    p.equal(
        b * (v - sp.exp(g) * (sp.exp(G) * sx + sp.exp(G - Gj) * u * kx)),
        b * v - b * sp.exp(G + g) * sx - closed_forms.erase_entry(b, sp.exp(G + g - Gj), kx) * u,
        r"So $u_i = \beta_i (v_i - \alpha_i S_{i-1} x_i)$ (one summand $j$ shown) is row $i$ of "
        r"$(I + L)\, U = \mathrm{diag}(\beta) V - \mathrm{diag}(\beta e^G) X S^\top$",
        shown=r"u_i",
        shown_right=r"\beta_i v_i - \beta_i e^{G_i} S x_i - L_{ij} u_j",
    )


def _dense(p: Derivation) -> None:
    """Two tokens, d = V = 2, with the transition as a matrix and all entries symbols: no inner product assumed."""
    t = Tokens.symbols(2)
    k, q, v = ([vector(f"{name}{i}", 2) for i in (1, 2)] for name in "kqv")
    S = sp.Matrix(2, 2, sp.symbols("S_1:5", real=True))
    new, x = S, [k[i] + t.lam[i] * q[i] for i in range(2)]
    outputs = []
    for i in range(2):
        new = new * closed_forms.transition(k[i], x[i], t.beta[i], t.alpha[i]) + t.beta[i] * v[i] * k[i].T
        outputs.append(new * q[i])
    K, Q, X, V = (sp.Matrix([list(row) for row in rows]) for rows in (k, q, x, v))
    start = sp.diag(t.decay(0, -1), t.decay(1, -1))
    erase = sp.Matrix([[0, 0], [closed_forms.erase_entry(t.beta[1], t.alpha[1], dot(x[1], k[0])), 0]])
    U = inverse(erase) * sp.diag(*t.beta) * (V - start * X * S.T)
    readout = (Q * K.T).multiply_elementwise(sp.Matrix([[1, 0], [t.alpha[1], 1]]))
    p.equal(
        start * Q * S.T + readout * U,
        sp.Matrix.hstack(*outputs).T,
        "With all entries, $d = V = C = 2$",
        shown=r"O^{\text{chunk}}",
        shown_right=r"O^{\text{recurrence}}",
    )
    p.equal(
        t.decay(1, -1) * S + (sp.diag(t.alpha[1], 1) * U).T * K,
        new,
        "And the memory",
        shown=r"S_C^{\text{chunk}}",
        shown_right=r"S_C^{\text{recurrence}}",
    )


def _inverse_entries(p: Derivation) -> None:
    t = Tokens.symbols(4)

    def entry(i: int, j: int) -> sp.Expr:
        if i <= j:
            return sp.Integer(i == j)
        row = [sp.Integer(n == j) for n in range(t.C)]  # k_j^T, then its products with A_m, in terms of the keys
        for m in range(j + 1, i):
            seen = sum(part * t.xk(m, n) for n, part in enumerate(row))
            row = [t.alpha[m] * (part - (t.beta[m] * seen if n == m else 0)) for n, part in enumerate(row)]
        return -t.beta[i] * t.alpha[i] * sum(part * t.xk(i, n) for n, part in enumerate(row))

    p.equal(
        inverse(t.erase()),
        _square(t.C, entry),
        "All entries of the inverse, $C = 4$, $i > j$",
        shown="T_{ij}",
        shown_right=r"-\beta_i \alpha_i\, k_j^\top \Big[\prod_{m=j+1}^{i-1} A_m\Big] x_i",
    )


def _bounds(p: Derivation) -> None:
    p.by(
        Fact.CAUCHY_SCHWARZ,
        r"|T_{ij}| \le \beta_i \alpha_i \|k_j\| \|x_i\| \prod_{m=j+1}^{i-1} \|A_m\|",
        "And submultiplicativity",
    )
    p.nonnegative(
        (1 + ell) ** 2 - (1 + 2 * lam * c + lam**2),
        p.room(ell - lam) * (2 + ell + lam) + 2 * lam * p.room(1 - c),
        r"For unit vectors with $c = k \cdot q$",
        shown=r"(1 + \ell)^2 - \|x\|^2",
    )
    p.uses("G7", r"\|A_m\| \le \sqrt{1 + \ell^2}", r"for $\alpha, \beta \le 1$, $\lambda \le \ell$")
    n = sp.Symbol("n", integer=True, nonnegative=True)
    bound = (1 + ell) * closed_forms.norm_envelope(1, ell) ** n
    p.equal(
        bound,
        (1 + ell) * (1 + ell**2) ** (n / 2),
        r"Together, with $n = i - j - 1$",
        shown=r"|T_{ij}| \le (1 + \ell) \prod_m \|A_m\| \le (1 + \ell) \sqrt{1 + \ell^2}^{\,n}",
    )
    p.equal(
        bound.subs(ell, 0),
        1,
        r"Without feedback the bound is $1$, as in Gated DeltaNet",
        shown=r"(1 + \ell) (1 + \ell^2)^{n/2} |_{\ell = 0}",
    )


def _cycle(p: Derivation) -> None:
    """The entries along the two-token cycle: j of either kind, an even or odd number of transitions in between."""
    tokens = closed_forms.cycle_tokens(ell)
    xs = [k + ell * q for k, q in tokens]
    A = [closed_forms.transition(k, x, 1) for (k, _), x in zip(tokens, xs, strict=True)]
    n = sp.Symbol("n", integer=True, positive=True)
    square = 1 + ell**2
    for kind, other in ((0, 1), (1, 0)):
        k, M = tokens[kind][0], A[other] * A[kind]
        p.equal(
            M * M,
            square * M,
            rf"Two-token cycle of claim G8 from its token {kind + 1} on: so $M^n = (1 + \ell^2)^{{n-1}} M$",
            shown=rf"M = A_{other + 1} A_{kind + 1}: \quad M^2",
            shown_right=r"(1 + \ell^2) M",
        )
        power = M * square ** (n - 1)
        entries = {
            "i - j = 2": (-dot(k, A[other] * xs[kind]), ell**2),
            r"i - j = 2 n + 1, n \ge 1": (-dot(k, power * xs[other]), ell**2 * square ** (n - sp.S(1) / 2)),
            r"i - j = 2 n + 2, n \ge 1": (-dot(k, power * A[other] * xs[kind]), ell**2 * square**n),
        }
        for distance, (entry, value) in entries.items():
            p.equal(entry, value, f"At ${distance}$", shown=r"T_{ij} = -k_j^\top [A_{j+1} \cdots A_{i-1}] x_i")
    p.equal((ell**2 * square**n).subs(ell, 1), 2**n, r"At $\ell = 1$ that is $2^{(i - j - 2)/2}$", shown=r"T_{ij}")
