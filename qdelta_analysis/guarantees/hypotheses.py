"""The hypotheses of the claims, each as a predicate on data: how far every token is from meeting it."""

from __future__ import annotations

import torch
from torch import Tensor

from .facts import Facts
from .model import Hypothesis
from .statistics import FEWEST, STANDARD_ERRORS

# The smallest float64: tokens and margins that are positive at all are at least this.
SMALLEST = 5e-324
_CHANCE = f"{STANDARD_ERRORS:g} standard errors, from {FEWEST} tokens at least"


def _strict(excess: Tensor) -> Tensor:
    """Turn "at most 0" into "less than 0"."""
    return torch.where(excess < 0, excess, excess + SMALLEST)


def inside(facts: Facts) -> Tensor:
    """How far beta a lies inside [0, 2], [B, T, H]: 1 - |1 - beta a|, where rounding hides no small beta a."""
    return torch.minimum(facts.beta_a, 2 - facts.beta_a)


def _per_head(excess: Tensor) -> Tensor:
    return excess[None, None, :]


def _plane(facts: Facts) -> Tensor:
    return torch.full((1, 1, 1), float(2 - facts.d), dtype=torch.float64)


def _unbounded(facts: Facts) -> Tensor:
    finite = torch.isfinite(facts.trace.state_norm) & torch.isfinite(facts.trace.error_before)
    return torch.where(finite, -1.0, torch.inf).double()


def growth_bound(facts: Facts) -> Tensor:
    """gamma = max alpha sqrt(1 + max lam^2), [H]."""
    return facts.highest(facts.gates.alpha) * (1 + facts.highest(facts.gates.lam).square()).sqrt()


def _testable(facts: Facts, statistic: str) -> Tensor:
    """Standard errors beyond what chance allows; NaN, so not met, for fewer tokens than a test needs."""
    if facts.tokens.N < FEWEST:
        return torch.full((1, 1, 1), torch.nan, dtype=torch.float64)
    return _per_head(getattr(facts.tokens, statistic) - STANDARD_ERRORS)


UNIT = Hypothesis(
    "unit q, k", "every q and every k is a unit vector", lambda facts: facts.off_unit - facts.tolerances.unit
)
BALL = Hypothesis(
    "q, k in the unit ball",
    "no q and no k is longer than 1",
    lambda facts: facts.beyond_unit - facts.tolerances.unit,
)
BETA = Hypothesis("beta <= 1", "every beta lies in [0, 1]", lambda facts: facts.gates.beta - 1)
LAM = Hypothesis("lam <= 1", "every lam lies in [0, 1]", lambda facts: facts.gates.lam - 1)
PLANE = Hypothesis("d >= 2", "q and k have at least two dimensions", _plane)
CLOSED = Hypothesis(
    "beta a in [0, 2]",
    "beta a lies in [0, 2] at every token",
    lambda facts: -inside(facts) - facts.unit_slack,
)
OPEN = Hypothesis(
    "beta a in (0, 2)",
    "beta a lies strictly between 0 and 2 at every token",
    lambda facts: _strict(-inside(facts)),
)
RATE = Hypothesis("rho < 1", "rho = sup |1 - beta a| is less than 1", lambda facts: _strict(-inside(facts)))
FINITE = Hypothesis("finite memory", "the memory stays within the range of the inputs' dtype", _unbounded)
GAMMA = Hypothesis(
    "gamma < 1",
    "gamma = max alpha sqrt(1 + max lam^2) is less than 1",
    lambda facts: _strict(_per_head(growth_bound(facts) - 1)),
)
INDEPENDENT = Hypothesis(
    "i.i.d. tokens",
    "tokens, each with its k, q and gates, are independent and identically distributed: up to 16 tokens apart they "
    f"are related no more than when paired at random, and both halves have the same moments (within {_CHANCE})",
    lambda facts: torch.maximum(_testable(facts, "dependence"), _testable(facts, "drift")),
)
UNIFORM = Hypothesis(
    "uniform directions",
    f"keys, queries and gates favour no direction of the sphere (within {_CHANCE})",
    lambda facts: _testable(facts, "anisotropy"),
)
EXCITED = Hypothesis(
    "mu > 0",
    "the tokens excite every direction: mu = lambda_min(sym E[alpha^2 beta x k^T]) is positive",
    lambda facts: _strict(_per_head(-facts.tokens.excitation)),
)
GENTLE = Hypothesis(
    "beta < 2 mu / lambda_max",
    "writes are gentle: 2 mu exceeds lambda_max(E[alpha^2 beta^2 ||k||^2 x x^T])",
    lambda facts: _strict(_per_head(facts.tokens.noise - 2 * facts.tokens.excitation)),
)
