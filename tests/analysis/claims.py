"""What the tests of the guarantees share."""

from __future__ import annotations

from qdelta_analysis import QDeltaInputs
from tests.helpers import tokens

CLAIMS = tuple(f"G{i}" for i in range(1, 15))
HOLDS, UNMET, VIOLATED = "holds", "hypotheses not met", "violated"


def inputs(**options) -> QDeltaInputs:
    """Draw tokens as `tests.helpers.tokens` does."""
    x = tokens(**options)
    return QDeltaInputs(*x[:6], initial_state=x.state, metadata={"source": "test"})


def unmet(check) -> set[str]:
    """Name the hypotheses that some head does not meet."""
    return {condition.name for condition in check.unmet}
