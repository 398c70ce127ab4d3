"""Whether tokens are like independent draws from one distribution: lags against pairs at random, halves in time.

Every statistic is a number of standard errors, of which hypotheses allow six. None of them is a proof of independence:
what they find is a dependence at the lags, or a change in the moments, that is larger than chance makes it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..inputs import QDeltaInputs

# Tokens so far apart are compared: a token that is made of another one near it shows at one of these.
LAGS = range(1, 17)
_FLOOR = 1e-9
# Of q, at most, that every lag is looked at with.
_ELEMENTS = 1 << 20

_Tokens = tuple[Tensor, Tensor, Tensor]


def lagged(inputs: QDeltaInputs, batch: Tensor, token: Tensor) -> Tensor:
    """How many standard errors tokens t and t + lag differ from tokens paired at random, [H], the largest of all.

    Vectors, each k, q and x with each of k, q and x later: in u.w and (u.w)^2. Gates, and k.q: in the products of
    their deviations, each with each.
    """
    found = [torch.zeros(inputs.H, dtype=torch.float64)]
    many = max(512, _ELEMENTS // (inputs.H * inputs.K))
    batch, token = batch[:many], token[:many]  # they come in random order
    every = _read(inputs, batch, token)
    for lag in LAGS:
        follows = token + lag < inputs.T
        b, t = batch[follows], token[follows]
        if len(t) < 2:
            break
        k, q, scalars = (y[follows] for y in every)
        now, later = (k, q, scalars), _read(inputs, b, t + lag)
        pairs = _products(now, later)
        k, q, scalars = (y.roll(1, 0) for y in later)
        random = _products(now, (k, q, scalars))
        found += [z(y).amax((-1, -2)) for y in (pairs - random, pairs.square() - random.square())]
        before, after = (y[2] - y[2].mean(0) for y in (now, later))  # [P, H, 4]
        found.append(z(before[..., :, None] * after[..., None, :]).amax((-1, -2)))
    return torch.stack(found).nan_to_num(nan=0.0).amax(0)


def _products(now: _Tokens, later: _Tokens) -> Tensor:
    """u.w for u of k, q, x of one token and w of k, q, x of another, [P, H, 3, 3]; x = k + lam q."""
    (k, q, scalars), (l, r, others) = now, later
    found = torch.stack([k, q], dim=-2) @ torch.stack([l, r], dim=-1)
    mixed = found[..., :1, :] + scalars[..., 1, None, None] * found[..., 1:, :]
    found = torch.cat([found, mixed], dim=-2)
    return torch.cat([found, found[..., :1] + others[..., 1, None, None] * found[..., 1:]], dim=-1)


def halves(inputs: QDeltaInputs, batch: Tensor, token: Tensor) -> Tensor:
    """How many standard errors the moments of the first half in time differ from those of the second, [H].

    The moments: gates and k.q with their squares; and of k k^T, q q^T, x k^T and x x^T, weighed as in E[A A^T], along
    the directions in which every other token says that they differ most.
    """
    k, q, scalars = _read(inputs, batch, token)
    late = token >= inputs.T // 2
    found = [_two_samples(torch.cat([scalars, scalars.square()], dim=-1), late).amax(-1)]
    beta, alpha = scalars[..., 0, None], scalars[..., 2, None]
    x = k + scalars[..., 1, None] * q
    written = alpha * beta * x
    for u, w in ((k, k), (q, q), (alpha * written, k), (written, k.norm(dim=-1, keepdim=True).square() * written)):
        found.append(_moments(u, w, late))
    return torch.stack(found).nan_to_num(nan=0.0).amax(0)


def _moments(u: Tensor, w: Tensor, late: Tensor) -> Tensor:
    """Of E[u w^T] along the two directions in which it differs most: chosen by even tokens, tested on odd ones, [H]."""
    moment = lambda part: torch.einsum("nhi,nhj->hij", u[::2][part], w[::2][part]) / part.sum().clamp(min=1)
    difference = moment(~late[::2]) - moment(late[::2])
    difference = (difference + difference.mT) / 2
    finite = difference.isfinite().all(-1).all(-1)
    _, vectors = torch.linalg.eigh(difference.where(finite[:, None, None], 0))
    along = lambda y: (y[1::2].transpose(0, 1) @ vectors[..., [0, -1]]).transpose(0, 1)
    return _two_samples(along(u) * along(w), late[1::2]).amax(-1).where(finite, torch.nan)


def z(x: Tensor, floor: Tensor | float = _FLOOR) -> Tensor:
    """|mean| over its standard error along the first axis, to which the floor is added: what rounding may do."""
    if len(x) < 2:
        return torch.full(x.shape[1:], torch.nan, dtype=x.dtype)
    return x.mean(0).abs() / (x.std(0) / len(x) ** 0.5 + floor)


def _two_samples(x: Tensor, late: Tensor) -> Tensor:
    first, second = x[~late], x[late]
    if min(len(first), len(second)) < 2:
        return torch.full(x.shape[1:], torch.nan, dtype=x.dtype)
    error = (first.var(0) / len(first) + second.var(0) / len(second)).sqrt()
    size = torch.maximum(first.mean(0).abs(), second.mean(0).abs())
    return (first.mean(0) - second.mean(0)).abs() / (error + _FLOOR * (1 + size))


def _read(inputs: QDeltaInputs, batch: Tensor, token: Tensor) -> _Tokens:
    """k, q [N, H, K] and beta, lam, alpha, k.q [N, H, 4] of some tokens, float64."""
    rows = lambda y: y[batch, token].double()
    groups = inputs.H // inputs.q.shape[2]
    k, q = (rows(y).repeat_interleave(groups, dim=1) for y in (inputs.k, inputs.q))
    beta, lam, alpha = rows(inputs.beta), rows(inputs.lam), rows(inputs.g).exp()
    return k, q, torch.stack([beta, lam, alpha, torch.linalg.vecdot(k, q)], dim=-1)
