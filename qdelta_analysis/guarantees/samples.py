"""Dense transitions of a few tokens of each head, for linear algebra that knows no closed form."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ..inputs import QDeltaInputs
from ..products import critical_beta, critical_lam, mean_square_growth
from ..transition import Transition

_ELEMENTS, _MOST = 1 << 20, 16
# A dense eigenvalue problem costs ten singular value problems.
_EIGEN = 2
# Of a matrix that dense algebra, squares included, can take; and of a vector that has a direction.
_LARGEST, _SMALLEST = 1e150, 5e-324


@dataclass(frozen=True)
class Samples:
    """m tokens of each head; alpha = 1 in the transitions, which then scale.

    Errors are relative to `size`, what rounding in dense algebra is of, and NaN where A leaves float64's range.
    """

    batch: Tensor  # [m, H]
    token: Tensor  # [m, H]
    transition: Transition  # batch shape [m, H]
    unread: Transition  # the same with lam = 0

    @cached_property
    def mixed(self) -> Tensor:
        """x = k + lam q from its definition, [m, H, d]."""
        t = self.transition
        return t.k + t.lam[..., None] * t.q

    @cached_property
    def matrix(self) -> Tensor:
        """I - beta x k^T from its definition, [m, H, d, d]; the identity where it is `beyond` float64."""
        return _dense(self.transition, self.mixed)

    @cached_property
    def size(self) -> Tensor:
        """1 + the norm of beta x k^T, [m, H]; NaN where A is not finite."""
        return _size(self.transition, self.mixed)

    @cached_property
    def singular_error(self) -> Tensor:
        """Largest difference of closed-form and dense singular values, relative to the largest, [m, H]."""
        dense = torch.linalg.svdvals(self.matrix)
        return self._held((dense - self.transition.singular_values()).abs().amax(-1) / dense[..., 0].clamp(min=1))

    @cached_property
    def radius_error(self) -> Tensor:
        """Closed-form against dense spectral radius of the first tokens, [min(m, 2), H]."""
        dense = torch.linalg.eigvals(self.matrix[:_EIGEN]).abs().amax(-1)
        off = (dense - self.transition.spectral_radius()[:_EIGEN]).abs()
        return off / self.size[:_EIGEN]

    @cached_property
    def spectrum_error(self) -> Tensor:
        """The claimed spectrum, and x and A themselves, by residuals that no dense eigenvalue solver has a part in.

        A x = (1 - beta a) x;  A y = y for y orthogonal to k;  and det(z I - A) = (z - 1)^(d-1) (z - 1 + beta a) at
        two points z twice as far out as any eigenvalue can be, as the difference of logarithms.
        """
        t, A, size = self.transition, self.matrix, self.size
        values = t.eigenvalues()
        x, k = _direction(self.mixed), _direction(t.k)
        moved = ((A @ x[..., None])[..., 0] - values[..., -1:] * x).norm(dim=-1) / size
        y = _direction(torch.randn(t.k.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
        for _ in range(2):  # once more, for what rounding left along k; little may remain of y
            y = y - (y * k).sum(-1, keepdim=True) * k
        kept = ((A @ y[..., None])[..., 0] - values[..., :1] * y).norm(dim=-1) / size
        own = self._held((_dense(t, t.x) - A).abs().amax((-2, -1)) / size)
        formed = self._held((t.matrix() - A).abs().amax((-2, -1)) / size)
        found = [moved, kept, own, formed]
        eye = torch.eye(t.d, dtype=torch.float64)
        for z in (2 * size, -2 * size):
            z = z.where(z.isfinite(), 2)[..., None]
            _, log = torch.linalg.slogdet(z[..., None] * eye - A)
            found.append((log - (z - values).abs().log().sum(-1)).abs() / t.d)
        return self._held(torch.stack(found).amax(0))

    @cached_property
    def cos_error(self) -> Tensor:
        """cos(q, k) against the product of the normalised vectors, [m, H]."""
        t = self.transition
        return (t.cos - (_direction(t.q) * _direction(t.k)).sum(-1)).abs()

    @cached_property
    def envelope_error(self) -> Tensor:
        """The norm envelope against the dense norm that reaches it: beta = 1, k = (1, 0), q = (0, 1); relative."""
        lam = self.transition.lam
        A = torch.zeros(*lam.shape, 2, 2, dtype=torch.float64)
        A[..., 1, 0], A[..., 1, 1] = -lam, 1
        reached = torch.linalg.svdvals(A)[..., 0]
        return (self.transition.norm_envelope() - reached).abs() / reached

    @cached_property
    def average_error(self) -> Tensor:
        """G10's growth for k in every direction against ||A||_F^2 / d, and 1 where beta is critical, [m, H].

        Over an orthonormal basis ||s A||^2 adds up to ||A||_F^2, which the angle and the gates fix for unit vectors.
        """
        t = self.transition
        cos = t.cos if t.d > 1 else torch.where(t.cos < 0, -1.0, 1.0).double()
        beta, lam, cos = (y.numpy() for y in (t.beta, t.lam, cos))
        growth = torch.as_tensor(mean_square_growth(beta, lam, cos, t.d))
        off = (growth - self.matrix.square().sum((-2, -1)) / t.d).abs() / self.size.square()
        critical = critical_beta(lam, cos)
        reached = np.where((critical >= 0) & (critical <= 2), critical, 0)
        at_critical = torch.as_tensor(mean_square_growth(reached, lam, cos, t.d) - 1).abs()
        with np.errstate(over="ignore"):  # for the least beta no number is large enough
            feedback = critical_lam(beta, cos)
        back = np.where(feedback <= 2, feedback, 0)
        solved = torch.as_tensor(np.where(feedback <= 2, mean_square_growth(beta, back, cos, t.d) - 1, 0)).abs()
        return self._held(torch.stack([off, at_critical, solved]).amax(0))

    @cached_property
    def reduction_error(self) -> Tensor:
        """At lam = 0: dense asymmetry, and dense norm against max(1, |1 - beta ||k||^2|), [m, H]."""
        t = self.unread
        A, size = _dense(t, t.k), _size(t, t.k)
        asymmetry = (A - A.mT).abs().amax((-2, -1))
        claimed = (1 - ((t.beta[..., None] * t.k) * t.k).sum(-1)).abs().clamp(min=1)
        dense = torch.linalg.svdvals(A)[..., 0]
        return (torch.maximum(asymmetry, (dense - claimed).abs()) / size).where(size.isfinite(), torch.nan)

    @cached_property
    def payment_error(self) -> Tensor:
        """Norm-compensated decay: the dense norm of A / s+ against 1, [m, H]."""
        norm = self.transition.operator_norm()
        norm = norm.where((norm > 0) & norm.isfinite(), 1)  # 0 in one dimension alone
        paid = self.matrix / norm[..., None, None]
        return self._held((torch.linalg.svdvals(paid)[..., 0] - 1).abs())

    def _held(self, error: Tensor) -> Tensor:
        return error.where(self.size.isfinite(), torch.nan)


def _dense(t: Transition, x: Tensor) -> Tensor:
    """I - beta x k^T, [m, H, d, d]; the identity where it would not be finite, which no dense solver takes."""
    eye = torch.eye(t.d, dtype=torch.float64)
    A = eye - (t.beta[..., None] * x)[..., :, None] * t.k[..., None, :]
    return A.where(_size(t, x).isfinite()[..., None, None], eye)


def _size(t: Transition, x: Tensor) -> Tensor:
    """1 + beta ||x|| ||k||, [m, H]; NaN where dense algebra would leave float64."""
    longest = lambda y: y.abs().amax(-1) * t.d**0.5
    size = 1 + t.beta * longest(x) * longest(t.k)
    return size.where(size < _LARGEST, torch.nan)


def _direction(y: Tensor) -> Tensor:
    """y / ||y|| for y of any length, [..., d]; 0 for 0."""
    y = y / y.abs().amax(-1, keepdim=True).clamp(min=_SMALLEST)
    return y / y.norm(dim=-1, keepdim=True).clamp(min=_SMALLEST)


def draw_samples(inputs: QDeltaInputs, norm: Tensor, beta_a: Tensor, seed: int) -> Samples:
    """Take of each head the most expanding token, the one with beta a furthest from 1, and others at random."""
    x = inputs
    many = max(2, min(_MOST, _ELEMENTS // (x.H * x.K * x.K)))
    draw = torch.Generator().manual_seed(seed)
    flat = lambda y: y.reshape(-1, x.H)
    # Steps that dense algebra cannot take are no help here.
    furthest = lambda y: flat(y).where(flat(norm) < _LARGEST, -torch.inf).argmax(0)
    extreme = torch.stack([furthest(norm), furthest((beta_a - 1).abs())])
    index = torch.cat([extreme, torch.randint(x.B * x.T, (many - 2, x.H), generator=draw)])
    batch, token = index // x.T, index % x.T
    value_head = torch.arange(x.H)
    head = value_head // (x.H // x.q.shape[2])
    k, q = (y[batch, token, head].double() for y in (x.k, x.q))
    beta, lam = (y[batch, token, value_head].double() for y in (x.beta, x.lam))
    return Samples(batch, token, Transition(k, q, beta, lam), Transition(k, q, beta, torch.zeros_like(lam)))
