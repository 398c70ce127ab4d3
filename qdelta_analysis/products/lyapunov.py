"""Lyapunov exponents: how fast a typical memory grows or fades along given tokens, by QR."""

from __future__ import annotations

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from qdelta_kernels.diagnostics import length

from ..checks import require_count, require_seed
from ..inputs import QDeltaInputs
from ..threads import one_thread
from .blocks import Blocks, mean_and_error, split
from .tokens import float64_tokens

_LONGEST = 64
# Of the 16 digits, a stretch of tokens between two QR may cost 8; past 14 a direction counts as lost.
_KEEP, _LOST = 1e-8, 1e-14
_LENGTHEN = 1e-5
# Below it a volume is zero.
_NOTHING = 1e-100


@one_thread()
@torch.no_grad()
def lyapunov_spectrum(
    inputs: QDeltaInputs,
    *,
    exponents: int | None = None,
    transient: int | None = None,
    blocks: int = 16,
    seed: int = 0,
) -> xr.Dataset:
    """Estimate the Lyapunov exponents of A_1 A_2 ... A_T for every head, by QR along the tokens.

        Q_{t-1} A_t = R_t^T Q_t (Q: orthonormal rows),    exponent i = mean over t of log |(R_t)_ii|

    The largest is the rate at which almost every memory's past grows or fades along these tokens. No transition is
    formed: the rows pass through a stretch of tokens as e^G (Q - W^T K), with W from the triangular system
    (I + tril(beta x.k, -1)) W = diag(beta) X Q^T, and QR follows; decay factors out. A stretch is shortened until
    QR keeps half of float64's digits; one token alone, of whatever size, has its R and Q in closed form.

    Args:
        inputs: the tokens; computed in float64.
        exponents: how many, from the largest down (None: all K).
        transient: tokens at the start that only turn the rows, None for T // 8; up to `blocks` - 1 more are left out.
        blocks: how many equal blocks the error is taken over.
        seed: of the orthonormal rows that enter: QR of torch.randn(K, exponents).

    Returns:
        A dataset with dims (batch, head, exponent), nats per token: `lyapunov_exponent`, falling;
        `standard_error` by block means (right where blocks outlast correlations; NaN with one block, or at -inf); and
        `log_determinant` with dims (batch, head), the mean of log |det A_t| over the same tokens, to which
        all K exponents add up. A direction that a token wipes out (beta a = 1 to rounding) has the exponent -inf.
        Its attributes name the transient and the blocks.

    Raises ValueError for no tokens, or a count outside its range.
    Source: Benettin, Galgani, Giorgilli and Strelcyn, Meccanica 15 (1980); the stretches are the chunk form (G12).
    """
    x = float64_tokens(inputs)
    require_count("exponents", x.K if exponents is None else exponents, 1, x.K)
    cut = split(x.T, transient, blocks)
    t = x.transition()
    flat = lambda tensor: tensor.transpose(1, 2).flatten(0, 1).contiguous()  # [B, T, H, ...] -> [B H, T, ...]
    make = torch.Generator().manual_seed(require_seed(seed))
    start = torch.linalg.qr(torch.randn(x.K, exponents or x.K, dtype=torch.float64, generator=make))[0].mT
    g = flat(x.g)
    factor = 1 - t.beta * t.alignment
    undecayed = _undecayed(flat(t.beta[..., None] * t.x), flat(t.k), flat(factor), start, cut)
    rates = undecayed + cut.per_token(g)[..., None]
    mean, error = mean_and_error(rates)
    mean, order = mean.sort(dim=-1, descending=True, stable=True)
    determinant = cut.per_token(x.K * g + flat(factor.abs().log())).mean(1)
    heads = lambda tensor: tensor.unflatten(0, (x.B, x.H)).numpy()
    units = {"units": "nats per token"}
    return xr.Dataset(
        {
            "lyapunov_exponent": (("batch", "head", "exponent"), heads(mean), units),
            "standard_error": (("batch", "head", "exponent"), heads(error.gather(-1, order)), units),
            "log_determinant": (("batch", "head"), heads(determinant), units),
        },
        attrs={**x.metadata, **cut.attributes(), "seed": seed},
    )


def top_lyapunov_exponent(
    inputs: QDeltaInputs, *, transient: int | None = None, blocks: int = 16, seed: int = 0
) -> xr.Dataset:
    """Estimate the largest Lyapunov exponent of every head, O(K) work per token.

    Arguments, errors and result are those of `lyapunov_spectrum`, with dims (batch, head).
    """
    found = lyapunov_spectrum(inputs, exponents=1, transient=transient, blocks=blocks, seed=seed)
    return found.isel(exponent=0, drop=True)


def _undecayed(
    bx: Float[Tensor, "N T K"],
    k: Float[Tensor, "N T K"],
    factor: Float[Tensor, "N T"],
    start: Float[Tensor, "n K"],
    cut: Blocks,
) -> Float[Tensor, "N blocks n"]:
    """Return the mean of log |R_ii| over each block, for alpha = 1; factor is det A."""
    N, T, n = bx.shape[0], bx.shape[1], start.shape[0]
    Q, size, dead = start.expand(N, -1, -1), _LONGEST, torch.zeros(N, n, dtype=torch.bool)
    growth = bx.new_zeros(N, cut.count, n)
    ends = range(cut.transient, T + 1, cut.size)
    at = 0
    for i, end in enumerate(ends):
        while at < end:
            now = min(size, end - at)
            if now > 1:
                turned, r, shrunk = _stretch(Q, bx[:, at : at + now], k[:, at : at + now])
                lost = torch.zeros_like(dead)
            else:
                turned, r, shrunk, lost = _token(Q, bx[:, at], k[:, at], factor[:, at])
            least = float(torch.where(dead, 1, shrunk).min())
            if now > 1 and not least >= _KEEP:  # NaN too
                size = now // 2
                continue
            dead |= lost
            if i > 0:
                growth[:, i - 1] += torch.where(dead, 0, r).log()
            Q, at = turned, at + now
            if least > _LENGTHEN:
                size = min(2 * size, _LONGEST)
    return growth / cut.size


def _stretch(Q: Tensor, bx: Tensor, k: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pass the rows Q [N, n, K] through the tokens; return the new rows, |R_ii|, and |R_ii| against what was summed.

    Rounding is proportional to the largest term of Q - W^T K, so that a small share says how many digits are gone.
    """
    L = (bx @ k.mT).tril(-1)
    W = torch.linalg.solve_triangular(L, bx @ Q.mT, upper=False, unitriangular=True)
    columns, R = torch.linalg.qr((Q - W.mT @ k).mT)
    r = R.diagonal(dim1=-2, dim2=-1).abs()
    terms = 1 + (W.norm(dim=-1) * k.norm(dim=-1)).amax(-1, keepdim=True)
    return columns.mT, r, r / terms


def _token(Q: Tensor, bx: Tensor, k: Tensor, factor: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Do `_stretch` for one token, bx and k [N, K], in closed form; say too which directions it wiped out.

    For u = Q bx, w = Q k and, over the first i rows, U = sum u_j Q_j, P = k - sum w_j Q_j, s = 1 - sum u_j w_j:

        |R_11 ... R_ii| = D = sqrt(s^2 + U^2 P^2),    Q_i + (s w_i - P^2 u_i) U / D^2 - (s u_i + U^2 w_i) P / D^2

    is the new row up to its length, with U, P, s and D over i rows or i - 1. Nothing else is lost beside a direction
    that expands by 1e16, and one is wiped out only where D is 0 to rounding.
    """
    n, K = Q.shape[-2:]
    u, w = (Q @ bx[..., None])[..., 0], (Q @ k[..., None])[..., 0]
    before = lambda x, first: torch.cat([first, x], dim=1)
    along = w[..., None] * Q
    rest = k - along.sum(1) if n < K else torch.zeros_like(k)
    U = before((u[..., None] * Q).cumsum(1), torch.zeros_like(k)[:, None])  # [N, n + 1, K]
    P = torch.cat([k[:, None], along.flip(1).cumsum(1).flip(1)[:, 1:] + rest[:, None], rest[:, None]], dim=1)
    one = torch.ones_like(factor)[:, None]
    s = before(1 - (u * w).cumsum(1), one)
    rounding = before(1 + (u * w).abs().cumsum(1), one)
    if n == K:
        s[:, -1], rounding[:, -1] = factor, 1 + (bx * k).abs().sum(-1)
    (U, U_unit), (P, P_unit) = length(U), length(P)
    D = torch.hypot(s, U * P)
    safe = D.clamp(min=_NOTHING)
    r = D[:, 1:] / safe[:, :-1]
    at = torch.arange(n) + (r < 1)  # after i rows where they shrink, so that the new row is a long one
    pick = lambda x: torch.take_along_dim(x, at.view(*at.shape, *[1] * (x.ndim - 2)), dim=1)
    cos, sin = pick(torch.where(D > _NOTHING, s / safe, 1)), pick(U * P / safe)
    b, c = w * pick(U / safe), u * pick(P / safe)
    rows = Q + (cos * b - sin * c)[..., None] * pick(U_unit) - (sin * b + cos * c)[..., None] * pick(P_unit)
    turned = torch.linalg.qr(length(rows)[1].mT)[0].mT
    return turned, r, D[:, 1:] / rounding[:, 1:], D[:, 1:] < _LOST * rounding[:, 1:]
