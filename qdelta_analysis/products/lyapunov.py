"""Lyapunov exponents: how fast a typical memory grows or fades along given tokens, by QR."""

from __future__ import annotations

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from ..checks import require_count
from ..inputs import QDeltaInputs
from ..threads import one_thread
from .blocks import Blocks, mean_and_error, split
from .tokens import float64_tokens

_LONGEST = 64
# Of the 16 digits, a stretch of tokens between two QR may cost 8; past 14 a direction counts as lost.
_KEEP, _LOST = 1e-8, 1e-14
_LENGTHEN = 1e-5


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
    QR keeps half of float64's digits.

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
    make = torch.Generator().manual_seed(seed)
    start = torch.linalg.qr(torch.randn(x.K, exponents or x.K, dtype=torch.float64, generator=make))[0].mT
    g = flat(x.g)
    rates = _undecayed(flat(t.beta[..., None] * t.x), flat(t.k), start, cut) + cut.per_token(g)[..., None]
    mean, error = mean_and_error(rates)
    mean, order = mean.sort(dim=-1, descending=True, stable=True)
    determinant = cut.per_token(x.K * g + flat((1 - t.beta * t.alignment).abs().log())).mean(1)
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
    bx: Float[Tensor, "N T K"], k: Float[Tensor, "N T K"], start: Float[Tensor, "n K"], cut: Blocks
) -> Float[Tensor, "N blocks n"]:
    """Return the mean of log |R_ii| over each block, for alpha = 1."""
    N, T, n = bx.shape[0], bx.shape[1], start.shape[0]
    Q, length, dead = start.expand(N, -1, -1), _LONGEST, torch.zeros(N, n, dtype=torch.bool)
    growth = bx.new_zeros(N, cut.count, n)
    ends = range(cut.transient, T + 1, cut.size)
    at = 0
    for i, end in enumerate(ends):
        while at < end:
            now = min(length, end - at)
            turned, r, shrunk = _stretch(Q, bx[:, at : at + now], k[:, at : at + now])
            least = float(torch.where(dead, 1, shrunk).min())
            if least < _KEEP and now > 1:
                length = now // 2
                continue
            dead |= shrunk < _LOST
            if i > 0:
                growth[:, i - 1] += torch.where(dead, 0, r).log()
            Q, at = turned, at + now
            if least > _LENGTHEN:
                length = min(2 * length, _LONGEST)
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
