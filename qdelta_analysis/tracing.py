"""trace(): how one memory evolves, token by token, as a labelled dataset."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from typing import Literal

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from qdelta_kernels import chunk_qdelta_diagnostics
from qdelta_kernels.gpu import triton_suits

from .inputs import QDeltaInputs
from .transition import Transition

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


def trace(
    inputs: QDeltaInputs, snapshots: int | Sequence[int] = 32, backend: Literal["auto", "torch", "triton"] = "auto"
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
        `snapshot` being the token; and attributes that say where it came from. float32 inputs give float32.

    Raises ValueError for a snapshot that is no token, or another backend.

    The states S_t are never stored for every t: everything comes out of one pass over chunks of tokens.
    """
    if backend not in ("auto", "torch", "triton"):
        raise ValueError(f"backend is {backend!r}; expected 'auto', 'torch' or 'triton'.")
    at = _snapshot_tokens(snapshots, inputs.T)
    if backend == "auto":
        backend = "triton" if triton_suits(inputs.q, inputs.v) else "torch"
    elif backend == "triton" and torch.cuda.is_available():
        inputs = inputs.to("cuda")
    found = chunk_qdelta_diagnostics(**inputs.arguments(), at=at, backend=backend)
    t = _transition(inputs)
    per_token = {
        "alignment": t.alignment,
        "beta_alignment": t.beta * t.alignment,
        "operator_norm": t.operator_norm(),
        "spectral_radius": t.spectral_radius(),
        **{name: getattr(found, name) for name in MEANINGS if hasattr(found, name)},
    }
    dims = ("batch", "time", "head")
    variables = {name: (dims, _numpy(per_token[name]), {"long_name": MEANINGS[name]}) for name in MEANINGS}
    variables |= _snapshot_variables(found.states.transpose(-1, -2))
    coordinates = {name: np.arange(size) for name, size in zip(dims, (inputs.B, inputs.T, inputs.H), strict=True)}
    return xr.Dataset(variables, {**coordinates, "snapshot": at}, _provenance(inputs, backend))


def effective_rank(singular_values: Tensor) -> Tensor:
    """Return exp of the entropy of the singular values over their sum, [..., n] -> [...]; 0 for all zeros."""
    total = singular_values.sum(-1, keepdim=True)
    p = singular_values / torch.where(total > 0, total, 1)
    return torch.where(total[..., 0] > 0, torch.special.entr(p).sum(-1).exp(), 0)


def _transition(inputs: QDeltaInputs) -> Transition:
    """Return the transitions in float32 at least: in half precision a norm just above 1 would be 1."""
    t = inputs.transition()
    if inputs.q.dtype in (torch.float32, torch.float64):
        return t
    return Transition(t.k.float(), t.q.float(), inputs.beta, inputs.lam, inputs.g.float().exp())


def _snapshot_tokens(snapshots: int | Sequence[int], T: int) -> list[int]:
    if isinstance(snapshots, int):
        if snapshots < 0:
            raise ValueError(f"snapshots is {snapshots}; expected how many states to keep, or a list of tokens.")
        return sorted({round(T * (i + 1) / snapshots) - 1 for i in range(snapshots)} - {-1}) if T else []
    tokens = [int(t) for t in snapshots]
    if any(not 0 <= t < T for t in tokens):
        raise ValueError(f"snapshots is {tokens}; expected tokens from 0 to T - 1 = {T - 1}.")
    return sorted(set(tokens))


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


def _numpy(x: Tensor) -> np.ndarray:
    return x.detach().cpu().numpy()
