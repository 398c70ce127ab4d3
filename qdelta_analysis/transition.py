"""Transition: the matrix A = alpha (I - beta x k^T) of one token, its spectrum and its norm in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device

from qdelta_kernels.autocast import outside_autocast

from .scaled import Scaled, exponent, hypot, root, shifted


@dataclass(frozen=True, init=False, eq=False)
class Transition:
    """Transition matrices A = alpha (I - beta x k^T), x = k + lam q, acting on the memory S from the right.

    k, q [..., d]; beta, lam, alpha [...] or numbers; any batch shape, NumPy arrays or torch tensors, whose kind,
    dtype and device the results have. Nothing d x d is formed but by `matrix`. Vectors and gates may have any size:
    what is a number of the dtype comes out right to rounding, though its square were none. Half precision is
    computed in float32. Gradients pass; they are finite at zero vectors and where x is parallel to k.

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
        return self._plain(self._mixed((..., slice(None)), (..., None)))

    @property
    def alignment(self):
        """Alignment a = k.x = ||k||^2 + lam k.q, [...]. The mixed error of a token shrinks by 1 - beta a."""
        return self._plain(self._alignment)

    @property
    @outside_autocast
    def cos(self):
        """Cosine of the angle between q and k, [...]; 0 where either vanishes."""
        xp = array_namespace(self.k)
        k, q, _, _ = self._vectors
        size = root(xp, xp.vecdot(k, k)) * root(xp, xp.vecdot(q, q))
        cos = xp.vecdot(k, q) / xp.where(size > 0, size, xp.ones_like(size))
        return self._plain(xp.clip(cos, min=-1, max=1))

    def matrix(self):
        """Return the dense matrices A, [..., d, d]."""
        xp = array_namespace(self.k)
        rows, columns, gate = (..., slice(None), None), (..., None, slice(None)), (..., None, None)
        alpha = self._wide(self.alpha[gate])
        identity = xp.eye(self.d, dtype=alpha.dtype, device=device(self.k))
        erased = self._number(alpha) * self._number(self.beta[gate]) * self._mixed(rows, gate)
        return self._plain(alpha * identity - _value(erased * self._number(self.k[columns])))

    def eigenvalues(self):
        """Return all eigenvalues, [..., d]: alpha, d - 1 times, and last alpha (1 - beta a).

        Source: the determinant lemma (claim G1 of this project's theory). They are real although A is not normal.
        """
        return self._beside_alpha(self.d - 1, self._plain(self._number(self.alpha) * self._factor))

    def spectral_radius(self):
        """Return alpha max(1, |1 - beta a|), [...]; for d = 1 alpha |1 - beta a|. Source: claim G2, from G1."""
        moving = self._plain(self._number(self.alpha) * abs(self._factor))
        return moving if self.d == 1 else array_namespace(self.k).maximum(self.alpha, moving)

    def singular_values(self):
        """Return all singular values, falling, [..., d]: alpha s+, alpha (d - 2 times), alpha s-.

            s+ s- = |1 - beta a|,    s+^2 + s-^2 = 2 - 2 beta a + beta^2 ||x||^2 ||k||^2

        Source: claim G3 of this project's theory, by reduction to the plane of x and k.
        """
        alpha, factor = self._number(self.alpha), abs(self._factor)
        if self.d == 1:
            return self._plain(alpha * factor)[..., None]
        largest = self._largest
        first, last = self._plain(alpha * largest), self._plain(alpha * factor / largest)
        return array_namespace(self.k).concat([first[..., None], self._beside_alpha(self.d - 2, last)], axis=-1)

    def operator_norm(self):
        """Return ||A||_2, [...]: alpha s+, at least alpha; for d = 1 alpha |1 - beta a|. Source: claim G3."""
        return self._plain(self._number(self.alpha) * (abs(self._factor) if self.d == 1 else self._largest))

    def norm_envelope(self):
        """Return alpha sqrt(1 + lam^2), [...], the tight bound on ||A|| for q, k in the unit ball and beta in [0, 1].

        Source: claim G7 of this project's theory.
        """
        xp = array_namespace(self.k)
        alpha, lam = (Scaled(xp, self._wide(gate)) for gate in (self.alpha, self.lam))
        return self._plain(alpha * hypot(xp, Scaled(xp, xp.ones_like(lam.m)), lam))

    @property
    def _alignment(self):
        kk, kq, _ = self._products
        return kk + self._number(self.lam) * kq

    @property
    def _factor(self):
        return self._constant(1) - self._number(self.beta) * self._alignment

    @property
    def _largest(self):
        """s+ = (r1 + r2) / 2 with r1 = beta ||x|| ||k||, r2^2 = (2 - beta a)^2 + (beta ||k|| ||x across k||)^2."""
        xp = array_namespace(self.k)
        beta = self._number(self.beta)
        aligned, side = beta * self._alignment, beta * self._number(self.lam) * self._products[2]
        return self._constant(0.5) * (hypot(xp, aligned, side) + hypot(xp, self._constant(2) - aligned, side))

    def _mixed(self, vector: tuple, gate: tuple):
        return self._number(self.k[vector]) + self._number(self.lam[gate]) * self._number(self.q[vector])

    def _beside_alpha(self, times: int, last):
        """Return alpha, so many times, and then `last`, [..., times + 1]."""
        xp = array_namespace(self.k)
        alpha = xp.broadcast_to(self.alpha[..., None], (*self.alpha.shape, times))
        return xp.concat([alpha, last[..., None]], axis=-1)

    @cached_property
    def _products(self):
        """||k||^2, k.q and ||k|| ||q across k||, as numbers.

        The part of q across k is taken from the vectors: as a difference of squares it would lose half the digits
        near x || k.
        """
        xp = array_namespace(self.k)
        if self._ordinary:
            kk, kq, across2 = self._geometry
            return kk, kq, root(xp, kk * across2)
        k, q, of_k, of_q = self._vectors
        kk, kq, across2 = _geometry(xp, k, q)
        sizes = (kk, 2 * of_k), (kq, of_k + of_q), (root(xp, kk) * root(xp, across2), of_k + of_q)
        return tuple(Scaled(xp, x, e) for x, e in sizes)

    @cached_property
    def _geometry(self):
        """||k||^2, k.q and the squared length of the part of q across k, as they come: perhaps inf, NaN or 0."""
        return _geometry(array_namespace(self.k), self._wide(self.k), self._wide(self.q))

    @cached_property
    def _vectors(self):
        """k and q, and the exponents of the powers of two that they were divided by, where their squares need that."""
        xp = array_namespace(self.k)
        k, q = self._wide(self.k), self._wide(self.q)
        if self._ordinary:
            return k, q, 0, 0
        of_k, of_q = (exponent(xp, xp.max(xp.abs(y), axis=-1)) for y in (k, q))
        return shifted(xp, k, -of_k[..., None]), shifted(xp, q, -of_q[..., None]), of_k, of_q

    @cached_property
    def _ordinary(self) -> bool:
        """Whether no product that the closed forms have can leave the dtype's range: then it is the number itself."""
        xp = array_namespace(self.k)
        kk, kq, across2 = self._geometry
        digits = math.log2(xp.finfo(kk.dtype).max)
        least, most = 2.0 ** -(digits // 6), 2.0 ** (digits // 6)
        inside = (kk >= least) & (kk <= most)
        qq = across2 + kq * kq / xp.where(inside, kk, xp.ones_like(kk))
        inside = inside & (qq >= least) & (qq <= most)
        for gate in (self.alpha, self.beta, self.lam):
            size = abs(self._wide(gate))
            inside = inside & ((size == 0) | (size >= 2.0 ** -(digits // 3 - 2))) & (size <= 2.0 ** (digits // 12))
        return bool(xp.all(inside))

    def _number(self, x):
        """Return x in the form that the closed forms are computed in: itself, or where sizes ask for it `Scaled`."""
        x = self._wide(x)
        return x if self._ordinary else Scaled(array_namespace(x), x)

    def _constant(self, value: float):
        return self._number(value * array_namespace(self.k).ones_like(self.beta))

    def _wide(self, x):
        """Half precision as float32."""
        xp = array_namespace(x)
        return xp.astype(x, xp.float32) if xp.finfo(x.dtype).bits < 32 else x

    def _plain(self, x):
        """Return a result as an array of the dtype that came."""
        x = _value(x)
        return x if x.dtype == self.k.dtype else array_namespace(x).astype(x, self.k.dtype)


def _value(x):
    return x.value() if isinstance(x, Scaled) else x


@outside_autocast
def _geometry(xp, k, q):
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        kk, kq = xp.vecdot(k, k), xp.vecdot(k, q)
        across = q - (kq / xp.where(kk > 0, kk, xp.ones_like(kk)))[..., None] * k
        return kk, kq, xp.vecdot(across, across)
