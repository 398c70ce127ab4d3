"""Every public function that takes QDeltaInputs, and inputs of every kind that QDeltaInputs takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
import xarray as xr

from qdelta_analysis import QDeltaInputs, guarantees, influence, products, readouts, trace
from qdelta_analysis.chunks import chunk_deviation, chunk_matrices
from qdelta_analysis.evolution import evolve, feedbacks, rules
from tests.helpers import tokens

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}
# Sizes of the tokens; dtypes of the gates and of the initial state where they are their own; what is left out.
KINDS = {
    "plain": {},
    "sequences": {"B": 2},
    "heads that share keys": {"H": 2, "HV": 4},
    "K = 1": {"K": 1},
    "V = 1": {"V": 1},
    "one token": {"T": 1},
    "no token": {"T": 0},
    "no decay and no feedback": {"without": ("g", "lam", "initial_state")},
    "gates in half precision": {"gates": torch.float16},
    "gates in float64": {"gates": torch.float64},
    "a state in half precision": {"state": torch.bfloat16},
    "a state in float64": {"state": torch.float64},
    "gradients": {"gradients": True},
}


def make(dtype: torch.dtype, *, gates=None, state=None, without=(), gradients=False, **sizes) -> QDeltaInputs:
    sizes = {"T": 13, "H": 1, "HV": 2, "K": 4, "V": 3} | sizes
    drawn = tokens(**sizes)._asdict()
    drawn["initial_state"] = drawn.pop("state")
    dtypes = {name: gates or dtype for name in ("g", "beta", "lam")} | {"initial_state": state or dtype}
    given = {name: x.to(dtypes.get(name, dtype)).requires_grad_(gradients) for name, x in drawn.items()}
    # Rounding may lift a decay above 0 or a gate above 1: neither happens, since each rounds to nearest.
    return QDeltaInputs(**given | dict.fromkeys(without))


def head(x: QDeltaInputs) -> QDeltaInputs:
    """One sequence of one head."""
    return QDeltaInputs(**{name: y if y is None else y[:1] for name, y in x.heads(1).arguments().items()})


def changed(x: QDeltaInputs) -> dict[str, torch.Tensor | None]:
    lower = x.with_lam(0.3).with_beta(torch.full((x.H,), 0.7)).with_alpha(0.9)
    return (lower.with_norm_compensation() if x.K > 1 else lower).heads([1, 0]).tokens(x.T // 2).arguments()


def step(x: QDeltaInputs) -> dict[str, torch.Tensor]:
    t = x.transition()
    names = ("x", "alignment", "cos")
    methods = ("matrix", "eigenvalues", "spectral_radius", "singular_values", "operator_norm", "norm_envelope")
    return {name: getattr(t, name) for name in names} | {name: getattr(t, name)() for name in methods}


FUNCTIONS: dict[str, Callable[[QDeltaInputs], xr.Dataset | Mapping]] = {
    "trace": lambda x: trace(x, 3),
    "influence.exact": influence.exact,
    "influence.heuristic": influence.heuristic,
    "influence.row": lambda x: influence.row(x, max(x.T - 1, 0)),
    "influence.column": lambda x: influence.column(x, x.T // 2),
    "influence.initial": influence.initial,
    "influence.check": influence.check,
    "readouts.predict": readouts.predict,
    "readouts.compare": lambda x: readouts.compare(readouts.predict(x), rank=1),
    "readouts.shares": readouts.shares,
    "evolve, rules": lambda x: evolve(rules(head(x))),
    "evolve, feedbacks": lambda x: evolve(feedbacks(head(x), [0.2, 0.5], scaled=True)),
    "chunk_matrices": lambda x: chunk_matrices(x, 0, max(1, x.T // 2)),
    "chunk_deviation": lambda x: chunk_deviation(x, [0.0, 0.5], [1, 4]),
    "lyapunov_spectrum": products.lyapunov_spectrum,
    "growth_summary": products.growth_summary,
    "transient_growth": products.transient_growth,
    "observed_growth": products.observed_growth,
    "sampled_mean_square_growth": products.sampled_mean_square_growth,
    "persistent_excitation": products.persistent_excitation,
    "guarantees.check": lambda x: guarantees.check(x).to_xarray(),
    "with": changed,
    "transition": step,
}
# Functions that say of every verdict or rounding error itself what precision it has: not to be held against float64.
OF_PRECISION = {
    "guarantees.check": ("margin", "tolerance", "hypotheses_met"),
    "influence.check": ("o", "v_hat", "o_hat"),
}
# Formed with Transition in the dtype of the inputs, as its documentation says.
IN_THEIR_DTYPE = ("with", "transition")


def arrays(found: xr.Dataset | Mapping) -> dict[str, np.ndarray]:
    """Return a result's numbers, in float64."""
    numbers = {}
    for name in found:
        x = found[name]
        if isinstance(x, torch.Tensor):
            numbers[str(name)] = x.detach().double().cpu().numpy()
        elif x is not None and x.dtype.kind == "f":
            numbers[str(name)] = x.values.astype(np.float64)
    return numbers
