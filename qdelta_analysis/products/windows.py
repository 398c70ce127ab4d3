"""How much a memory grows over short stretches, and how much the memory of given tokens did grow."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from qdelta_kernels import chunk_qdelta_diagnostics

from ..checks import require_count
from ..inputs import QDeltaInputs
from ..threads import one_thread
from ..transition import Transition
from .blocks import mean_and_error, split
from .tokens import eigenvalues, float64_tokens

_STARTS = 64  # windows are followed from this many first tokens at once
_ROUNDING = 1e-12
# The log of the least decay and norm: what it multiplies is 0 in float64.
_LEAST_LOG = -10_000.0
# Products with larger entries are divided by the largest.
_LARGE = 1e100


@one_thread()
@torch.no_grad()
def transient_growth(inputs: QDeltaInputs, window: int = 64) -> xr.Dataset:
    """Find the stretch of at most `window` tokens that can make a memory grow most.

        growth = max over s <= t < s + window of ||A_s ... A_t||_2

    Exact to rounding: no window that could be larger is passed over. P = A_s ... A_t is carried from token to token
    by its rank-one update, and so is a bound, ||P A|| <= ||P|| ||A|| with ||A|| in closed form. Only where the bound
    exceeds the best window so far is ||P|| computed, and becomes the bound. First tokens from which no product of
    norms exceeds the best are never followed. The work is O(K^2) for a window and O(K^3) where ||P|| is computed:
    measured, at 0.1 % of the windows of trained heads, 8 % with their decay taken off, and from half to nine tenths
    for isotropic tokens without decay.

    Returns a dataset with dims (batch, head): `growth`, a factor, and `start` and `stop`, the window being tokens
    start to stop - 1 (one of them, where several are equal). Growth that leaves float64 is inf.
    Raises ValueError for no tokens, or window < 1. Source: this project's theory (claim G3 for ||A||).
    """
    require_count("window", window, 1)
    x = float64_tokens(inputs)
    t = x.transition()
    g = x.g.clamp(min=_LEAST_LOG)
    steps = g + Transition(t.k, t.q, t.beta, t.lam).operator_norm().log().clamp(min=_LEAST_LOG)
    flat = lambda tensor: tensor.transpose(1, 2).flatten(0, 1)
    heads = zip(flat(t.beta[..., None] * t.x), flat(t.k), flat(g), flat(steps), strict=True)
    found = np.array([_worst_window(*head, min(window, x.T)) for head in heads]).reshape(x.B, x.H, 3)
    dims = ("batch", "head")
    windows = {name: (dims, found[..., i].astype(int)) for i, name in ((1, "start"), (2, "stop"))}
    with np.errstate(over="ignore"):
        growth = np.exp(found[..., 0])
    return xr.Dataset({"growth": (dims, growth), **windows}, attrs={**x.metadata, "window": window})


def _worst_window(
    bx: Float[Tensor, "T K"], k: Float[Tensor, "T K"], g: Float[Tensor, " T"], steps: Float[Tensor, " T"], window: int
) -> tuple[float, int, int]:
    """Return log ||A_start ... A_(stop-1)||, start and stop of one head's worst window; steps is log ||A_t||."""
    T, K = k.shape
    reach = _reach(steps, window)
    best, start = float(steps.max()), int(steps.argmax())
    stop = start + 1
    for starts in reach.argsort(descending=True).split(_STARTS):
        starts = starts[reach[starts] > best + _ROUNDING]
        P = torch.eye(K, dtype=k.dtype).repeat(len(starts), 1, 1)
        bound = decay = k.new_zeros(len(starts))
        for n in range(window if len(starts) else 0):
            inside = starts + n < T
            starts, P, bound, decay = starts[inside], P[inside], bound[inside], decay[inside]
            at = starts + n
            P = torch.baddbmm(P, P @ bx[at, :, None], k[at, None], alpha=-1)
            size = P.abs().amax((-2, -1))
            size = torch.where((size > _LARGE) & size.isfinite(), size, 1)
            P, bound, decay = P / size[:, None, None], bound + steps[at], decay + g[at] + size.log()
            due = (bound > best + _ROUNDING).nonzero()[:, 0]
            if len(due) == 0:
                continue
            norms = eigenvalues(P[due] @ P[due].mT)[:, -1].clamp(min=0).log() / 2 + decay[due]
            norms = norms.where(norms.isnan().logical_not(), bound[due])  # lost beyond float64: the bound is kept
            bound[due] = norms
            worst = int(norms.argmax())
            if norms[worst] > best:
                best, start, stop = float(norms[worst]), int(starts[due[worst]]), int(at[due[worst]]) + 1
    return best, start, stop


def _reach(steps: Float[Tensor, " T"], window: int) -> Float[Tensor, " T"]:
    """Return for each first token the largest log of a product of norms over its windows."""
    total = reach = steps
    for n in range(1, window):
        total = total[:-1] + steps[n:]
        reach = torch.cat([torch.maximum(reach[: len(total)], total), reach[len(total) :]])
    return reach


@one_thread()
@torch.no_grad()
def observed_growth(inputs: QDeltaInputs, *, transient: int | None = None, blocks: int = 16) -> xr.Dataset:
    """Measure how ||S_t||_F grew along the tokens, from the initial state on.

        rate = mean over blocks of (log ||S|| at the block's end - log ||S|| at its start) / tokens

    Unlike a Lyapunov exponent this has the writes in it: a memory that forgets settles, and its rate is 0.

    Args:
        inputs: the tokens; computed in float64.
        transient: tokens at the start that are left out of the rate, None for T // 8.
        blocks: how many equal blocks the error is taken over.

    Returns:
        A dataset with dims (batch, head): `rate` in nats per token with its `rate_error` by block means, which
        overstates it where the memory has settled (what one block gains the next loses); `largest` and `final`, the
        largest and the last ||S_t||_F. NaN where the memory is zero, inf where it leaves float64.

    Raises ValueError for no tokens, or a count outside its range.
    """
    x = float64_tokens(inputs)
    cut = split(x.T, transient, blocks)
    norms = chunk_qdelta_diagnostics(**x.arguments()).state_norm  # [B, T, H]
    norms = norms.where(norms.isfinite(), torch.inf)
    start = x.v.new_zeros(x.B, x.H) if x.initial_state is None else x.initial_state.norm(dim=(-2, -1))
    ends = torch.cat([start[:, None], norms], dim=1)[:, cut.transient :: cut.size]
    rate, error = mean_and_error(ends.where(ends > 0, torch.nan).log().diff(dim=1) / cut.size)
    rate = rate.where(ends.isfinite().all(1), torch.inf)
    values = {"rate": rate, "rate_error": error, "largest": norms.amax(1), "final": norms[:, -1]}
    data = xr.Dataset({name: (("batch", "head"), y.numpy()) for name, y in values.items()})
    for name in ("rate", "rate_error"):
        data[name].attrs["units"] = "nats per token"
    return data.assign_attrs({**x.metadata, **cut.attributes()})
