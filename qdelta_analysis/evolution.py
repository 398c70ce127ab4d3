"""Several memories on the same tokens: one under each query feedback, or one for each rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from .checks import require_count
from .inputs import QDeltaInputs
from .tracing import trace

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


def evolve(memories: Mapping[str, QDeltaInputs], snapshots: int | Sequence[int] = 96) -> xr.Dataset:
    """Follow several memories through the same tokens, for them to be compared.

    Args:
        memories: under each name one sequence of one head, all with the same K and V; one that has fewer tokens than
            the longest is NaN from there on.
        snapshots: how many states to keep of the longest, evenly spaced with the last among them, or after which
            tokens: for these there are singular values and an effective rank.

    Returns:
        The dataset of `trace` without batch and head, with a dim `memory` first, the variables in `MEANINGS`, and
        means over a 32nd of the tokens around each, the attribute `window`, of those in `AVERAGED`.
        The share ||S u||^2 / (||S||_F^2 ||u||^2) lies in [0, 1], is 1/K on average over directions u, and 0 for S = 0.

    Raises ValueError for no memory, more than one sequence or head, shapes that differ, or no token.
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
    if isinstance(snapshots, int):
        require_count("snapshots", snapshots, 1)
        count = min(snapshots, longest.T)
        snapshots = [round(longest.T * (i + 1) / count) - 1 for i in range(count)]
    runs = [_run(x, [t for t in snapshots if t < x.T]) for x in memories.values()]
    found = xr.concat(runs, "memory", join="outer", combine_attrs="drop_conflicts")
    window = max(1, longest.T // _WINDOWS)
    around = {name: found[name].rolling(time=window, center=True, min_periods=1).mean() for name in AVERAGED}
    means = {f"{name}_mean": mean.where(found[name].notnull()) for name, mean in around.items()}
    return found.assign(means).assign_coords(memory=np.array(list(memories))).assign_attrs(window=window)


def _run(inputs: QDeltaInputs, snapshots: Sequence[int]) -> xr.Dataset:
    """Trace one memory, and add how much of its energy is read and where the reads point."""
    inputs = inputs.wide()
    found = trace(inputs, snapshots).isel(batch=0, head=0, drop=True)
    start = 0.0 if inputs.initial_state is None else float(inputs.initial_state.norm())
    norms = np.concatenate([[start], found.state_norm.values[:-1]])
    before = inputs.alpha[0, :, 0].cpu().numpy() * norms  # ||alpha_t S_{t-1}||_F
    added = {}
    for name, read, by in (("key", "key_retrieval", inputs.k), ("query", "query_prediction", inputs.q)):
        most = before * by[0, :, 0].norm(dim=-1).cpu().numpy()
        added[f"{name}_energy"] = np.where(most > 0, found[read].values / np.where(most > 0, most, 1), 0) ** 2
    vanishes = (found.key_retrieval == 0) | (found.query_prediction == 0)
    angle = np.degrees(np.arccos(found.cosine.clip(-1, 1)))
    added["angle"] = angle.where(~vanishes).values
    return found.assign({name: ("time", values, {"long_name": MEANINGS[name]}) for name, values in added.items()})
