"""Where a step lets the memory grow: maps over the gates and the angle, with the claims' boundaries as lines."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from .checks import require, require_count, require_room
from .products import critical_beta, critical_lam, mean_square_growth
from .transition import Transition

Quantity = Literal["norm", "mean square"]
Axis = Literal["beta", "cos"]
Line = tuple[Float[np.ndarray, " _"], Float[np.ndarray, " _"]]  # lam and y; NaN where the line is broken

_LAM = (0.0, 2.0)
_RANGES: dict[str, tuple[float, float]] = {"beta": (0.0, 2.0), "cos": (-1.0, 1.0)}
_LINE_POINTS = 201
# What a point takes while its growth is computed.
_POINT_BYTES = 200
# Lines that run away are cut this far out, beyond every axis.
_FAR = 4.0


@dataclass(frozen=True, eq=False)
class StabilityMap:
    """How one step can let the memory grow, over lam and over beta or cos(q, k), for unit q and k.

    growth: in nats a step, 0 where the memory keeps its size; by `quantity`
        "norm"          log ||A||: of the memory that this step expands most
        "mean square"   log sqrt(E||s A||^2 / ||s||^2): of a typical memory, k being uniform on the sphere in R^d
    y: beta, with cos(q, k) fixed `at`; or cos(q, k), with beta fixed `at`; by `over`.
    boundaries: lines (lam, y), NaN where broken, empty where there is none
        "G4"    beta a = 0 and 2, a = 1 + lam cos: between them a write contracts the mixed error, at this angle
        "G6"    beta = 1 and lam = 1: smaller gates contract it at every angle
        "G9"    alpha_max sqrt(1 + lam^2) = 1 for beta <= 1: to the left the memory is bounded whatever the tokens,
                to the right some tokens make it grow (G8)
        "G10"   beta = beta*(lam, cos): beyond it typical tokens without decay make the memory grow in mean square
    """

    over: Axis
    at: float
    alpha: float
    alpha_max: float
    d: int
    quantity: Quantity
    lam: Float[np.ndarray, " n"]
    y: Float[np.ndarray, " m"]
    growth: Float[np.ndarray, "m n"]
    boundaries: dict[str, Line]


def stability_map(
    over: Axis,
    at: float,
    *,
    alpha: float = 1.0,
    alpha_max: float | None = None,
    d: int = 32,
    quantity: Quantity = "norm",
    points: int = 81,
) -> StabilityMap:
    """Compute one step's growth over lam in [0, 2] and beta in [0, 2] or cos(q, k) in [-1, 1], and the boundaries.

    Args:
        over: "beta", with cos(q, k) = `at`; or "cos", with beta = `at`.
        alpha: the step's decay. alpha_max: the largest of all steps, for the boundary of G9; None: alpha.
        d: width of k, at least 2; the norm does not depend on it.
        points: along each axis.

    Raises ValueError for what is outside these ranges. Source: this project's theory (claims G3 and G10).
    """
    if over not in _RANGES:
        raise ValueError(f"over is {over!r}; expected 'beta' or 'cos'.")
    fixed = "cos" if over == "beta" else "beta"
    require(fixed, at, *_RANGES[fixed])
    require("alpha", alpha, math.ulp(0.0), 1)
    alpha_max = alpha if alpha_max is None else alpha_max
    require("alpha_max", alpha_max, alpha, 1)
    require_count("d", d, 2)
    require_count("points", points, 2)
    require_room(f"points = {points}", _POINT_BYTES * points * points)
    lam, y = np.linspace(*_LAM, points), np.linspace(*_RANGES[over], points)
    beta, cos = (y[:, None], np.float64(at)) if over == "beta" else (np.float64(at), y[:, None])
    if quantity == "norm":
        growth = np.log(_in_the_plane(beta, lam, cos).operator_norm())
    elif quantity == "mean square":
        growth = np.log(mean_square_growth(beta, lam, cos, d)) / 2
    else:
        raise ValueError(f"quantity is {quantity!r}; expected 'norm' or 'mean square'.")
    lines = _lines_over_beta if over == "beta" else _lines_over_cos
    growth = growth + math.log(alpha)  # whose square may be no number
    return StabilityMap(over, at, alpha, alpha_max, d, quantity, lam, y, growth, lines(at, alpha_max))


def _in_the_plane(beta, lam, cos) -> Transition:
    """In the plane of k and q: a further dimension changes no norm."""
    beta, lam, cos = np.broadcast_arrays(beta, lam, cos)
    q = np.stack([cos, np.sqrt(1 - cos**2)], axis=-1)
    return Transition(np.broadcast_to([1.0, 0.0], q.shape), q, beta, lam)


def _lines_over_beta(cos: float, alpha_max: float) -> dict[str, Line]:
    lam = np.linspace(*_LAM, _LINE_POINTS)
    a = 1 + lam * cos
    two = 2 / np.where(a > 0, a, np.nan)
    zero = -1 / cos if cos < 0 else np.nan
    return {
        "G4": _joined((lam, two), (np.full(2, zero), np.array(_RANGES["beta"]))),
        "G6": _joined(([0, 1, 1], [1, 1, 0])),
        "G9": _joined((np.full(2, _bounded_to(alpha_max)), [0, 1])),
        "G10": _joined((lam, critical_beta(lam, cos))),
    }


def _lines_over_cos(beta: float, alpha_max: float) -> dict[str, Line]:
    cos = np.linspace(*_RANGES["cos"], _LINE_POINTS)
    nowhere = np.full_like(cos, np.nan)
    two = np.divide(2 / beta - 1, cos, where=cos > 0, out=nowhere.copy()) if beta > 0 else nowhere
    zero = np.divide(-1, cos, where=cos < 0, out=nowhere.copy())
    ends = _RANGES["cos"] if beta <= 1 else ()  # beyond it, G6 and G9 say nothing
    return {
        "G4": _joined((two, cos), (zero, cos)),
        "G6": _joined(([1.0] * len(ends), ends)),
        "G9": _joined(([_bounded_to(alpha_max)] * len(ends), ends)),
        "G10": _joined((critical_lam(beta, cos), cos)),
    }


def _bounded_to(alpha_max: float) -> float:
    """Return the lam at which alpha_max sqrt(1 + lam^2) = 1."""
    return math.sqrt((1 - alpha_max) * (1 + alpha_max)) / alpha_max


def _joined(*lines) -> Line:
    """Return one line of several, NaN between them and where they are far out."""
    pieces = [np.array(line, dtype=np.float64) for line in lines]
    gap = np.full((2, 1), np.nan)
    lam, y = np.concatenate([part for piece in pieces for part in (gap, piece)][1:], axis=1)
    near = (lam <= _FAR) & (np.abs(y) <= _FAR)
    return np.where(near, lam, np.nan), np.where(near, y, np.nan)
