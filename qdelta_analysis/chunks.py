"""The chunk form, looked into: its matrices, and how far it and the released form lie from the recurrence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from qdelta_kernels import chunk_qdelta_rule, recurrent_qdelta_rule
from qdelta_kernels.arguments import check_arguments
from qdelta_kernels.chunkwise import Intra, blocks, chunk_layout, prepare_chunks
from qdelta_kernels.decay import remains
from qdelta_kernels.diagnostics import length

from .checks import require_all, require_count
from .inputs import QDeltaInputs
from .scaled import ratio
from .threads import one_thread

FORMS: tuple[Intra, ...] = get_args(Intra)
MEANINGS = {
    "decay": "D_ij = e^{G_i - G_j} for i >= j",
    "erase": "L_ij = beta_i D_ij x_i.k_j for i > j: what token i finds of what token j wrote",
    "inverse": "T = (I + L)^-1",
    "readout": "A_ij = D_ij q_i.k_j for i >= j",
}


@one_thread()
@torch.no_grad()
def chunk_matrices(inputs: QDeltaInputs, start: int = 0, C: int = 64) -> xr.Dataset:
    """Return the matrices inside one chunk: what its tokens do to each other, whatever memory enters.

        U = T (diag(beta) V - diag(beta e^G) X S^T),    O = diag(e^G) Q S^T + A U

    Variables decay D, erase L, inverse T = (I + L)^-1 and readout A (without the kernels' `scale`), dims (batch,
    head, i, j) with the tokens start to start + C - 1 as coordinates, float64. T is what the chunk form solves for;
    L is formed from x itself, another way than there.

    Raises ValueError for a chunk that is not within the tokens. Source: the WY/UT transform of arXiv 2606.08804.
    """
    require_count("C", C, 1, inputs.T)
    require_count("start", start, 0, inputs.T - C)
    # Cut here and not by `inputs.tokens`, which would run the past for the memory that enters.
    names = ("q", "k", "v", "g", "beta", "lam")
    cut = QDeltaInputs(**{name: getattr(inputs, name)[:, start : start + C].double() for name in names})
    a = check_arguments(**cut.arguments(), chunk_size=C)
    layout = chunk_layout(a, C)
    (block,) = blocks(layout, a.q, a.v)
    c = prepare_chunks(layout, block, a.q, a.k, a.v, a.g, a.beta, a.lam)
    decay, inverse, readout = (x.flatten(1, 2) for x in (c.decay, c.inverse, c.readout()))
    t = cut.transition()
    x, k, beta = t.x.transpose(1, 2), t.k.transpose(1, 2), t.beta.transpose(1, 2)
    erase = (beta[..., None] * remains(x @ k.mT, decay)).tril(-1)
    found = {"decay": decay, "erase": erase, "inverse": inverse, "readout": readout}
    dims = ("batch", "head", "i", "j")
    tokens = np.arange(start, start + C)
    variables = {name: (dims, x.cpu().numpy(), {"long_name": MEANINGS[name]}) for name, x in found.items()}
    return xr.Dataset(variables, {"i": tokens, "j": tokens}, dict(inputs.metadata))


@one_thread()
@torch.no_grad()
def chunk_deviation(
    inputs: QDeltaInputs,
    lams: float | Sequence[float] | np.ndarray,
    chunk_sizes: int | Sequence[int] | np.ndarray,
) -> xr.Dataset:
    """Return how far the chunk form's outputs, in its two forms, lie from the recurrence's, run token by token.

        deviation = ||o' - o|| / ||o|| over all tokens and heads;    by_token: over the heads, for each token

    Dims (form, lam, chunk_size) and (form, lam, chunk_size, time), float64. The form "recurrence" is equal up to
    rounding; "released" has the transpose in x and k of the authors' released kernels (`chunk_qdelta_rule` says more).
    Every lam in `lams` replaces the inputs' own. Where the recurrence's outputs vanish, 0 if the others do, else
    inf; NaN where the memory leaves the range.

    Raises ValueError for a lam outside [0, 2], a chunk size below 1, or inputs without tokens.
    """
    lams = require_all("lams", np.atleast_1d(np.asarray(lams, dtype=np.float64)), 0, 2)
    sizes: list[int] = np.asarray(chunk_sizes).reshape(-1).tolist()
    for size in sizes:
        require_count("chunk_sizes", size, 1)
    require_count("inputs.T", inputs.T, 1)
    arguments = _with_lams(inputs.to(torch.float64), torch.as_tensor(lams))
    reference = recurrent_qdelta_rule(**arguments)[0]
    distances = lambda form, C: _sizes(_outputs(arguments, form, C) - reference, len(lams))
    difference = torch.stack([torch.stack([distances(form, C) for C in sizes], dim=1) for form in FORMS])
    size = _sizes(reference, len(lams))[:, None]
    dims = ("form", "lam", "chunk_size")
    variables = {
        "deviation": (dims, _ratio(length(difference)[0], length(size)[0]), {"long_name": "||o' - o|| / ||o||"}),
        "by_token": ((*dims, "time"), _ratio(difference, size), {"long_name": "||o'_t - o_t|| / ||o_t||"}),
    }
    coordinates = {"form": list(FORMS), "lam": lams, "chunk_size": sizes, "time": np.arange(inputs.T)}
    return xr.Dataset(variables, coordinates, dict(inputs.metadata))


def _outputs(arguments: dict[str, Any], form: Intra, C: int) -> Tensor:
    return chunk_qdelta_rule(**arguments, chunk_size=C, intra=form)[0]


def _with_lams(inputs: QDeltaInputs, lams: Tensor) -> dict[str, Any]:
    """Put every lam on a value head of its own, side by side: all of them share the q and k of their group."""
    n, given = len(lams), inputs.arguments()
    arguments = {name: x if x is None else x.repeat_interleave(n, dim=2) for name, x in given.items()}
    state = None if inputs.initial_state is None else inputs.initial_state.repeat_interleave(n, dim=1)
    lam = lams.to(inputs.beta).repeat(inputs.H).expand(inputs.B, inputs.T, -1)
    return {**arguments, "q": inputs.q, "k": inputs.k, "lam": lam, "initial_state": state}


def _sizes(o: Float[Tensor, "B T H_lams V"], n: int) -> Float[Tensor, "lams T"]:
    """Return ||o_t|| over the sequences and heads of each of n lams."""
    return length(o.unflatten(2, (-1, n)).permute(3, 1, 0, 2, 4).flatten(2))[0]


def _ratio(difference: Tensor, size: Tensor) -> np.ndarray:
    found = ratio(torch, difference, size)
    return found.masked_fill(~(difference.isfinite() & size.isfinite()), torch.nan).cpu().numpy()
