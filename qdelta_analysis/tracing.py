"""trace(): how one memory evolves, token by token, as a labelled dataset."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.metadata import version
from typing import Any, Literal, SupportsIndex

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from qdelta_kernels import Diagnostics, chunk_qdelta_diagnostics
from qdelta_kernels.gpu import triton_suits

from .checks import is_whole, plain, require_count, require_room
from .inputs import QDeltaInputs

# Per-token variables: their meaning, as the dataset states it.
MEANINGS = {
    "alignment": "a = k.x",
    "beta_alignment": "beta a; the mixed error contracts where it lies in (0, 2)",
    "operator_norm": "||A||_2 of the transition A = alpha (I - beta x k^T)",
    "spectral_radius": "rho(A) = alpha max(1, |1 - beta a|)",
    "error_before": "||v - alpha S x||, the mixed error before the write",
    "error_after": "||v - S x||, the mixed error after the write",
    "key_retrieval": "||v_hat||, v_hat = alpha S k before the write",
    "query_prediction": "||o_hat||, o_hat = alpha S q before the write",
    "cosine": "cos(v_hat, o_hat), 0 where either vanishes",
    "state_norm": "||S||_F after the write",
}
_FOLLOWED = ("error_before", "error_after", "key_retrieval", "query_prediction", "cosine", "state_norm")
_CHUNK = 64  # tokens that the diagnostics are computed for at once


def trace(
    inputs: QDeltaInputs,
    snapshots: SupportsIndex | Iterable[SupportsIndex] = 32,
    backend: Literal["auto", "torch", "triton"] = "auto",
) -> xr.Dataset:
    """Follow the memory of every head through every token.

    Args:
        inputs: the tokens.
        snapshots: how many states to keep, evenly spaced with the last token among them, or after which tokens.
        backend: "triton" (kernels for a GPU, in float32 or less; tensors on the CPU go there and back), "torch", or
            "auto": Triton for tensors on a CUDA device that it is made for, else torch.

    Returns:
        A dataset with dims (batch, time, head) for each diagnostic in `MEANINGS`; with dims (batch, snapshot,
        head, value, key) for `state`, S as in the paper, its `singular_values` (falling) and `effective_rank`
        exp(H(p)), p = singular values / their sum (Roy and Vetterli, 2007; 0 for a zero state), the coordinate
        `snapshot` being the token; and attributes that say where it came from, and in which precision it was
        computed. float32 inputs give float32. Where the memory leaves its range, inf and NaN stand for what it does
        not hold (the singular values of such a state are NaN), and the attribute `overflow` says from where on.

    Raises ValueError for a snapshot that is no token, more of them than there is memory for, or another backend.

    The states S_t are never stored for every t: everything comes out of one pass over chunks of tokens.
    """
    if backend not in ("auto", "torch", "triton"):
        raise ValueError(f"backend is {backend!r}; expected 'auto', 'torch' or 'triton'.")
    at = snapshot_tokens(snapshots, inputs)
    if backend == "auto":
        backend = "triton" if triton_suits(inputs.q, inputs.v) else "torch"
    elif backend == "triton" and torch.cuda.is_available():
        inputs = inputs.to("cuda")
    found, precision = _diagnostics(inputs, at, backend)
    t = inputs.transition()
    per_token = {
        "alignment": t.alignment,
        "beta_alignment": t.beta * t.alignment,
        "operator_norm": t.operator_norm(),
        "spectral_radius": t.spectral_radius(),
        **{name: getattr(found, name) for name in _FOLLOWED},
    }
    dims = ("batch", "time", "head")
    variables = {name: (dims, _numpy(per_token[name]), {"long_name": MEANINGS[name]}) for name in MEANINGS}
    variables |= _snapshot_variables(found.states.transpose(-1, -2))
    coordinates = {name: np.arange(size) for name, size in zip(dims, (inputs.B, inputs.T, inputs.H), strict=True)}
    attributes = _provenance(inputs, backend) | {"precision": precision} | _overflow(per_token)
    return xr.Dataset(variables, {**coordinates, "snapshot": at}, attributes)


def effective_rank(singular_values: Tensor) -> Tensor:
    """Return exp of the entropy of the singular values over their sum, [..., n] -> [...]; 0 for all zeros.

    NaN where one of them is NaN or infinite.
    """
    largest = singular_values.amax(-1, keepdim=True)
    p = singular_values / torch.where(largest == 0, 1, largest)  # first, as the sum may be out of range
    p = p / torch.where(largest == 0, 1, p.sum(-1, keepdim=True))
    return torch.where(largest[..., 0] == 0, 0, torch.special.entr(p).sum(-1).exp())


def _diagnostics(inputs: QDeltaInputs, at: list[int], backend: Literal["torch", "triton"]) -> tuple[Diagnostics, str]:
    """Follow the memory in the inputs' precision, or, where it leaves that range, in float64 and then rounded.

    Also returns the words for it.
    """
    found = chunk_qdelta_diagnostics(**inputs.arguments(), at=at, backend=backend)
    dtype, tokens = found.states.dtype, inputs.q.dtype
    if _finite(found).all():
        # The kernels multiply half-precision tokens as they are.
        products = f" sums of {_name(tokens)} products" if backend == "triton" and tokens.itemsize == 2 else ""
        return found, _name(dtype) + products
    if dtype == torch.float64:
        return _before_overflow(inputs, at, found), _name(dtype)
    wide, precision = _diagnostics(inputs.to(torch.float64), at, "torch")
    fields = {name: getattr(wide, name).to(dtype) for name in (*_FOLLOWED, "states")}
    said = f"{precision}, as the memory leaves the range of {_name(dtype)}, to which it was then rounded"
    return Diagnostics(**fields, updates=None), said


def _before_overflow(inputs: QDeltaInputs, at: list[int], found: Diagnostics) -> Diagnostics:
    """Follow the chunk in which a memory overflows token by token: there it takes the tokens before it along."""
    bad = ~_finite(found)
    for b, h in bad.any(1).nonzero().tolist():
        start = int(bad[b, :, h].int().argmax()) // _CHUNK * _CHUNK
        stop = min(start + _CHUNK, inputs.T)
        one = inputs.heads(h)
        rows = {name: None if x is None else x[b : b + 1] for name, x in one.arguments().items()}
        part = replace(one, **rows).tokens(start, stop)
        inside = [t for t in at if start <= t < stop]
        again = chunk_qdelta_diagnostics(**part.arguments(), at=[t - start for t in inside], chunk_size=1)
        for name in _FOLLOWED:
            getattr(found, name)[b, start:stop, h] = getattr(again, name)[0, :, 0]
        for i, t in enumerate(inside):
            found.states[b, at.index(t), h] = again.states[0, i, 0]
    return found


def _finite(found: Diagnostics) -> Tensor:
    """Return whether all that is known of a memory at a token is finite, [B, T, H]."""
    return torch.stack([getattr(found, name).isfinite() for name in _FOLLOWED]).all(0)


def snapshot_tokens(snapshots: Any, inputs: QDeltaInputs, least: int = 0) -> list[int]:
    """Return after which tokens the state is kept; raise ValueError for a count below `least`, or as `trace` does."""
    T, snapshots = inputs.T, plain(snapshots)
    if isinstance(snapshots, Iterable):
        tokens = [plain(t) for t in snapshots]
        if not all(is_whole(t) and 0 <= t < T for t in tokens):
            raise ValueError(f"snapshots is {tokens}; expected tokens from 0 to T - 1 = {T - 1}.")
        at = sorted({int(t) for t in tokens})
    else:
        require_count("snapshots", snapshots, least)
        n = min(int(snapshots), T)
        at = [round(T * (i + 1) / n) - 1 for i in range(n)]
    # The states, turned as in the paper, and a copy for their decompositions.
    size = inputs.B * len(at) * inputs.H * inputs.K * inputs.V
    require_room(f"{len(at)} snapshots of {inputs.B} x {inputs.H} memories", 3 * size * inputs.g.dtype.itemsize)
    return at


def _snapshot_variables(S: Tensor) -> dict[str, tuple]:
    values = _singular_values(S)
    dims = ("batch", "snapshot", "head")
    return {
        "state": ((*dims, "value", "key"), _numpy(S), {"long_name": "S, the memory after the token"}),
        "singular_values": ((*dims, "rank"), _numpy(values), {"long_name": "singular values of S, falling"}),
        "effective_rank": (dims, _numpy(effective_rank(values)), {"long_name": "exp(entropy of singular values)"}),
    }


def _singular_values(S: Tensor) -> Tensor:
    """Return the singular values of many small matrices, falling, each on one thread, several at a time.

    A second thread inside one small decomposition costs more than it gives: on a busy machine, 30 times more.
    """
    finite = S.isfinite().all(-1).all(-1)
    if not finite.all():
        values = S.new_full((*S.shape[:-2], min(S.shape[-2:])), torch.nan)
        values[finite] = _singular_values(S[finite])
        return values
    threads = torch.get_num_threads()
    if threads == 1 or S.is_cuda:
        return torch.linalg.svdvals(S)
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            parts = list(pool.map(torch.linalg.svdvals, S.flatten(0, -3).tensor_split(threads)))
    finally:
        torch.set_num_threads(threads)
    return torch.cat(parts).unflatten(0, S.shape[:-2])


def _provenance(inputs: QDeltaInputs, backend: str) -> dict[str, str]:
    return {
        **inputs.metadata,
        "made_by": f"qdelta_analysis.trace {version('qdelta')}, torch {torch.__version__}, backend {backend}",
        "recurrence": "S_t = alpha_t S_{t-1} (I - beta_t x_t k_t^T) + beta_t v_t k_t^T, x_t = k_t + lam_t q_t",
    }


def _overflow(per_token: dict[str, Tensor]) -> dict[str, str]:
    finite = torch.stack([x.isfinite() for x in per_token.values()]).all(0)
    if finite.all():
        return {}
    token, batch, head = (~finite).transpose(0, 1).nonzero()[0].tolist()
    dtype = _name(per_token["state_norm"].dtype)
    where = f"token {token} on (sequence {batch}, head {head})"
    return {"overflow": f"from {where} the memory leaves the range of {dtype}; inf and nan stand for what is beyond it"}


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _numpy(x: Tensor) -> np.ndarray:
    return x.detach().cpu().numpy()
