"""What the tokens of each head are like as draws from a distribution: tests with a stated number of standard errors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from qdelta_kernels.diagnostics import length

from ..inputs import QDeltaInputs
from ..products.tokens import eigenvalues
from .independence import halves, lagged, z

# At most so many tokens, and elements of q.
_TOKENS, _ELEMENTS = 4096, 1 << 22
# A statistic further out than this many standard errors is no accident: 2e-9 for a normal one.
STANDARD_ERRORS = 6.0
FEWEST = 128
_DIRECTIONS = 4


@dataclass(frozen=True)
class TokenSample:
    """N tokens drawn without replacement, the same for every head; float64. All results are [H]."""

    q: Tensor  # [N, H, K]
    k: Tensor
    beta: Tensor  # [N, H]
    lam: Tensor
    alpha: Tensor
    dependence: Tensor  # [H]: standard errors that tokens near each other differ from tokens paired at random
    drift: Tensor  # [H]: standard errors that the first half's moments differ from the second's

    @property
    def N(self) -> int:
        """How many tokens."""
        return len(self.k)

    @cached_property
    def x(self) -> Tensor:
        """k + lam q."""
        return self.k + self.lam[..., None] * self.q

    @cached_property
    def key_length(self) -> Tensor:
        """||k||."""
        return length(self.k)[0]

    @cached_property
    def anisotropy(self) -> Tensor:
        """How many standard errors E (s.u) (s.w) is from E u.w / d, for the directions s that half the tokens favour.

        The pairs u, w: k with k, q with q, and as they are weighed in E[A A^T], x with k and x with x. So gates
        that depend on the direction count as well.
        """
        written = (self.alpha * self.beta)[..., None] * self.x
        found = []
        for u, w in ((self.k, self.k), (self.q, self.q), (self.alpha[..., None] * written, self.k), (written, written)):
            (u, second_u), (w, second_w) = self._halves(u), self._halves(w)
            s = _extreme_directions(_moment(u, w))
            uniform = torch.linalg.vecdot(second_u, second_w)[..., None] / u.shape[-1]
            found.append(z(_along(second_u, s) * _along(second_w, s) - uniform).amax(-1))
        return torch.stack(found).amax(0)

    @cached_property
    def mean_square_error(self) -> Tensor:
        """How many standard errors the mean of ||s A||^2 is from its claimed value, for six directions s.

        The two directions in which half of the tokens expand most and least are tested on the other half.
        """
        first, second = (self._part(half) for half in self._halves(torch.arange(self.N)))
        d = self.k.shape[-1]
        draw = torch.Generator().manual_seed(1)
        random = torch.randn(self.k.shape[1], d, _DIRECTIONS, dtype=torch.float64, generator=draw)
        random = random / random.norm(dim=-2, keepdim=True)
        s = torch.cat([_extreme_directions(first.second_moment), random], dim=-1)
        # Lengths that are off by delta move ||s A||^2 by no more than this, all in one direction.
        off = torch.stack([(u.norm(dim=-1) - 1).abs() for u in (second.q, second.k)]).amax((0, 1))
        return z(second.moved(s) - second.claimed[..., None], 1e-9 + 10 * off[:, None]).amax(-1)

    @cached_property
    def claimed(self) -> Tensor:
        """alpha^2 (1 + [beta^2 (1 + 2 lam c + lam^2) - 2 beta (1 + lam c)] / d) with c = q.k, [N, H]."""
        c, lam, beta = torch.linalg.vecdot(self.q, self.k), self.lam, self.beta
        inner = beta.square() * (1 + 2 * lam * c + lam.square()) - 2 * beta * (1 + lam * c)
        return self.alpha.square() * (1 + inner / self.k.shape[-1])

    @cached_property
    def second_moment(self) -> Tensor:
        """E[A A^T], [H, d, d]: what ||s A||^2 is on average is s E[A A^T] s^T."""
        eye = torch.eye(self.k.shape[-1], dtype=torch.float64)
        cross = self.excitation_moment
        return self.decay[..., None, None] * eye - cross - cross.mT + self.write_moment

    @cached_property
    def decay(self) -> Tensor:
        """E[alpha^2]."""
        return self.alpha.square().mean(0)

    @cached_property
    def excitation_moment(self) -> Tensor:
        """E[alpha^2 beta x k^T], [H, d, d]."""
        return _moment(self.x * (self.alpha.square() * self.beta)[..., None], self.k)

    @cached_property
    def write_moment(self) -> Tensor:
        """E[alpha^2 beta^2 ||k||^2 x x^T], [H, d, d]."""
        weighed = (self.alpha * self.beta * self.key_length)[..., None] * self.x
        return _moment(weighed, weighed)

    @cached_property
    def excitation(self) -> Tensor:
        """mu: the smallest eigenvalue of the symmetric part of E[alpha^2 beta x k^T]."""
        return eigenvalues((self.excitation_moment + self.excitation_moment.mT) / 2)[..., 0]

    @cached_property
    def noise(self) -> Tensor:
        """The largest eigenvalue of E[alpha^2 beta^2 ||k||^2 x x^T]."""
        return eigenvalues(self.write_moment)[..., -1]

    @cached_property
    def mean_square_growth(self) -> Tensor:
        """The largest E||s A||^2 / ||s||^2, averaged over the tokens along the direction that expands most."""
        s = _extreme_directions(self.second_moment)[..., -1:]
        return self.moved(s).mean(0)[..., 0]

    def moved(self, s: Tensor) -> Tensor:
        """||s A_t||^2 for directions s [H, d, m], token by token: [N, H, m]."""
        written, sk = self.beta[..., None] * _along(self.x, s), _along(self.k, s)
        # No product of squares, one of which may be too large.
        square = (self.alpha[..., None] * written * self.key_length[..., None]).square()
        return self.alpha.square()[..., None] * (1 - 2 * written * sk) + square

    def _halves(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x[: self.N // 2], x[self.N // 2 :]

    def _part(self, at: Tensor) -> TokenSample:
        kept = {name: getattr(self, name)[at] for name in ("q", "k", "beta", "lam", "alpha")}
        return replace(self, **kept)


def draw_tokens(inputs: QDeltaInputs, seed: int) -> TokenSample:
    """Draw up to 4096 tokens, the same of all heads, in random order, and compare them with those that follow them."""
    x = inputs
    draw = torch.Generator().manual_seed(seed)
    many = min(_TOKENS, max(512, _ELEMENTS // (x.H * x.K)))
    index = torch.randperm(x.B * x.T, generator=draw)[:many]
    batch, token = index // x.T, index % x.T
    groups = x.H // x.q.shape[2]
    rows = lambda y, t: y[batch, t].double()
    q, k = (rows(y, token).repeat_interleave(groups, dim=1) for y in (x.q, x.k))
    beta, lam, g = (rows(y, token) for y in (x.beta, x.lam, x.g))
    return TokenSample(q, k, beta, lam, g.exp(), lagged(x, batch, token), halves(x, batch, token))


def _moment(a: Tensor, b: Tensor) -> Tensor:
    """E[a b^T] over tokens, [N, H, d] -> [H, d, d]."""
    return a.permute(1, 2, 0) @ b.transpose(0, 1) / len(a)


def _along(u: Tensor, s: Tensor) -> Tensor:
    """s.u for u [N, H, d] and s [H, d, m]: [N, H, m]."""
    return (u.transpose(0, 1) @ s).transpose(0, 1)


def _extreme_directions(moment: Tensor) -> Tensor:
    """Eigenvectors of the smallest and the largest eigenvalue of the symmetric part, [H, d, 2]."""
    symmetric = (moment + moment.mT) / 2
    _, vectors = torch.linalg.eigh(symmetric.where(_finite(symmetric), 0))
    return vectors[..., [0, -1]]


def _finite(moment: Tensor) -> Tensor:
    return moment.isfinite().all(-1, keepdim=True).all(-2, keepdim=True)
