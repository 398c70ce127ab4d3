"""Transition: the matrix A = alpha (I - beta x k^T) of one token, its spectrum and its norm in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from array_api_compat import array_namespace, device


@dataclass(frozen=True, init=False, eq=False)
class Transition:
    """Transition matrices A = alpha (I - beta x k^T), x = k + lam q, acting on the memory S from the right.

    k, q [..., d]; beta, lam, alpha [...] or numbers; any batch shape, NumPy arrays or torch tensors, whose kind,
    dtype and device the results have. Nothing d x d is formed but by `matrix`.

    Raises ValueError for shapes that do not fit, TypeError for what is no array of floats.
    """

    k: Any
    q: Any
    beta: Any
    lam: Any
    alpha: Any

    def __init__(self, k, q, beta, lam, alpha: Any = 1.0):
        try:
            xp = array_namespace(k, q)
        except TypeError:
            raise TypeError(
                f"k and q are {type(k).__name__} and {type(q).__name__}; expected NumPy arrays or torch tensors."
            ) from None
        if k.ndim < 1 or k.shape != q.shape or k.shape[-1] < 1:
            raise ValueError(
                f"k and q have shapes {list(k.shape)} and {list(q.shape)}; expected the same [..., d] with d >= 1."
            )
        if not xp.isdtype(k.dtype, "real floating") or k.dtype != q.dtype:
            raise TypeError(f"k and q have dtypes {k.dtype} and {q.dtype}; expected the same float dtype.")
        gates = {"beta": beta, "lam": lam, "alpha": alpha}
        for name, value in {"k": k, "q": q}.items():
            object.__setattr__(self, name, value)
        for name, value in gates.items():
            gate = xp.asarray(value, dtype=k.dtype, device=device(k))
            try:
                object.__setattr__(self, name, xp.broadcast_to(gate, tuple(k.shape[:-1])))
            except (ValueError, RuntimeError):
                raise ValueError(
                    f"{name} has shape {list(gate.shape)}; expected one that broadcasts to {list(k.shape[:-1])}."
                ) from None
        if not xp.all(self.alpha >= 0):
            raise ValueError(f"alpha is as low as {float(xp.min(self.alpha)):g}; expected values of at least 0.")

    @property
    def d(self) -> int:
        """Width of k and q."""
        return self.k.shape[-1]

    @property
    def x(self):
        """Mixed direction x = k + lam q, [..., d]. Source: Q-Delta (arXiv 2606.08804)."""
        return self.k + self.lam[..., None] * self.q

    @property
    def alignment(self):
        """Alignment a = k.x = ||k||^2 + lam k.q, [...]. The mixed error of a token shrinks by 1 - beta a."""
        kk, kq, _ = self._geometry
        return kk + self.lam * kq

    @property
    def cos(self):
        """Cosine of the angle between q and k, [...]; 0 where either vanishes."""
        xp = array_namespace(self.k)
        kk, kq, _ = self._geometry
        size = xp.sqrt(kk * xp.vecdot(self.q, self.q))
        return kq / xp.where(size > 0, size, xp.ones_like(size))

    def matrix(self):
        """Return the dense matrices A, [..., d, d]."""
        xp = array_namespace(self.k)
        identity = xp.eye(self.d, dtype=self.k.dtype, device=device(self.k))
        beta, alpha = self.beta[..., None, None], self.alpha[..., None, None]
        return alpha * (identity - beta * self.x[..., :, None] * self.k[..., None, :])

    def eigenvalues(self):
        """Return all eigenvalues, [..., d]: alpha, d - 1 times, and last alpha (1 - beta a).

        Source: the determinant lemma (claim G1 of this project's theory). They are real although A is not normal.
        """
        xp = array_namespace(self.k)
        ones = xp.ones((*self.k.shape[:-1], self.d - 1), dtype=self.k.dtype, device=device(self.k))
        return self.alpha[..., None] * xp.concat([ones, self._factor[..., None]], axis=-1)

    def spectral_radius(self):
        """Return alpha max(1, |1 - beta a|), [...]; for d = 1 alpha |1 - beta a|. Source: claim G2, from G1."""
        xp = array_namespace(self.k)
        factor = xp.abs(self._factor)
        return self.alpha * (factor if self.d == 1 else xp.clip(factor, min=1))

    def singular_values(self):
        """Return all singular values, falling, [..., d]: alpha s+, alpha (d - 2 times), alpha s-.

            s+ s- = |1 - beta a|,    s+^2 + s-^2 = 2 - 2 beta a + beta^2 ||x||^2 ||k||^2

        Source: claim G3 of this project's theory, by reduction to the plane of x and k.
        """
        xp = array_namespace(self.k)
        factor = xp.abs(self._factor)
        if self.d == 1:
            return (self.alpha * factor)[..., None]
        largest = self._largest[..., None]
        ones = xp.ones((*self.k.shape[:-1], self.d - 2), dtype=self.k.dtype, device=device(self.k))
        return self.alpha[..., None] * xp.concat([largest, ones, factor[..., None] / largest], axis=-1)

    def operator_norm(self):
        """Return ||A||_2 = alpha s+, [...], which is at least alpha for d >= 2. Source: claim G3."""
        return self.singular_values()[..., 0] if self.d == 1 else self.alpha * self._largest

    def norm_envelope(self):
        """Return alpha sqrt(1 + lam^2), [...], the tight bound on ||A|| for unit q, k and beta in [0, 1].

        Source: claim G7 of this project's theory.
        """
        xp = array_namespace(self.k)
        return self.alpha * xp.sqrt(1 + self.lam * self.lam)

    @property
    def _factor(self):
        return 1 - self.beta * self.alignment

    @property
    def _largest(self):
        """s+ = (r1 + r2) / 2 with r1 = beta ||x|| ||k||, r2^2 = (2 - beta a)^2 + (beta ||k|| ||x across k||)^2."""
        xp = array_namespace(self.k)
        kk, _, across2 = self._geometry
        aligned = self.beta * self.alignment
        side2 = (self.beta * self.lam) ** 2 * kk * across2
        return (xp.sqrt(aligned**2 + side2) + xp.sqrt((2 - aligned) ** 2 + side2)) / 2

    @cached_property
    def _geometry(self):
        """||k||^2, k.q, and the squared length of the part of q across k.

        That part is taken from the vectors: as a difference of squares it would lose half the digits near x || k.
        """
        xp = array_namespace(self.k)
        kk, kq = xp.vecdot(self.k, self.k), xp.vecdot(self.k, self.q)
        across = self.q - (kq / xp.where(kk > 0, kk, xp.ones_like(kk)))[..., None] * self.k
        return kk, kq, xp.vecdot(across, across)
