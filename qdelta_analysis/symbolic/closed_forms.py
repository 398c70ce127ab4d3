"""The formulas that the claims state. The proofs check these, and the NumPy functions evaluate these."""

from __future__ import annotations

import sympy as sp
from sympy.matrices import MatrixBase

Number = sp.Expr | float


def transition(k: MatrixBase, x: MatrixBase, beta: Number, alpha: Number = 1) -> sp.Matrix:
    """Return A = alpha (I - beta x k^T) for columns k and x, [d, d]."""
    return alpha * (sp.eye(k.rows) - beta * x * k.T)


def eigenvalues(alpha: Number, beta: Number, a: Number) -> tuple[sp.Expr, sp.Expr]:
    """Return alpha (d - 1 times) and alpha (1 - beta a): claim G1."""
    return sp.sympify(alpha), alpha * error_factor(beta, a)


def spectral_radius(alpha: Number, beta: Number, a: Number) -> sp.Expr:
    """Return alpha max(1, |1 - beta a|), d >= 2: claim G2."""
    return sp.sympify(alpha) * sp.Max(1, sp.Abs(error_factor(beta, a)))


def singular_product(beta: Number, a: Number) -> sp.Expr:
    """Return s+ s- up to its sign, 1 - beta a: claim G3."""
    return sp.sympify(1 - beta * a)


def singular_square_sum(beta: Number, a: Number, kk: Number, xx: Number) -> sp.Expr:
    """Return s+^2 + s-^2 = 2 - 2 beta a + beta^2 ||x||^2 ||k||^2: claim G3."""
    return sp.sympify(2 - 2 * beta * a + beta**2 * xx * kk)


def sides(beta: Number, kappa: Number, along: Number, across: Number) -> tuple[sp.Expr, sp.Expr]:
    """Return r1 = ||beta kappa x|| and r2 = ||2 e - beta kappa x||, kappa = ||k||, e = k / kappa: claim G3.

    x = (along, across) are its parts along and across k. Written as norms: as 4 - 4 beta a + r1^2 the second would
    lose half the digits where x is parallel to k.
    """
    aligned, side = beta * kappa * along, beta * kappa * across
    return sp.sqrt(aligned**2 + side**2), sp.sqrt((2 - aligned) ** 2 + side**2)


def operator_norm(alpha: Number, beta: Number, kappa: Number, along: Number, across: Number) -> sp.Expr:
    """Return ||A|| = alpha s+ = alpha (r1 + r2) / 2, d >= 2: claim G3."""
    r1, r2 = sides(beta, kappa, along, across)
    return sp.sympify(alpha) * (r1 + r2) / 2


def error_factor(beta: Number, a: Number) -> sp.Expr:
    """Return 1 - beta a, by which one token takes the mixed error: claim G4."""
    return sp.sympify(1 - beta * a)


def tracking_bound(rho: Number, drift: Number, e0: Number, t: Number) -> sp.Expr:
    """Return rho^t e0 + rho drift (1 - rho^t) / (1 - rho): claim G5."""
    return sp.sympify(rho**t * e0 + rho * drift * (1 - rho**t) / (1 - rho))


def alignment(lam: Number, c: Number, kappa: Number = 1, size: Number = 1) -> sp.Expr:
    """Return a = k.x = kappa^2 + lam kappa size c for kappa = ||k||, size = ||q||, c their cosine: claim G6."""
    return sp.sympify(kappa**2 + lam * kappa * size * c)


def norm_envelope(alpha: Number, lam: Number) -> sp.Expr:
    """Return alpha sqrt(1 + lam^2): claim G7, and with the largest alpha and lam claim G8."""
    return sp.sympify(alpha) * sp.sqrt(1 + lam**2)


def largest_norm(alpha: Number, beta: Number, lam: Number, kappa: Number = 1, size: Number = 1) -> sp.Expr:
    """Return alpha sqrt(1 + lam^2 size^2 beta / (2 - beta kappa^2)), ||A|| at the worst angle: claim G7.

    kappa = ||k||, size = ||q||. It is the largest over unit k, q, and so over k, q that are no longer.
    """
    return sp.sympify(alpha) * sp.sqrt(1 + lam**2 * size**2 * beta / (2 - beta * kappa**2))


def worst_cosine(beta: Number, lam: Number) -> sp.Expr:
    """Return lam (beta - 1) / (2 - beta), the cosine of the worst angle of unit k, q, where it is one: claim G7."""
    return sp.sympify(lam * (beta - 1) / (2 - beta))


def aligned_norm(alpha: Number, beta: Number, lam: Number) -> sp.Expr:
    """Return alpha (beta (1 + lam) - 1), the largest ||A|| where that cosine would exceed 1: q = k. Claim G8."""
    return sp.sympify(alpha * (beta * (1 + lam) - 1))


def cycle_tokens(L: Number) -> tuple[tuple[MatrixBase, MatrixBase], tuple[MatrixBase, MatrixBase]]:
    """Return (k, q) of the two tokens of the cycle in the plane: claim G8."""
    r = sp.sqrt(1 + L**2)
    first = sp.Matrix([1, 0]), sp.Matrix([0, 1])
    second = sp.Matrix([-1, -L]) / r, sp.Matrix([-L, 1]) / r
    return first, second


def memory_bound(gamma: Number, write: Number, s0: Number, t: Number) -> sp.Expr:
    """Return gamma^t s0 + write (1 - gamma^t) / (1 - gamma), at most gamma^t s0 + write / (1 - gamma): claim G9."""
    return sp.sympify(gamma**t * s0 + write * (1 - gamma**t) / (1 - gamma))


def mean_square_growth(alpha: Number, beta: Number, lam: Number, c: Number, d: Number) -> sp.Expr:
    """Return E||s A||^2 / ||s||^2 for isotropic k and q at a fixed angle to it, cos = c: claim G10."""
    return sp.sympify(alpha**2 * (1 + (beta**2 * (1 + 2 * lam * c + lam**2) - 2 * beta * (1 + lam * c)) / d))


def critical_beta(lam: Number, c: Number) -> sp.Expr:
    """Return the beta at which the mean-square growth is 1 without decay: claim G10."""
    return sp.sympify(2 * (1 + lam * c) / (1 + 2 * lam * c + lam**2))


def excitation_bound(alpha: Number, beta: Number, mu: Number, top: Number) -> sp.Expr:
    """Return alpha^2 (1 - 2 beta mu + beta^2 top): claim G11."""
    return sp.sympify(alpha**2 * (1 - 2 * beta * mu + beta**2 * top))


def erase_entry(beta_i: Number, decay: Number, xi_kj: Number) -> sp.Expr:
    """Return L_ij = beta_i e^(G_i - G_j) x_i.k_j, i > j: claim G12."""
    return sp.sympify(beta_i * decay * xi_kj)


def reduced_norm(alpha: Number, beta: Number, kk: Number) -> sp.Expr:
    """Return alpha max(1, |1 - beta ||k||^2|), the norm without query feedback, d >= 2: claim G13."""
    return alpha * sp.Max(1, sp.Abs(1 - beta * kk))


def compensated_decay(alpha: Number, largest: Number) -> sp.Expr:
    """Return alpha' = exp(g - log s+) for alpha = exp(g): claim G14."""
    return sp.exp(sp.log(alpha) - sp.log(largest))


def compensation_price(beta: Number, lam: Number) -> sp.Expr:
    """Return beta lam^2 / (2 (2 - beta)), to which log s+ is equal up to lam^4 for unit orthogonal k, q: claim G14."""
    return sp.sympify(beta * lam**2 / (2 * (2 - beta)))
