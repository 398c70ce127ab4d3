"""The claims G1 to G14 about Q-Delta's memory: each with hypotheses, proof, check on data and counterexample."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from ..inputs import QDeltaInputs
from .facts import Facts
from .memory import G5, G8, G9, G12, G14
from .model import Check, Condition, Finding, Guarantee, Hypothesis, Measured, Verdict
from .report import Report
from .steps import G1, G2, G3, G4, G6, G7, G13
from .typical import G10, G11
from .words import TokenStatement, at_token

__all__ = [
    "GUARANTEES",
    "Check",
    "Condition",
    "Facts",
    "Finding",
    "Guarantee",
    "Hypothesis",
    "Measured",
    "Report",
    "TokenStatement",
    "Verdict",
    "at_token",
    "check",
    "prove",
]

GUARANTEES = MappingProxyType({g.id: g for g in (G1, G2, G3, G4, G5, G6, G7, G8, G9, G10, G11, G12, G13, G14)})


def check(inputs: QDeltaInputs | Facts, seed: int = 0) -> Report:
    """Test every claim on some inputs: in each head it holds, is violated, or its hypotheses are not met.

    Given the facts of inputs, which others may have read already, nothing is computed twice; they have their own seed.

    One pass over the memory and one over q and k serve all claims; what needs dense algebra is done on samples
    (`seed`), among them the tokens where the claims are tightest. "holds" means that the numbers agree with
    the claim on these inputs, to the tolerances that the report states; that it holds in general is what
    `prove` shows.
    """
    facts = inputs if isinstance(inputs, Facts) else Facts(inputs, seed)
    return Report(MappingProxyType({name: facts.find(claim.check) for name, claim in GUARANTEES.items()}), facts)


def prove() -> dict[str, Any]:
    """Return the symbolic proof of every claim, by its name; raises ProofError if a step is not true."""
    return {name: guarantee.prove() for name, guarantee in GUARANTEES.items()}
