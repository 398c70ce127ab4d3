"""What the released kernels of the paper's authors compute inside a chunk, against the recurrence."""

from __future__ import annotations

import sympy as sp

from . import closed_forms
from .chunks import Tokens, chunk, recurrence
from .claim import Claim, Conclusion
from .engine import Derivation
from .proof import Proof

released, exact, beta_i, decay, inner, lam_i, lam_j, q_i, q_j = sp.symbols(
    r"L'_{ij} L_{ij} \beta_i e^{G_i-G_j} (k_i\cdot{k_j}) \lambda_i \lambda_j (q_i\cdot{k_j}) (q_j\cdot{k_i})", real=True
)
writes, others, inverse, matrix, matrix_released = sp.symbols("U U' T' L L'", commutative=False)


def difference() -> Claim:
    """What the released form changes."""
    return Claim(
        "Beside G12",
        "The released form inside a chunk is another recurrence",
        r"With $k_i \cdot x_j$ in place of $x_i \cdot k_j$ the triangular matrix of a chunk changes by <0>, and what "
        r"is "
        r"written by <1>, $T'$ the inverse of $I + L'$. That is nothing for all values only where every entry "
        r"vanishes, as without feedback and for one token; it is of first order in $\lambda$.",
        (
            Conclusion(sp.Eq(released - exact, beta_i * decay * (lam_j * q_j - lam_i * q_i))),
            Conclusion(sp.Eq(others - writes, -inverse * (matrix_released - matrix) * writes)),
        ),
        "any number of tokens, any width; two tokens written out by inner products",
    )


def released_difference() -> Proof:
    """What k_i.x_j in place of x_i.k_j inside a chunk, as in the released kernels of the paper's authors, changes."""
    p = Derivation(difference())
    p.let(exact, closed_forms.erase_entry(beta_i, decay, inner + lam_i * q_i), "An entry of the chunk form")
    p.let(released, closed_forms.erase_entry(beta_i, decay, inner + lam_j * q_j), "And of the released one")
    p.states(0, "Their difference")
    p.let(others, inverse * (1 + matrix) * writes, "The released form solves the system of the same right side")
    p.let(inverse * matrix_released, 1 - inverse, "With its own inverse")
    p.states(1, "So its writes are others")
    _two_tokens(p)
    return p.proof()


def _two_tokens(p: Derivation) -> None:
    t = Tokens.symbols(2)
    first, second, wrong = sp.symbols("u_1 u_2 u'_2", real=True)
    mismatch = t.lam[1] * t.qk[1, 0] - t.lam[0] * t.qk[0, 1]
    exact_u, released_u = list(recurrence(t)[0].flat()), list(chunk(t, released=True)[0].flat())
    p.let(first, exact_u[0], "Two tokens: what the first writes, in both")
    p.let(second, exact_u[1], "What the second writes by the recurrence")
    p.let(wrong, released_u[1], "And by the released form")
    p.equal(wrong - second, t.beta[1] * t.alpha[1] * mismatch * first, "It is wrong by this, exactly")
    O, O_released = recurrence(t)[1].flat(), chunk(t, released=True)[1].flat()
    p.equal(sp.expand(O_released[1] - O[1]), t.qk[1, 1] * (wrong - second), "And so is the output there")
    size = sp.Symbol(r"\epsilon", real=True)
    scaled = (released_u[1] - exact_u[1]).subs({y: size * y for y in t.lam}, simultaneous=True)
    p.equal(
        sp.Subs(sp.Derivative(sp.factor(scaled), size), size, 0),
        t.beta[0] * t.beta[1] * t.alpha[1] * mismatch * (t.v[0] - t.alpha[0] * t.sk[0]),
        r"At first order in the feedback, $\epsilon \lambda$ in place of $\lambda$",
    )
    nothing = dict.fromkeys(t.lam, 0)
    p.equal(sp.expand(released_u[1].subs(nothing)), sp.expand(exact_u[1].subs(nothing)), "Without feedback both agree")
