"""Proofs on one transition: its eigenvalues, spectral radius and singular values, and what lam = 0 leaves of them."""

from __future__ import annotations

import sympy as sp

from . import closed_forms
from .notation import a, across, along, alpha, beta, dot, kappa, lam, plane_transition, tex, vector, z
from .proof import Derivation, Fact, Proof

TRANSITION = r"$A = \alpha (I - \beta x k^\top)$, $x = k + \lambda q$, $a = k \cdot x$"
GATES = (r"$\alpha > 0$", r"$\beta \ge 0$", r"$\lambda \ge 0$", r"any $k, q \in \mathbb{R}^d$")
y, x = sp.Symbol("y"), sp.Symbol("x")


def spectrum() -> Proof:
    """Eigenvalues of A: alpha, d - 1 times, and alpha (1 - beta a) (claim G1)."""
    repeated, single = closed_forms.eigenvalues(alpha, beta, a)
    p = Derivation(
        "G1",
        "Spectrum of one transition",
        rf"{TRANSITION}, has the eigenvalues ${tex(repeated)}$, $d - 1$ times, and ${tex(single)}$.",
        hypotheses=GATES,
        dimension="any d >= 1; written out for d = 2, 3",
    )
    p.by(
        Fact.DETERMINANT,
        r"\det(z I - A) = (z - \alpha)^d \left(1 + \frac{\alpha \beta\, k^\top x}{z - \alpha}\right)",
        r"Here $B = (z - \alpha) I$, $u = \alpha \beta x$, $w = k$",
    )
    m = sp.Symbol("m", integer=True, nonnegative=True)
    p.equal(
        (z - alpha) ** (m + 1) * (1 + alpha * beta * a / (z - alpha)),
        (z - repeated) ** m * (z - single),
        "So the characteristic polynomial has these roots, with these multiplicities, in every dimension $d = m + 1$",
        shown=r"\det(z I - A)",
    )
    p.equal(_apply(y, 0), repeated * y, "Every $y$ orthogonal to $k$ is an eigenvector", shown="A y")
    p.by(Fact.KERNEL, r"\dim\, k^{\perp} = d - 1", "So that eigenvalue belongs to a hyperplane that is left as it is")
    p.equal(
        _apply(x, a),
        single * x,
        "The mixed direction is an eigenvector",
        shown="A x",
        shown_right=r"\alpha (1 - \beta a)\, x",
    )
    for size in (2, 3):
        A, _, mixed, key = _written_out(size)
        p.equal(
            characteristic(A),
            sp.expand((z - repeated) ** (size - 1) * (z - single)).subs(a, dot(mixed, key)),
            f"Written out with all entries for $d = {size}$",
            shown=r"\det(z I - A)",
            shown_right=_power(r"(z - \alpha)", size - 1) + r" (z - \alpha (1 - \beta\, k \cdot x))",
        )
    return p.proof()


def spectral_radius() -> Proof:
    """rho(A) = alpha max(1, |1 - beta a|) (claim G2)."""
    repeated, single = closed_forms.eigenvalues(alpha, beta, a)
    radius = closed_forms.spectral_radius(alpha, beta, a)
    p = Derivation(
        "G2",
        "Spectral radius of one transition",
        rf"$\rho(A) = {tex(radius)}$, and $\rho(A) \le \alpha$ if and only if $\beta a \in [0, 2]$; {TRANSITION}.",
        hypotheses=GATES,
        dimension="any d >= 2, so that both eigenvalues occur",
    )
    p.equal(sp.Abs(repeated), alpha, r"The eigenvalue that occurs $d - 1 \ge 1$ times", shown=r"|\alpha|")
    p.equal(sp.Abs(single), alpha * sp.Abs(1 - beta * a), "The other one", shown=r"|\alpha (1 - \beta a)|")
    m = sp.Symbol("m", nonnegative=True)
    p.equal(
        sp.Max(alpha, alpha * m).rewrite(sp.Abs),
        radius.subs(sp.Abs(1 - beta * a), m).rewrite(sp.Abs),
        r"The larger of the two, with $m = |1 - \beta a|$ and $\max(u, w) = (u + w + |u - w|) / 2$",
        shown=r"\rho(A) = \max(\alpha, \alpha m)",
        shown_right=r"\alpha \max(1, m)",
    )
    p.equal(
        1 - (1 - z) ** 2,
        z * (2 - z),
        r"With $z = \beta a$, $|1 - z| \le 1$ where this is $\ge 0$",
    )
    inside = sp.solve_univariate_inequality(z * (2 - z) >= 0, z, relational=False)
    p.holds(sp.Eq(inside, sp.Interval(0, 2)), r"z (2 - z) \ge 0 \iff z \in [0, 2]", "A parabola that opens downwards")
    return p.proof()


def operator_norm() -> Proof:
    """The singular values of A, and ||A|| >= alpha (claim G3)."""
    product = closed_forms.singular_product(beta, a)
    total = closed_forms.singular_square_sum(beta, a, kappa**2, sp.Symbol(r"\|x\|", nonnegative=True) ** 2)
    p = Derivation(
        "G3",
        "Singular values and operator norm of one transition",
        rf"The singular values of $A / \alpha$ are $1$, $d - 2$ times, and $s_+ \ge s_-$ with "
        rf"$s_+ s_- = |{tex(product)}|$ and $s_+^2 + s_-^2 = {tex(total)}$; "
        r"$\|A\| = \alpha s_+ = \frac{\alpha}{2} (\|2 k / \|k\| - \beta \|k\| x\| + \|\beta \|k\| x\|) \ge \alpha$, "
        r"with equality if and only if $\beta = 0$ or $x \parallel k$ with $\beta a \in [0, 2]$ "
        rf"(for $k = 0$ the first norm is $2$); {TRANSITION}.",
        hypotheses=GATES,
        dimension="any d >= 2; written out for d = 2, 3",
    )
    _in_the_plane(p)
    _sides(p)
    _never_below_one(p)
    for size in (2, 3):
        A, _, mixed, key = _written_out(size, alpha=1)
        sum_, product_ = _sum_and_product(dot(key, mixed), dot(key, key), dot(mixed, mixed))
        p.equal(
            characteristic(A.T * A),
            sp.expand((z - 1) ** (size - 2) * (z**2 - sum_ * z + product_**2)),
            f"Written out with all entries for $d = {size}$, $\\alpha = 1$",
            shown=r"\det(z I - A^\top A)",
            shown_right=_power("(z - 1)", size - 2) + r" \left(z^2 - (s_+^2 + s_-^2)\, z + (s_+ s_-)^2\right)",
        )
    return p.proof()


def reduction() -> Proof:
    """Without query feedback A is symmetric, with norm alpha max(1, |1 - beta ||k||^2|) (claim G13)."""
    norm = closed_forms.reduced_norm(alpha, beta, kappa**2)
    p = Derivation(
        "G13",
        "Reduction to Gated DeltaNet",
        rf"For $\lambda = 0$ the transition $A = \alpha (I - \beta k k^\top)$ is symmetric with $\|A\| = "
        rf"{tex(norm)}$; it expands nothing beyond $\alpha$ if and only if $\beta \|k\|^2 \in [0, 2]$.",
        hypotheses=(r"$\lambda = 0$", *GATES[:2], GATES[3]),
        dimension="any d >= 2; written out for d = 2, 3",
    )
    for size in (2, 3):
        A = _written_out(size)[0].subs(lam, 0)
        p.equal(
            A - A.T, sp.zeros(size), f"Symmetry, written out for $d = {size}$", shown=r"A - A^\top", shown_right="0"
        )
    plane = plane_transition().subs({along: kappa, across: 0})
    p.equal(
        plane,
        sp.diag(1 - beta * kappa**2, 1),
        r"In every dimension: diagonal in an orthonormal basis from $k / \|k\|$ on, with $x = k$",
        shown=r"A / \alpha \text{ in the plane}",
    )
    sum_, product = _sum_and_product(kappa**2, kappa**2, kappa**2)
    p.equal(
        z**2 - sum_ * z + product**2,
        (z - 1) * (z - (1 - beta * kappa**2) ** 2),
        r"At $x = k$ the squares $s_\pm^2$ are the roots $z$ of this polynomial: $1$ and $(1 - \beta \|k\|^2)^2$",
        shown=r"z^2 - (s_+^2 + s_-^2)\, z + (s_+ s_-)^2",
    )
    m = sp.Symbol("m", nonnegative=True)
    p.equal(
        norm.subs(sp.Abs(1 - beta * kappa**2), m).rewrite(sp.Abs),
        sp.Max(alpha, alpha * m).rewrite(sp.Abs),
        r"The norm is the larger root, $m = |1 - \beta \|k\|^2|$: the spectral radius, as it must be for $A = A^\top$",
        shown=r"\|A\|",
        shown_right=r"\max(\alpha, \alpha m)",
    )
    inside = sp.solve_univariate_inequality(1 - (1 - z) ** 2 >= 0, z, relational=False)
    p.holds(sp.Eq(inside, sp.Interval(0, 2)), r"|1 - z| \le 1 \iff z \in [0, 2]", r"With $z = \beta \|k\|^2$")
    return p.proof()


def _in_the_plane(p: Derivation) -> None:
    M = plane_transition()
    p.by(
        Fact.PLANE,
        rf"A = \alpha {tex(M)} \oplus \alpha I_{{d - 2}}, \quad x = x_{{\parallel}} e_1 + x_{{\perp}} e_2",
        r"In an orthonormal basis that goes on from $e_1, e_2$",
    )
    p.equal(_apply(y, 0), alpha * y, r"Beyond the plane, $k \cdot y = 0$", shown="A y")
    kx, xx = kappa * along, along**2 + across**2
    sum_, product = _sum_and_product(kx, kappa**2, xx)
    p.equal(
        (M.T * M).trace(),
        sum_,
        r"The sum of the two squares, with $a = \|k\| x_\parallel$ and $\|x\|^2 = x_\parallel^2 + x_\perp^2$",
        shown=r"s_+^2 + s_-^2 = \mathrm{tr}\, A^\top A / \alpha^2",
    )
    p.equal((M.T * M).det(), product**2, "Their product", shown=r"s_+^2 s_-^2 = \det A^\top A / \alpha^4")


def _sides(p: Derivation) -> None:
    r1, r2 = closed_forms.sides(beta, kappa, along, across)
    kx, xx = kappa * along, along**2 + across**2
    sum_, product = _sum_and_product(kx, kappa**2, xx)
    p.equal(r1**2, beta**2 * kappa**2 * xx, r"The first of two lengths", shown=r"r_1^2 = \|\beta \|k\| x\|^2")
    p.equal(
        r2**2,
        4 - 4 * beta * kx + r1**2,
        r"The second",
        shown=r"r_2^2 = \|2 e_1 - \beta \|k\| x\|^2",
        shown_right=r"4 - 4 \beta a + r_1^2",
    )
    largest = closed_forms.operator_norm(1, beta, kappa, along, across)
    smallest = largest - r1
    p.equal(
        largest * smallest,
        product,
        "Their half sum and half difference have the product $s_+ s_-$, up to sign",
        shown=r"\frac{r_2 + r_1}{2} \cdot \frac{r_2 - r_1}{2}",
    )
    p.equal(
        largest**2 + smallest**2,
        sum_,
        r"And the right sum of squares, so $s_\pm = |r_2 \pm r_1| / 2$",
        shown=r"\left(\frac{r_2 + r_1}{2}\right)^2 + \left(\frac{r_2 - r_1}{2}\right)^2",
    )


def _never_below_one(p: Derivation) -> None:
    kx, xx = kappa * along, along**2 + across**2
    sum_, product = _sum_and_product(kx, kappa**2, xx)
    p.nonnegative(
        sum_ - product**2 - 1,
        (beta * kappa * across) ** 2,
        r"With $s_- \le s_+$ this says $s_- \le 1 \le s_+$, and $s_+ > 1$ unless $\beta = 0$ or $x \parallel k$",
        shown=r"(s_+^2 - 1)(1 - s_-^2) = s_+^2 + s_-^2 - s_+^2 s_-^2 - 1",
    )
    p.equal(
        (z**2 - sum_ * z + product**2).subs(across, 0),
        (z - 1) * (z - (1 - beta * kx) ** 2),
        r"Where $x \parallel k$ the squares are $1$ and $(1 - \beta a)^2$: $s_+ = 1$ exactly if $|1 - \beta a| \le 1$",
        shown=r"z^2 - (s_+^2 + s_-^2)\, z + (s_+ s_-)^2",
    )
    p.equal(
        sum_.subs(beta, 0) - 2,
        0,
        r"Where $\beta = 0$ both are $1$",
        shown=r"s_+^2 + s_-^2 - 2 s_+ s_-",
        shown_right="0",
    )
    M = plane_transition()
    p.equal(
        (M.T * M - M * M.T)[0, 0],
        (beta * kappa * across) ** 2,
        r"$A$ is normal only where $\beta = 0$ or $x \parallel k$: query feedback makes it non-normal",
        shown=r"(A^\top A - A A^\top)_{11} / \alpha^2",
    )


def _sum_and_product(kx: sp.Expr, kk: sp.Expr, xx: sp.Expr) -> tuple[sp.Expr, sp.Expr]:
    return closed_forms.singular_square_sum(beta, kx, kk, xx), closed_forms.singular_product(beta, kx)


def _apply(vector_: sp.Expr, k_dot: sp.Expr | int) -> sp.Expr:
    """A vector = alpha (vector - beta (k.vector) x), with vectors as symbols in a linear combination."""
    return alpha * (vector_ - beta * k_dot * x)


def _written_out(size: int, alpha: sp.Expr | int = alpha) -> tuple[sp.Matrix, sp.Matrix, sp.Matrix, sp.Matrix]:
    """A, q, x, k with all their entries."""
    k, q = vector("k", size), vector("q", size)
    mixed = k + lam * q
    return closed_forms.transition(k, mixed, beta, alpha), q, mixed, k


def _power(base: str, exponent: int) -> str:
    return {0: "", 1: base}.get(exponent, f"{base}^{exponent}")


def characteristic(M: sp.Matrix) -> sp.Expr:
    """Return det(z I - M)."""
    return (z * sp.eye(M.rows) - M).det(method="berkowitz")
