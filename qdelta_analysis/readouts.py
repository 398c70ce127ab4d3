"""Query as value: what the query predicts, against what the key retrieves, in the space of values.

v_hat_t = alpha_t S_{t-1} k_t,    o_hat_t = alpha_t S_{t-1} q_t,    and the write takes back v_hat + lam o_hat:
S_t = alpha_t S_{t-1} + beta_t (v_t - v_hat_t - lam_t o_hat_t) k_t^T
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.metadata import version

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from qdelta_kernels import qdelta_rule, recurrent_qdelta_rule
from qdelta_kernels.autocast import outside_autocast
from qdelta_kernels.diagnostics import length

from .checks import require_count
from .inputs import QDeltaInputs
from .scaled import ratio
from .threads import one_thread

_DIMS = ("batch", "time", "head", "value")
_DRAWS = 400


def read_thrice(
    inputs: QDeltaInputs, rule: Callable[..., tuple[Tensor, Tensor | None]]
) -> tuple[Float[Tensor, "B T H V"], ...]:
    """Return o_hat, v_hat and o of every token by a rule of `qdelta_kernels`, unscaled.

    Each token becomes three: one decays the memory and reads it with q, one reads it with k, both writing nothing, and
    one writes without decay.
    """
    q, k, v, g, beta, lam = inputs.q, inputs.k, inputs.v, inputs.g, inputs.beta, inputs.lam
    thrice = lambda *x: torch.stack(x, dim=2).flatten(1, 2)
    none = torch.zeros_like(g)
    read, _ = rule(
        thrice(q, k, q),
        thrice(k, k, k),
        thrice(v, v, v),
        thrice(g, none, none),
        thrice(none, none, beta),
        thrice(lam, lam, lam),
        scale=1.0,
        initial_state=inputs.initial_state,
    )
    return read.unflatten(1, (inputs.T, 3)).unbind(2)


@outside_autocast
@one_thread()
@torch.no_grad()
def predict(inputs: QDeltaInputs) -> xr.Dataset:
    """Return v_hat and o_hat of every token before its write, and the output o, without the kernels' `scale`.

        v_hat_t = alpha_t S_{t-1} k_t,    o_hat_t = alpha_t S_{t-1} q_t,    o_t = S_t q_t

    Dims (batch, time, head, value); float64 inputs give float64, all others float32. Where the memory leaves that range
    it is followed in float64, and inf and NaN stand for what the result does not hold.
    Source: Q-Delta (arXiv 2606.08804).
    """
    inputs = inputs.wide()
    o_hat, v_hat, o = (x.to(inputs.v.dtype) for x in _reads(inputs))
    meanings = {
        "v_hat": "alpha S k before the write",
        "o_hat": "alpha S q before the write",
        "o": "S q after the write",
    }
    found = {"v_hat": v_hat, "o_hat": o_hat, "o": o}
    variables = {name: (_DIMS, x.cpu().numpy(), {"long_name": meanings[name]}) for name, x in found.items()}
    sizes = (inputs.B, inputs.T, inputs.H, inputs.V)
    coordinates = {name: np.arange(size) for name, size in zip(_DIMS, sizes, strict=True)}
    made_by = f"qdelta_analysis.readouts {version('qdelta')}, torch {torch.__version__}"
    return xr.Dataset(variables, coordinates, {**inputs.metadata, "made_by": made_by})


def _reads(inputs: QDeltaInputs) -> tuple[Float[Tensor, "B T H V"], ...]:
    """Return o_hat, v_hat and o in the inputs' precision or, where the memory leaves that range, in float64.

    Where it leaves that too, token by token: a chunk in which it overflows takes the tokens before along.
    """
    found = read_thrice(inputs, qdelta_rule)
    if all(x.isfinite().all() for x in found):
        return found
    if inputs.q.dtype == torch.float64:
        return read_thrice(inputs, recurrent_qdelta_rule)
    return _reads(inputs.to(torch.float64))


@one_thread()
def compare(predicted: xr.Dataset, *, rank: int = 8, bins: int = 40) -> xr.Dataset:
    """Say, head by head, how far the query's predictions are from the key's retrievals: directions and subspaces.

    Args:
        predicted: what `predict` returned.
        rank: the dimension r of the subspaces, those of the first r right singular vectors of all tokens' v_hat and
            o_hat (no mean taken off).
        bins: into how many equal parts [-1, 1] is cut for the cosines' histogram.

    Returns:
        By head: `density` (bin), of cos(v_hat_t, o_hat_t) over tokens, of integral 1; `mean_cosine`; `ratio`, the
        median of ||o_hat|| / ||v_hat||; `angle` (pair), the principal angles between the two subspaces in degrees,
        rising; `energy_v_hat` and `energy_o_hat`, the share of the sum of squares that the subspaces hold. And what
        chance gives: `chance` (quantile, pair), of the angles between uniformly random subspaces of that dimension.
        Tokens at which v_hat or o_hat vanishes have no direction and are left out. NaN stands for what is not there:
        cosines where no token is left, angles where v_hat or o_hat spans fewer than r dimensions, the energy of zeros,
        and all of a head that is not finite.

    Raises ValueError for a rank that is none of 1 to V, or fewer than one bin.
    """
    v_hat, o_hat = (np.moveaxis(predicted[name].values, 2, 0).astype(np.float64) for name in ("v_hat", "o_hat"))
    V = v_hat.shape[-1]
    require_count("bins", bins, 1)
    require_count("rank", rank, 1, V)
    edges = np.linspace(-1, 1, bins + 1)
    rows: list[dict[str, np.ndarray | float]] = []
    for a, b in zip(v_hat.reshape(len(v_hat), -1, V), o_hat.reshape(len(o_hat), -1, V), strict=True):
        (one, held_one), (other, held_other) = _subspace(a, rank), _subspace(b, rank)
        (size_a, way_a), (size_b, way_b) = ((x.numpy() for x in length(torch.as_tensor(x))) for x in (a, b))
        some = (size_a > 0) & (size_b > 0) & np.isfinite(a).all() & np.isfinite(b).all()
        cosine = (way_a * way_b).sum(-1)[some].clip(-1, 1)
        with np.errstate(over="ignore"):
            times = size_b[some] / size_a[some]
        rows.append(
            {
                "density": np.histogram(cosine, edges, density=True)[0] if len(cosine) else np.full(bins, np.nan),
                "mean_cosine": cosine.mean() if len(cosine) else np.nan,
                "ratio": float(np.median(times)) if len(cosine) else np.nan,
                "angle": np.full(rank, np.nan) if one is None or other is None else principal_angles(one, other),
                "energy_v_hat": held_one,
                "energy_o_hat": held_other,
            }
        )
    dims = {"density": ("head", "bin"), "angle": ("head", "pair")}
    variables = {name: (dims.get(name, ("head",)), np.stack([row[name] for row in rows])) for name in rows[0]}
    levels = [0.05, 0.5, 0.95]
    chance = np.quantile(_random_angles(V, rank), levels, axis=0)
    coordinates = {"head": predicted["head"].values, "bin": (edges[1:] + edges[:-1]) / 2, "quantile": levels}
    return xr.Dataset({**variables, "chance": (("quantile", "pair"), chance)}, coordinates, dict(predicted.attrs))


def principal_angles(one: Float[np.ndarray, "*B V r"], other: Float[np.ndarray, "*B V r"]) -> Float[np.ndarray, "*B r"]:
    """Return the principal angles between two subspaces in degrees, rising, given orthonormal columns that span them.

    cos of the i-th is the i-th singular value of one^T other; small angles come from the sine, which rounding spares:
    the singular values of (I - one one^T) other. Source: Bjorck and Golub (1973).
    """
    product = np.swapaxes(one, -1, -2) @ other
    cosines = np.linalg.svd(product, compute_uv=False).clip(0, 1)
    sines = np.sort(np.linalg.svd(other - one @ product, compute_uv=False), axis=-1).clip(0, 1)
    return np.degrees(np.where(cosines > np.sqrt(0.5), np.arcsin(sines), np.arccos(cosines)))


def _subspace(x: Float[np.ndarray, "N V"], rank: int) -> tuple[Float[np.ndarray, "V r"] | None, float]:
    """Return the first right singular vectors of x, None where it has fewer, and their share of its sum of squares."""
    largest = np.abs(x).max(initial=0)
    if largest == 0 or not np.isfinite(largest):
        return None, np.nan
    _, values, vectors = np.linalg.svd(np.linalg.qr(x / largest, mode="r"), full_matrices=False)
    spanned = int((values > max(x.shape) * np.finfo(np.float64).eps * values[0]).sum())
    held = float((values[:rank] ** 2).sum() / (values**2).sum())
    return vectors[:rank].T if rank <= spanned else None, held


@cache
def _random_angles(V: int, rank: int) -> Float[np.ndarray, "N r"]:
    draws = np.random.default_rng(0).standard_normal((2, _DRAWS, V, rank))
    one, other = np.linalg.qr(draws)[0]
    return principal_angles(one, other)


@outside_autocast
@one_thread()
@torch.no_grad()
def shares(inputs: QDeltaInputs) -> xr.Dataset:
    """Say, head by head, what the query feedback does to what is written and to what is read.

    By head: `erased`, the query's share in what a write takes back, sum_t ||beta lam o_hat|| over
    sum_t ||beta v_hat|| + ||beta lam o_hat||; `changed`, ||o - o'|| / ||o|| with o' the outputs of the same tokens at
    lam = 0, which is Gated DeltaNet's rule. Computed in float64; 0 where nothing is taken back or read, NaN where
    the memory leaves that range.
    """
    inputs = inputs.to(torch.float64)
    (o_hat, v_hat, o), (*_, without) = _reads(inputs), _reads(inputs.with_lam(0.0))
    by_head = lambda x: torch.nn.functional.pad(x.transpose(0, 2).flatten(1), (0, 1))  # a zero: there may be no token
    query, key = by_head(inputs.beta * inputs.lam * length(o_hat)[0]), by_head(inputs.beta * length(v_hat)[0])
    unit = torch.maximum(query, key).amax(1, keepdim=True)
    query, key = ((x / torch.where(unit > 0, unit, 1)).sum(1) for x in (query, key))
    changed, read = length(by_head(o - without))[0], length(by_head(o))[0]
    changed = torch.where(changed.isfinite(), changed, torch.nan)
    found = {"erased": ratio(torch, query, query + key), "changed": ratio(torch, changed, read)}
    variables = {name: (("head",), x.cpu().numpy()) for name, x in found.items()}
    return xr.Dataset(variables, {"head": np.arange(inputs.H)})
