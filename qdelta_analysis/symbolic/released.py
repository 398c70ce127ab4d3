"""What the released kernels of the paper's authors compute inside a chunk, against the recurrence."""

from __future__ import annotations

import sympy as sp

from .chunks import Tokens, chunk, inverse, recurrence
from .proof import Derivation, Proof


def released_difference() -> Proof:
    """What k_i.x_j in place of x_i.k_j inside a chunk, as in the released kernels of the paper's authors, changes."""
    p = Derivation(
        "Beside G12",
        "The released form inside a chunk is another recurrence",
        r"With $L'_{ij} = \beta_i e^{G_i - G_j} k_i \cdot x_j$ in place of $\beta_i e^{G_i - G_j} x_i \cdot k_j$ the "
        r"chunk form departs from the recurrence at first order in $\lambda$. Its writes $U'$ equal $U$ for all values "
        r"$v$ if and only if $\lambda_i q_i \cdot k_j = \lambda_j k_i \cdot q_j$ for all $i > j$ in the chunk, as for "
        r"$\lambda = 0$ and for $C = 1$.",
        hypotheses=(r"$\beta_i > 0$, $\alpha_i > 0$", r"any $k_t, q_t, S$"),
        dimension="any d, V >= 1 by inner products, C = 1, 2, 3",
    )
    t = Tokens.symbols(2)
    mismatch = t.lam[1] * t.qk[1, 0] - t.lam[0] * t.qk[0, 1]
    change = [released - exact for released, exact in zip(chunk(t, released=True), recurrence(t), strict=True)]
    first = t.beta[0] * (t.v[0] - t.alpha[0] * t.sx(0))
    shift = t.beta[1] * t.alpha[1] * mismatch * first
    p.equal(
        change[0],
        sp.Matrix([0, shift]),
        r"Two tokens: what is written at the second is wrong by this, exactly",
        shown=r"U' - U",
    )
    p.equal(
        change[1],
        sp.Matrix([0, t.qk[1, 1] * shift]),
        "And with it the output there",
        shown="O' - O",
        shown_right=r"\left[0, (q_2 \cdot k_2) (U' - U)_2\right]^\top",
    )
    p.equal(
        change[2],
        sp.Matrix([0, 0, shift]),
        "And the memory that leaves the chunk, along $k_2$",
        shown="S' - S",
        shown_right="(U' - U)_2\\, k_2^\\top",
    )
    _first_order(p, t, change[0][1], mismatch)
    _three_tokens(p)
    return p.proof()


def _first_order(p: Derivation, t: Tokens, change: sp.Expr, mismatch: sp.Expr) -> None:
    size = sp.Symbol(r"\epsilon", real=True)
    p.equal(
        sp.diff(change.subs({x: size * x for x in t.lam}, simultaneous=True), size).subs(size, 0),
        t.beta[0] * t.beta[1] * t.alpha[1] * mismatch * (t.v[0] - t.alpha[0] * t.sk[0]),
        r"At first order in the feedback, $\epsilon \lambda$ in place of $\lambda$",
        shown=r"\partial_\epsilon (U' - U)_2 |_{\epsilon = 0}",
    )
    p.holds(
        t.beta[0] * t.beta[1] * t.alpha[1] > 0,
        r"\beta_1 \beta_2 \alpha_2 > 0",
        r"So it vanishes for all $v_1$ if and only if $\lambda_2 q_2 \cdot k_1 = \lambda_1 q_1 \cdot k_2$",
    )


def _three_tokens(p: Derivation) -> None:
    t = Tokens.symbols(3)
    exact, released = t.erase(), t.erase(released=True)
    for i in range(t.C):
        for j in range(i):
            p.equal(
                (released - exact)[i, j],
                t.beta[i] * t.decay(i, j) * (t.lam[j] * t.qk[j, i] - t.lam[i] * t.qk[i, j]),
                f"Three tokens, $i = {i + 1}$, $j = {j + 1}$: zero if and only if "
                r"$\lambda_i q_i \cdot k_j = \lambda_j k_i \cdot q_j$",
                shown=r"(L' - L)_{ij}",
            )
    T, U = inverse(released), recurrence(t)[0]
    p.equal(
        chunk(t, released=True)[0] - U,
        -T * (released - exact) * U,
        "These three entries are all that differs",
        shown="U' - U",
        shown_right="-T' (L' - L) U",
    )
    p.equal(T.det(), 1, "$T'$ is invertible, so $U' = U$ only where $(L' - L) U = 0$", shown=r"\det T'")
    p.equal(
        U.jacobian(sp.Matrix(t.v)).det(),
        sp.Mul(*t.beta),
        "$U$ takes every value as $v$ does, since this is not zero, so for all $v$ only where $L' = L$",
        shown=r"\det \partial U / \partial v",
    )
    nothing = dict.fromkeys(t.lam, 0)
    p.equal(
        chunk(t, released=True)[0].subs(nothing),
        U.subs(nothing),
        r"At $\lambda = 0$ both agree",
        shown="U'",
        shown_right="U",
    )
    one = Tokens.symbols(1)
    p.equal(
        sp.Matrix.vstack(*chunk(one, released=True)),
        sp.Matrix.vstack(*recurrence(one)),
        "And for $C = 1$",
        shown="U', O', S'",
        shown_right="U, O, S",
    )
