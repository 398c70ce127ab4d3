"""Several memories on the same tokens: one under each query feedback, or one for each rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import SupportsIndex

import numpy as np
import xarray as xr
from torch import Tensor

from qdelta_kernels.diagnostics import length

from .inputs import QDeltaInputs
from .scaled import ratio
from .tracing import snapshot_tokens, trace

# What `evolve` adds to the variables of `trace`.
MEANINGS = {
    "key_energy": "||v_hat||^2 / (||alpha S||_F^2 ||k||^2), the share of the memory's energy that the key reads",
    "query_energy": "||o_hat||^2 / (||alpha S||_F^2 ||q||^2), the share of the memory's energy that the query reads",
    "angle": "angle between v_hat and o_hat in degrees, NaN where either vanishes",
}
# Of these, which change from token to token, `evolve` returns running means as well, as NAME_mean.
AVERAGED = ("key_retrieval", "query_prediction", "key_energy", "query_energy", "angle")
_WINDOWS = 32


def rules(inputs: QDeltaInputs) -> dict[str, QDeltaInputs]:
    """Return the same tokens for three rules: DeltaNet (lam = 0, alpha = 1), Gated DeltaNet (lam = 0), and Q-Delta."""
    gated = inputs.with_lam(0.0)
    return {"DeltaNet": gated.with_alpha(1.0), "Gated DeltaNet": gated, "Q-Delta": inputs}


def feedbacks(inputs: QDeltaInputs, lam: Sequence[float], *, scaled: bool = False) -> dict[str, QDeltaInputs]:
    """Return the same tokens under several query feedbacks, each under a name of its own.

    lam: what replaces the inputs' own lam or, where `scaled`, what it is multiplied by. Raises ValueError for a lam
    outside [0, 2], in one sentence.
    """
    found: dict[str, QDeltaInputs] = {}
    # Six digits, unless others are the same in six.
    alike = Counter(f"{value:g}" for value in {float(value) for value in lam})
    for value in lam:
        said = f"{value:g}" if alike[f"{value:g}"] == 1 else repr(float(value))
        name = f"λ × {said}" if scaled else f"λ = {said}"
        while name in found:  # the same number twice
            name += "′"
        found[name] = inputs.with_lam(value * inputs.lam if scaled else value)
    return found


def evolve(memories: Mapping[str, QDeltaInputs], snapshots: SupportsIndex | Iterable[SupportsIndex] = 96) -> xr.Dataset:
    """Follow several memories through the same tokens, for them to be compared.

    Args:
        memories: under each name one sequence of one head, all with the same K and V; one that has fewer tokens than
            the longest is NaN from there on.
        snapshots: how many states to keep of the longest, evenly spaced with the last among them, or after which
            tokens: for these there are singular values and an effective rank.

    Returns:
        The dataset of `trace` without batch and head, with a dim `memory` first, the variables in `MEANINGS`, and
        means over a 32nd of the tokens around each, the attribute `window`, of those in `AVERAGED`.
        The share ||S u||^2 / (||S||_F^2 ||u||^2) lies in [0, 1], is 1/K on average over directions u, 0 for S = 0, and
        NaN where the memory has left its range.

    Raises ValueError for no memory, more than one sequence or head, shapes that differ, no token, or a snapshot that is
    no token of the longest.
    """
    if not memories:
        raise ValueError("memories are none; expected at least one, under its name.")
    first = next(iter(memories.values()))
    for name, x in memories.items():
        if (x.B, x.H, x.K, x.V) != (1, 1, first.K, first.V):
            raise ValueError(
                f"memory {name!r} has B = {x.B}, {x.H} heads, K = {x.K} and V = {x.V}; expected one sequence and one "
                f"head with K = {first.K} and V = {first.V}."
            )
    longest = max(memories.values(), key=lambda x: x.T)
    if longest.T < 1:
        raise ValueError("memories have T = 0 tokens; expected at least 1.")
    at = snapshot_tokens(snapshots, longest, least=1)
    runs = [_run(x, [t for t in at if t < x.T]) for x in memories.values()]
    found = xr.concat(runs, "memory", join="outer", combine_attrs="drop_conflicts")
    window = max(1, longest.T // _WINDOWS)
    rolling = found[list(AVERAGED)].astype(np.float64).rolling(time=window, center=True, min_periods=1)
    around = rolling.mean()  # in float64, whose range has room for the sums
    means = {
        f"{name}_mean": around[name].astype(x.dtype).where(x.notnull()) for name, x in found[list(AVERAGED)].items()
    }
    return found.assign(means).assign_coords(memory=np.array(list(memories))).assign_attrs(window=window)


def _run(inputs: QDeltaInputs, snapshots: Sequence[int]) -> xr.Dataset:
    """Trace one memory, and add how much of its energy is read and where the reads point."""
    inputs = inputs.wide()
    found = trace(inputs, snapshots).isel(batch=0, head=0, drop=True)
    start = 0.0 if inputs.initial_state is None else _length(inputs.initial_state.flatten())
    norms = np.append(start, found.state_norm.values[:-1])
    norms[~np.isfinite(norms)] = np.nan
    alpha = inputs.alpha[0, :, 0].double().cpu().numpy()
    before = np.where(alpha > 0, alpha * norms, 0)  # ||alpha_t S_{t-1}||_F
    added = {}
    for name, read, by in (("key", "key_retrieval", inputs.k), ("query", "query_prediction", inputs.q)):
        size = _length(by[0, :, 0])
        # The larger first, so that all stays in range.
        part = ratio(np, found[read].values.astype(np.float64), np.maximum(before, size))
        added[f"{name}_energy"] = np.minimum(ratio(np, part, np.minimum(before, size)), 1) ** 2
    vanishes = (found.key_retrieval == 0) | (found.query_prediction == 0)
    angle = np.degrees(np.arccos(found.cosine.clip(-1, 1)))
    added["angle"] = angle.where(~vanishes).values
    return found.assign({name: ("time", values, {"long_name": MEANINGS[name]}) for name, values in added.items()})


def _length(x: Tensor) -> np.ndarray:
    return length(x.double())[0].cpu().numpy()
