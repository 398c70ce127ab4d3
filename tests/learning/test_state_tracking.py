"""What a memory of one linear step can follow: by hand, without training."""

from __future__ import annotations

import pytest
import torch

from qdelta_analysis import QDeltaInputs, guarantees
from qdelta_analysis.learning.tasks import StateTracking
from qdelta_kernels import qdelta_rule_reference


def one_bit(bits: torch.Tensor, beta: float, lam: float) -> QDeltaInputs:
    """A memory that holds 1 along k; each bit that is set erases at q = k, and nothing new is written."""
    B, T = bits.shape
    k = torch.zeros(B, T, 1, 2, dtype=torch.float64)
    k[..., 0] = 1
    gate = bits.double()[..., None]
    v, state = torch.zeros(B, T, 1, 1, dtype=torch.float64), torch.zeros(B, 1, 2, 1, dtype=torch.float64)
    state[:, :, 0] = 1
    return QDeltaInputs(k, k, v, None, beta * gate, torch.full_like(gate, lam), state)


def test_query_feedback_follows_parity_at_any_length_inside_the_guaranteed_box():
    examples = StateTracking("parity").draw(8, 1000, torch.Generator().manual_seed(0))
    inputs = one_bit(examples.tokens, beta=1.0, lam=1.0)
    o, _ = qdelta_rule_reference(**inputs.arguments(), scale=1.0)
    odd = o[..., 0, 0] < 0  # 1 - beta a = -1: every bit turns the sign
    assert torch.equal(odd.long(), examples.targets)
    assert guarantees.GUARANTEES["G6"].check(inputs).verdict == "holds"


@pytest.mark.parametrize("beta", [0.25, 0.5, 1.0])
def test_without_feedback_no_sign_ever_turns(beta):
    examples = StateTracking("parity").draw(8, 100, torch.Generator().manual_seed(0))
    o, _ = qdelta_rule_reference(**one_bit(examples.tokens, beta, lam=0.0).arguments(), scale=1.0)
    assert (o >= 0).all()
