"""The joint spectral radius of every token that a box of gates allows: searched for, bounded, and in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import minimize

from ..checks import Number, require, require_all, require_count, require_room, require_seed
from ..inputs import QDeltaInputs
from ..transition import Transition
from .finite import branch_and_bound, spectral_radii

# Rounding of the closed-form norm, with room to spare.
_ROUNDING = 1e-12
# A kept branch of the grid search promises at least this share of what the norms leave open.
_SHARE = 0.2
# Where the grid is too coarse for what lam_max lets grow, cycles drawn at random are refined too.
_TRIES = 12
# A token of the grid with its matrix, while they are made.
_GRID_BYTES = 300
# Of the central differences in the local search: errors of 1e-12 either way.
_STEP = 1e-5


def worst_growth(beta: Number, lam: Number, alpha: Number = 1.0) -> Number:
    """Return the largest ||alpha (I - beta x k^T)|| over all q and k in the unit ball of R^d, d >= 2; arrays broadcast.

    It is reached by unit vectors.

        alpha sqrt(1 + lam^2 beta / (2 - beta))    where lam (beta - 1) <= 2 - beta, at k.q = lam (beta - 1)/(2 - beta)
        alpha (beta (1 + lam) - 1)                 elsewhere, at q = k

    It rises in beta, in lam and in alpha, so it is the bound for the box below them too. It is also the joint spectral
    radius of that box: with A v = s u, s = ||A||, and F the reflection that swaps v and u, F A F is the transition of
    the tokens F q, F k, and (F A F) A v = s^2 v. At beta = 1 it is alpha sqrt(1 + lam^2).

    beta and lam lie in [0, 2], alpha is not negative. Raises ValueError outside.
    Source: this project's theory (claims G3, G7 and G8); proved by `symbolic.joint_spectral_radius_of_a_box`.
    """
    beta, lam = require_all("beta", beta, 0, 2), require_all("lam", lam, 0, 2)
    alpha = require_all("alpha", alpha, 0, math.inf)
    room = 2 - beta
    crossed = lam * (beta - 1) < room
    ratio = beta / np.where(crossed, room, 1)
    return alpha * np.where(crossed, np.sqrt(1 + lam * lam * ratio), beta * (1 + lam) - 1)


@dataclass(frozen=True)
class JointSpectralRadius:
    """Bounds on the joint spectral radius of a box of tokens, found by search; the closed form stands beside them."""

    lower: float  # rho(A_1 ... A_n)^(1/n) of the witness
    upper: float  # right for every d >= 2, up to float64 rounding
    witness: Transition  # the n tokens of the cycle, in the plane: k, q [n, 2], beta, lam, alpha [n]
    closed_form: float  # `worst_growth` at the box's corner; the search does not use it
    products: int  # products of the grid's tokens that were looked at
    intervals: int  # intervals of the angle between q and k that the upper bound was taken over

    def inputs(self, T: int = 64, K: int = 2, V: int = 2, *, seed: int = 0) -> QDeltaInputs:
        """Return T tokens that repeat the witness, in the plane of the first two of K axes, with normal values."""
        require_count("T", T, 1)
        require_count("K", K, 2)
        require_count("V", V, 1)
        t = self.witness
        at = np.arange(T) % len(t.k)
        q, k = (np.pad(x[at], ((0, 0), (0, K - 2)))[None, :, None] for x in (t.q, t.k))
        v = torch.randn(1, T, 1, V, dtype=torch.float64, generator=torch.Generator().manual_seed(require_seed(seed)))
        g, beta, lam = (x[at][None, :, None] for x in (np.log(t.alpha), t.beta, t.lam))
        settings = f"lam_max={t.lam.max():g}, alpha={t.alpha.max():g}, beta_max={t.beta.max():g}, seed={seed}"
        return QDeltaInputs(q, k, v, g, beta, lam, metadata={"source": "found worst cycle", "settings": settings})


def joint_spectral_radius(
    lam_max: float,
    alpha_max: float = 1.0,
    beta_max: float = 1.0,
    *,
    directions: int = 24,
    max_length: int = 4,
    tolerance: float = 1e-6,
) -> JointSpectralRadius:
    """Search for the largest growth per token that unit q and k and gates in a box can force on the memory.

        JSR = sup over n and tokens of rho(A_1 ... A_n)^(1/n),    A = alpha (I - beta x k^T),  x = k + lam q,
        ||q|| = ||k|| = 1,  0 <= beta <= beta_max,  0 <= lam <= lam_max,  0 <= alpha <= alpha_max,  d >= 2

    A is affine in (beta, beta lam), and the radius of a set is that of its convex hull, so the corners of that
    triangle stand for the box. Lower bound: branch and bound over products of tokens in the plane, on a grid of
    angles, then a local search over every angle, beta and lam of the best cycle, and of a few cycles drawn at random.
    Upper bound: the largest ||A||, by branch and bound over the angle between q and k, of which it is Lipschitz with
    constant beta lam.

    Args:
        lam_max, beta_max: from 0 to 2.
        alpha_max: from above 0 to 1.
        directions: directions of k on the grid (q: twice as many, having a sign that k's sign does not absorb).
        max_length: the longest cycles to look at.
        tolerance: how much the upper bound may exceed the largest ||A||.

    Raises ValueError outside those ranges. Source: this project's theory (claim G8); Gripenberg (1996).
    """
    require("lam_max", lam_max, 0, 2)
    require("beta_max", beta_max, 0, 2)
    require("alpha_max", alpha_max, math.ulp(0.0), 1)
    require_count("directions", directions, 2)
    require_count("max_length", max_length, 1)
    require("tolerance", tolerance, 1e-9, 1)
    require_room(f"directions = {directions}", _GRID_BYTES * directions * (2 * directions + 1))
    norm, intervals = _norm_over_angles(float(beta_max), float(lam_max), tolerance)
    grid = _grid(directions, float(beta_max), float(lam_max))
    tokens = _tokens(grid)
    open_gap = float(tokens.operator_norm().max() - tokens.spectral_radius().max())
    found = branch_and_bound(
        tokens.matrix(),
        tolerance=max(_SHARE * open_gap, _ROUNDING),
        max_length=max_length,
        max_products=500_000,
        # Turning every token by one step of the grid changes no norm and no spectral radius.
        first=np.flatnonzero(grid[:, 0] == 0),
    )
    random = np.random.default_rng(0).uniform(0, 1, (_TRIES, max(2, len(found.witness)), 4))
    starts = [grid[list(found.witness)], *(random * [np.pi, 2 * np.pi, beta_max, lam_max])]
    refined = [_refined(start, float(beta_max), float(lam_max)) for start in starts]
    cycle, lower = max(refined, key=lambda pair: pair[1])
    return JointSpectralRadius(
        lower=alpha_max * lower,
        upper=alpha_max * max(norm, lower),
        witness=_tokens(cycle, alpha_max),
        closed_form=float(worst_growth(beta_max, lam_max, alpha_max)),
        products=found.products,
        intervals=intervals,
    )


def _tokens(parameters: Float[np.ndarray, "... 4"], alpha: float = 1.0) -> Transition:
    """Return tokens in the plane out of (angle of k, angle of q, beta, lam)."""
    directions = np.stack([np.cos(parameters[..., :2]), np.sin(parameters[..., :2])], axis=-1)
    return Transition(directions[..., 0, :], directions[..., 1, :], parameters[..., 2], parameters[..., 3], alpha)


def _grid(directions: int, beta: float, lam: float) -> Float[np.ndarray, "m 4"]:
    k = np.arange(directions) * np.pi / directions
    q = np.arange(2 * directions) * np.pi / directions
    with_feedback = np.stack(np.meshgrid(k, q, [beta], [lam], indexing="ij"), axis=-1).reshape(-1, 4)
    without = np.stack(np.meshgrid(k, [0.0], [beta], [0.0], indexing="ij"), axis=-1).reshape(-1, 4)
    return np.concatenate([with_feedback, without, np.zeros((1, 4))])


def _refined(cycle: np.ndarray, beta_max: float, lam_max: float) -> tuple[np.ndarray, float]:
    """Raise rho(A_1 ... A_n)^(1/n) of a cycle by a local search over its 4n parameters; return it and its value."""
    steps = _STEP * np.concatenate([np.zeros((1, cycle.size)), np.eye(cycle.size), -np.eye(cycle.size)])

    def growth(parameters: np.ndarray) -> np.ndarray:
        A = _tokens(parameters.reshape(-1, *cycle.shape)).matrix()
        product = A[:, 0]
        for i in range(1, len(cycle)):
            product = product @ A[:, i]
        return spectral_radii(product) ** (1 / len(cycle))

    def falling(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        here, above, below = np.split(growth(parameters + steps), [1, 1 + cycle.size])
        return -float(here[0]), (below - above) / (2 * _STEP)

    limits = [(None, None), (None, None), (0, beta_max), (0, lam_max)] * len(cycle)
    found = minimize(falling, cycle.ravel(), jac=True, method="L-BFGS-B", bounds=limits)
    better = max(cycle.ravel(), found.x, key=growth)
    return better.reshape(cycle.shape), float(growth(better)[0])


def _norm_over_angles(beta: float, lam: float, tolerance: float) -> tuple[float, int]:
    """Return an upper bound on ||I - beta x k^T|| over the box, and the intervals it was taken over.

    The norm is convex in (beta, beta lam), so it is largest at a corner: 1, |1 - beta|, or (beta, lam) itself, where
    one turn of q by an angle changes A by beta lam times that angle at most.
    """
    middle, half = np.array([np.pi / 2]), np.pi / 2
    top, intervals = max(1.0, abs(1 - beta)), 0
    while True:
        intervals += len(middle)
        norms = _tokens(np.stack([0 * middle, middle, 0 * middle + beta, 0 * middle + lam], axis=-1)).operator_norm()
        top = max(top, float(norms.max()))
        beyond = norms + beta * lam * half > top + tolerance
        if not beyond.any():
            return top + tolerance + _ROUNDING, intervals
        half /= 2
        middle = np.concatenate([middle[beyond] - half, middle[beyond] + half])
