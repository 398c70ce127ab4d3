"""What a model's memories do while it trains: the paper's empirical conditions and the guarantees, watched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from qdelta_analysis.capturing import capture
from qdelta_analysis.guarantees import GUARANTEES, Facts, Guarantee
from qdelta_analysis.inputs import QDeltaInputs
from qdelta_analysis.threads import one_thread
from qdelta_analysis.tracing import trace


@dataclass(frozen=True)
class LayerDiagnostics:
    """One layer on some tokens: averages over tokens and value heads, unless a name says otherwise.

    beta_a: beta a, a = k.x; the mixed error contracts where it lies in (0, 2) (Lemma 3.1 of Q-Delta, arXiv 2606.08804).
    lam, alpha: query feedback and decay. cosine: of key retrieval v_hat and query prediction o_hat. operator_norm_max:
    the largest ||A||. state_norm, state_norm_max: ||S||_F.
    outside: by guarantee, the share of tokens at which one of its hypotheses fails; a hypothesis about a head as a
    whole fails at all of the head's tokens.
    """

    beta_a: float
    beta_a_min: float
    beta_a_max: float
    lam: float
    alpha: float
    cosine: float
    operator_norm_max: float
    state_norm: float
    state_norm_max: float
    outside: Mapping[str, float]

    def scalars(self) -> dict[str, float]:
        """Return every number under a name of its own: `outside/G6` for what lies outside guarantee G6."""
        numbers = {name: value for name, value in vars(self).items() if name != "outside"}
        return numbers | {f"outside/{name}": share for name, share in self.outside.items()}


def diagnose(
    model: nn.Module, input_ids: Tensor, *, layers: int | Sequence[int] | None = None, **options: Any
) -> dict[int, LayerDiagnostics]:
    """Run a model on some tokens and say of every delta-rule layer what its memories do; by layer number.

    model, input_ids, layers and options as in `qdelta_analysis.capture`, whose errors are raised. Neither the model,
    its gradients nor torch's random numbers are touched: a run that is watched trains to the same weights.
    """
    return {number: diagnose_inputs(x) for number, x in capture(model, input_ids, layers=layers, **options).items()}


def diagnose_inputs(inputs: QDeltaInputs) -> LayerDiagnostics:
    """Say of one layer's inputs what its memories do; raises ValueError where there are no tokens."""
    if inputs.B * inputs.T == 0:
        raise ValueError("inputs has no tokens; expected at least one.")
    with one_thread():
        found, facts = trace(inputs, snapshots=0), Facts(inputs)
        outside = {name: _share_outside(guarantee, facts) for name, guarantee in GUARANTEES.items()}
    return LayerDiagnostics(
        beta_a=float(found.beta_alignment.mean()),
        beta_a_min=float(found.beta_alignment.min()),
        beta_a_max=float(found.beta_alignment.max()),
        lam=float(inputs.lam.mean()),
        alpha=float(inputs.alpha.mean()),
        cosine=float(found.cosine.mean()),
        operator_norm_max=float(found.operator_norm.max()),
        state_norm=float(found.state_norm.mean()),
        state_norm_max=float(found.state_norm.max()),
        outside=MappingProxyType(outside),
    )


def scalars(diagnostics: Mapping[int, LayerDiagnostics]) -> dict[str, float]:
    """Return the numbers of all layers for a log, as `layer0/beta_a`."""
    return {
        f"layer{number}/{name}": value
        for number, layer in diagnostics.items()
        for name, value in layer.scalars().items()
    }


def _share_outside(guarantee: Guarantee, facts: Facts) -> float:
    """Return the share of tokens and heads at which a hypothesis fails; NaN, which nothing meets, is a failure."""
    fails = torch.zeros(facts.shape, dtype=torch.bool)
    for hypothesis in guarantee.hypotheses:
        fails = fails | ~(hypothesis.excess(facts) <= 0)
    return float(fails.double().mean())
