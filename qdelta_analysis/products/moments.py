"""Growth in mean square, for i.i.d. tokens: in closed form, and from the tokens' second moments."""

from __future__ import annotations

import math

import numpy as np
import torch
import xarray as xr

from ..checks import Number, require_all, require_count
from ..inputs import QDeltaInputs
from .tokens import eigenvalues, float64_tokens


def mean_square_growth(beta: Number, lam: Number, cos: Number, d: int, alpha: Number = 1.0) -> Number:
    """Return E||s A||^2 / ||s||^2 of one token whose k is uniform on the sphere, with q at a fixed angle to it.

        alpha^2 (1 + (beta^2 (1 + 2 lam c + lam^2) - 2 beta (1 + lam c)) / d),    c = cos = k.q

    q = c k + sqrt(1 - c^2) n with n a unit vector uniform orthogonal to k; i.i.d. tokens multiply. A factor per
    token, for the square of the norm. beta, lam in [0, 2], cos in [-1, 1], alpha >= 0: numbers or arrays that
    broadcast; d is the width of k.

    Raises ValueError for values outside those ranges, d < 1, or d = 1 with |cos| < 1.
    Source: this project's theory (claim G10).
    """
    require_count("d", d, 1)
    beta, lam, cos = _gates(beta, lam, cos)
    alpha = require_all("alpha", alpha, 0, math.inf)
    if d == 1 and np.any(np.abs(cos) < 1):
        raise ValueError(f"d is 1 with cos as small as {np.abs(cos).min():g}; expected d >= 2, or cos = 1 or -1.")
    return alpha**2 * (1 + (beta**2 * (1 + 2 * lam * cos + lam**2) - 2 * beta * (1 + lam * cos)) / d)


def critical_beta(lam: Number, cos: Number) -> Number:
    """Return the write strength above which tokens without decay grow in mean square, whatever the width d.

        beta* = 2 (1 + lam c) / (1 + 2 lam c + lam^2),    c = cos = k.q

    Where it is not positive, every beta > 0 grows; where x = 0 (lam = 1, c = -1), no beta does, and it is inf.
    lam in [0, 2], cos in [-1, 1]: numbers or arrays that broadcast. Raises ValueError outside.
    Source: this project's theory (claim G10).
    """
    _, lam, cos = _gates(0.0, lam, cos)
    xx = 1 + 2 * lam * cos + lam**2
    return np.where(xx > 0, 2 * (1 + lam * cos) / np.where(xx > 0, xx, 1), np.inf)[()]


def critical_lam(beta: Number, cos: Number) -> Number:
    """Return the query feedback above which tokens without decay grow in mean square: `critical_beta`, solved for lam.

        lam* = (c (1 - beta) + sqrt(c^2 (1 - beta)^2 + beta (2 - beta))) / beta,    c = cos = k.q

    At beta = 0 nothing is written, no lam makes it grow, and it is inf. beta in [0, 2], cos in [-1, 1]: numbers or
    arrays that broadcast. Raises ValueError outside. Source: this project's theory (claim G10).
    """
    beta, _, cos = _gates(beta, 0.0, cos)
    bent = cos * (1 - beta)
    root = np.sqrt(bent**2 + beta * (2 - beta))
    # Multiplied out by root - bent where root + bent would cancel.
    top = np.where(bent < 0, 2 - beta, root + bent)
    bottom = np.where(bent < 0, root - bent, beta)
    return np.where(beta > 0, top / np.where(beta > 0, bottom, 1), np.inf)[()]


@torch.no_grad()
def persistent_excitation(inputs: QDeltaInputs) -> xr.Dataset:
    """Measure in which directions the tokens write and erase, and the write strength up to which that contracts.

        mu = lambda_min(sym E[x k^T]),    E||s A||^2 <= alpha^2 (1 - 2 beta mu + beta^2 lambda_max) ||s||^2,
        lambda_max = lambda_max(E[||k||^2 x x^T])

    E is the mean over the tokens of one sequence. For i.i.d. tokens with these moments, one fixed beta and no
    decay, the memory contracts in mean square for every direction where 0 < beta < 2 mu / lambda_max.

    Returns a dataset with dims (batch, head): `mu`, `lambda_max`, `beta_bound` (0 where mu <= 0: the argument gives
    nothing) and `beta_max`, the largest beta there is; inf for a moment that leaves float64.
    Raises ValueError for no tokens. Source: this project's theory (claim G11).
    """
    x = float64_tokens(inputs)
    t = x.transition()
    mixed, k = (y.transpose(1, 2) for y in (t.x, t.k))  # [B, H, T, K]
    size = torch.maximum(mixed.abs().amax((-2, -1)), k.abs().amax((-2, -1)))  # [B, H]
    size = size.where(size > 0, 1)
    mixed, k = mixed / size[..., None, None], k / size[..., None, None]
    xk = mixed.mT @ k / x.T
    weighed = k.norm(dim=-1, keepdim=True) * mixed
    mu = eigenvalues((xk + xk.mT) / 2)[..., 0]
    largest = eigenvalues(weighed.mT @ weighed / x.T)[..., -1]
    bound = torch.where((mu > 0) & (largest > 0), 2 * mu / largest, 0) / size / size
    mu, largest = mu * size * size, largest * size * size * size * size
    values = {"mu": mu, "lambda_max": largest, "beta_bound": bound, "beta_max": x.beta.amax(1)}
    return xr.Dataset({name: (("batch", "head"), y.numpy()) for name, y in values.items()}, attrs=dict(x.metadata))


def _gates(beta: Number, lam: Number, cos: Number) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return require_all("beta", beta, 0, 2), require_all("lam", lam, 0, 2), require_all("cos", cos, -1, 1)
