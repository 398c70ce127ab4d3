"""From the formulas of the proofs to NumPy: the closed forms that were proved, as functions of arrays."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import sympy as sp

from . import closed_forms
from .notation import a, across, along, alpha, beta, kappa, lam

Function = Callable[..., np.ndarray]


@cache
def eigenvalues_function() -> Function:
    """Return f(k, q, beta, lam, alpha=1.0), the eigenvalues of alpha (I - beta x k^T), x = k + lam q: [..., d].

    k, q [..., d]; beta, lam, alpha [...] or numbers. They are alpha, d - 1 times, and last alpha (1 - beta a),
    a = k.x. Source: the determinant lemma (claim G1 of this project's theory).
    """
    formula = sp.lambdify((alpha, beta, a), closed_forms.eigenvalues(alpha, beta, a), "numpy")

    def eigenvalues(k, q, beta, lam, alpha=1.0):
        k, q, beta, lam, alpha = _arrays(k, q, beta, lam, alpha)
        aligned = np.vecdot(k, k) + lam * np.vecdot(k, q)
        repeated, single = formula(alpha, beta, aligned)
        return np.stack([*[repeated] * (k.shape[-1] - 1), single], axis=-1)

    return eigenvalues


@cache
def operator_norm_function() -> Function:
    """Return f(k, q, beta, lam, alpha=1.0), the norm ||alpha (I - beta x k^T)||_2, x = k + lam q: [...].

        ||A|| = alpha (||2 k / |k| - beta |k| x|| + ||beta |k| x||) / 2    for d >= 2, alpha |1 - beta a| for d = 1

    k, q [..., d]; beta >= 0, lam, alpha [...] or numbers. Source: claim G3 of this project's theory.
    """
    plane = sp.lambdify(
        (alpha, beta, kappa, along, across), closed_forms.operator_norm(alpha, beta, kappa, along, across), "numpy"
    )
    line = sp.lambdify((alpha, beta, a), alpha * sp.Abs(closed_forms.error_factor(beta, a)), "numpy")

    def operator_norm(k, q, beta, lam, alpha=1.0):
        k, q, beta, lam, alpha = _arrays(k, q, beta, lam, alpha)
        if k.shape[-1] == 1:
            return line(alpha, beta, np.vecdot(k, k) + lam * np.vecdot(k, q))
        size = np.linalg.vector_norm(k, axis=-1)
        unit = k / np.where(size > 0, size, 1)[..., None]
        part = np.vecdot(unit, q)
        rest = np.linalg.vector_norm(q - part[..., None] * unit, axis=-1)
        return plane(alpha, beta, size, size + lam * part, lam * rest)

    return operator_norm


@cache
def norm_envelope_function() -> Function:
    """Return f(lam, alpha=1.0) = alpha sqrt(1 + lam^2), the bound on the norm for unit q, k and beta in [0, 1].

    Source: claim G7 of this project's theory.
    """
    formula = sp.lambdify((alpha, lam), closed_forms.norm_envelope(alpha, lam), "numpy")
    return lambda lam, alpha=1.0: formula(np.asarray(alpha), np.asarray(lam))


def _arrays(k, q, beta, lam, alpha) -> tuple[np.ndarray, ...]:
    k, q = np.asarray(k), np.asarray(q)
    return k, q, *(np.broadcast_to(np.asarray(gate, dtype=k.dtype), k.shape[:-1]) for gate in (beta, lam, alpha))
