"""Dense transitions of a few tokens of each head, for linear algebra that knows no closed form."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..inputs import QDeltaInputs
from ..transition import Transition

_ELEMENTS, _MOST = 1 << 20, 16
# A dense eigenvalue problem costs ten singular value problems.
_EIGEN = 2


@dataclass(frozen=True)
class Samples:
    """m tokens of each head; alpha = 1 in the transitions, which then scale."""

    batch: Tensor  # [m, H]
    token: Tensor  # [m, H]
    transition: Transition  # batch shape [m, H]
    unread: Transition  # the same with lam = 0

    @cached_property
    def matrix(self) -> Tensor:
        """I - beta x k^T from its definition, [m, H, d, d]."""
        t = self.transition
        eye = torch.eye(t.d, dtype=torch.float64)
        return eye - t.beta[..., None, None] * t.x[..., :, None] * t.k[..., None, :]

    @cached_property
    def singular_error(self) -> Tensor:
        """Largest difference of closed-form and dense singular values, relative to the largest, [m, H]."""
        dense = torch.linalg.svdvals(self.matrix)
        return (dense - self.transition.singular_values()).abs().amax(-1) / dense[..., 0].clamp(min=1)

    @cached_property
    def radius_error(self) -> Tensor:
        """Closed-form against dense spectral radius of the first tokens, [min(m, 2), H]."""
        t = self.transition
        dense = torch.linalg.eigvals(self.matrix[:_EIGEN]).abs().amax(-1)
        return (dense - t.spectral_radius()[:_EIGEN]).abs() / dense.clamp(min=1)

    @cached_property
    def spectrum_error(self) -> Tensor:
        """The claimed spectrum by residuals, [m, H]: three that a dense eigenvalue solver has no part in.

        A x = (1 - beta a) x;  A y = y for y orthogonal to k;  and det(z I - A) = (z - 1)^(d-1) (z - 1 + beta a) at
        two points z, as the difference of logarithms.
        """
        t, A = self.transition, self.matrix
        factor = 1 - t.beta * t.alignment
        size = 1 + t.beta * torch.linalg.vector_norm(t.x, dim=-1) * torch.linalg.vector_norm(t.k, dim=-1)
        moved = ((A @ t.x[..., None])[..., 0] - factor[..., None] * t.x).norm(dim=-1)
        draw = torch.Generator().manual_seed(0)
        y = torch.randn(t.k.shape, dtype=torch.float64, generator=draw)
        kk = (t.k * t.k).sum(-1, keepdim=True)
        y = y - (y * t.k).sum(-1, keepdim=True) / kk.where(kk > 0, 1) * t.k
        kept = ((A @ y[..., None])[..., 0] - y).norm(dim=-1) / y.norm(dim=-1).clamp(min=1)
        found = [moved / t.x.norm(dim=-1).clamp(min=1) / size, kept / size]
        eye = torch.eye(t.d, dtype=torch.float64)
        for z in (size.amax() * 2, -size.amax()):  # no eigenvalue is there
            _, log = torch.linalg.slogdet(z * eye - A)
            claimed = (t.d - 1) * (z - 1).abs().log() + (z - factor).abs().log()
            found.append((log - claimed).abs() / t.d)
        return torch.stack(found).amax(0)

    @cached_property
    def reduction_error(self) -> Tensor:
        """At lam = 0: dense asymmetry, and dense norm against max(1, |1 - beta ||k||^2|), [m, H]."""
        t = self.unread
        eye = torch.eye(t.d, dtype=torch.float64)
        A = eye - t.beta[..., None, None] * t.x[..., :, None] * t.k[..., None, :]
        asymmetry = (A - A.mT).abs().amax((-2, -1))
        claimed = (1 - t.beta * (t.k * t.k).sum(-1)).abs().clamp(min=1)
        dense = torch.linalg.svdvals(A)[..., 0]
        return torch.maximum(asymmetry, (dense - claimed).abs()) / claimed

    @cached_property
    def payment_error(self) -> Tensor:
        """Norm-compensated decay: the dense norm of A / s+ against 1, [m, H]."""
        norm = self.transition.operator_norm()
        paid = self.matrix / norm.where(norm > 0, 1)[..., None, None]  # 0 in one dimension alone
        return (torch.linalg.svdvals(paid)[..., 0] - 1).abs()


def draw_samples(inputs: QDeltaInputs, norm: Tensor, beta_a: Tensor, seed: int) -> Samples:
    """Take of each head the most expanding token, the one with beta a furthest from 1, and others at random."""
    x = inputs
    many = max(2, min(_MOST, _ELEMENTS // (x.H * x.K * x.K)))
    draw = torch.Generator().manual_seed(seed)
    flat = lambda y: y.reshape(-1, x.H)
    extreme = torch.stack([flat(norm).argmax(0), flat((beta_a - 1).abs()).argmax(0)])
    index = torch.cat([extreme, torch.randint(x.B * x.T, (many - 2, x.H), generator=draw)])
    batch, token = index // x.T, index % x.T
    value_head = torch.arange(x.H)
    head = value_head // (x.H // x.q.shape[2])
    k, q = (y[batch, token, head].double() for y in (x.k, x.q))
    beta, lam = (y[batch, token, value_head].double() for y in (x.beta, x.lam))
    return Samples(batch, token, Transition(k, q, beta, lam), Transition(k, q, beta, torch.zeros_like(lam)))
