"""The claims at one token, in words: what the explorer says of the token that it shows."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .facts import Facts
from .hypotheses import growth_bound
from .model import Verdict
from .report import Report


@dataclass(frozen=True)
class TokenStatement:
    """One claim at one token: its margin there, what that is measured in, and a sentence.

    The margin is `Check`'s for this token alone; of G9, which speaks of a whole head, it is 1 - gamma.
    """

    id: str
    title: str
    verdict: Verdict
    margin: float
    unit: str
    sentence: str


def at_token(source: Report | Facts, token: int, head: int = 0, batch: int = 0) -> tuple[TokenStatement, ...]:
    """Say of one token which claims hold there, whose hypotheses it does not meet, and by how much.

    Claims G2, G3, G4, G6, G7, G14 at this token, G9 for its head. From a Report nothing is computed again; from
    Facts the geometry is, once for all tokens, and the memory's bound reads the gates alone.
    Raises IndexError for a token, head or sequence that is not there.
    """
    facts = source.facts if isinstance(source, Report) else source
    for name, value, size in zip(("batch", "token", "head"), (batch, token, head), facts.shape, strict=True):
        if not 0 <= value < size:
            raise IndexError(f"{name} is {value}; expected 0 to {size - 1}.")
    here = _Here(facts, (batch, token, head))
    return here.radius(), here.norm(), here.contraction(), here.box(), here.envelope(), here.memory(), here.payment()


class _Here:
    """The numbers of one token."""

    def __init__(self, facts: Facts, at: tuple[int, int, int]):
        pick = lambda x: float(x[at])
        self.facts, self.head = facts, at[2]
        self.beta, self.lam, self.alpha = (pick(x) for x in (facts.gates.beta, facts.gates.lam, facts.gates.alpha))
        self.ba, self.expansion = pick(facts.beta_a), pick(facts.geometry.norm)
        self.unit = pick(facts.off_unit) <= facts.tolerances.unit
        self.slack = float(facts.unit_slack[self.head])
        self.factor = abs(1 - self.ba)

    def radius(self) -> TokenStatement:
        margin = 1 - self.factor
        covered = self.facts.d >= 2 and margin >= -self.slack
        found = max(1.0, self.factor) if self.facts.d >= 2 else self.factor
        return TokenStatement(
            "G2",
            "Spectral radius at most α",
            "holds" if covered else "hypotheses not met",
            margin,
            "α",
            f"ρ(A) = {self.alpha * found:.3f} with α = {self.alpha:.3f}: βa = {self.ba:.3f} is "
            f"{'inside' if margin >= -self.slack else 'outside'} [0, 2]",
        )

    def norm(self) -> TokenStatement:
        full = self.alpha * self.expansion
        grows = "some memories grow in this step" if full > 1 + 1e-9 else "no memory grows in this step"
        return TokenStatement(
            "G3",
            "Operator norm, exact",
            "holds" if self.facts.d >= 2 else "hypotheses not met",
            self.expansion - 1,
            "α",
            f"‖A‖ = {full:.3f}, {self.expansion:.3f} times α = {self.alpha:.3f}: {grows}",
        )

    def contraction(self) -> TokenStatement:
        inside = 0 < self.ba < 2
        all_ba = self.facts.beta_a[..., self.head]
        share = int(((all_ba > 0) & (all_ba < 2)).sum())
        return TokenStatement(
            "G4",
            "One-step contraction of the mixed error (Lemma 3.1)",
            "holds" if inside else "hypotheses not met",
            1 - self.factor,
            "of the error",
            f"βa = {self.ba:.3f} is {'inside' if inside else 'outside'} (0, 2): this write takes ‖v − Sx‖ to "
            f"|1 − βa| = {self.factor:.3f} of what it was; inside at {share} of the head's {all_ba.numel()} tokens",
        )

    def box(self) -> TokenStatement:
        return self._bounded(
            "G6",
            "Alignment box",
            min(self.ba, 2 - self.ba),
            "in βa",
            [*self._needs_unit(), *self._needs("β", self.beta), *self._needs("λ", self.lam)],
            f"βa = {self.ba:.3f} lies in [0, 2], as it must for unit q, k and β, λ in [0, 1]",
            f"βa = {self.ba:.3f}",
        )

    def envelope(self) -> TokenStatement:
        limit = self.alpha * (1 + self.lam**2) ** 0.5
        numbers = f"‖A‖ = {self.alpha * self.expansion:.3f} and α√(1 + λ²) = {limit:.3f}"
        margin = limit - self.alpha * self.expansion
        needs = [*self._needs_unit(), *self._needs("β", self.beta)]
        return self._bounded("G7", "Norm envelope", margin, "in ‖A‖", needs, numbers, numbers)

    def memory(self) -> TokenStatement:
        gamma = float(growth_bound(self.facts)[self.head])
        beta = float(self.facts.highest(self.facts.gates.beta)[self.head])
        needs = [*self._needs_unit(True), *self._needs("β", beta)]
        if gamma >= 1:
            needs.append(f"γ = {gamma:.3f} is not below 1")
        return self._bounded(
            "G9",
            "Memory bounded whatever the tokens",
            1 - gamma,
            "in γ",
            needs,
            f"γ = max α √(1 + max λ²) = {gamma:.3f} < 1 bounds ‖S‖ for ever",
            "such gates allow inputs along which the memory grows by γ a token" if gamma >= 1 else f"γ = {gamma:.3f}",
        )

    def payment(self) -> TokenStatement:
        return TokenStatement(
            "G14",
            "Price of query feedback",
            "holds" if self.facts.d >= 2 else "hypotheses not met",
            math.log(self.expansion) if self.expansion > 0 else -math.inf,
            "nats",
            f"decay by a further 1/{self.expansion:.4f} in this step would make ‖A‖ = α = {self.alpha:.3f}",
        )

    def _bounded(
        self, name: str, title: str, margin: float, unit: str, needs: list[str], holds: str, other: str
    ) -> TokenStatement:
        if needs:
            return TokenStatement(name, title, "hypotheses not met", margin, unit, f"{'; '.join(needs)}: {other}")
        return TokenStatement(name, title, "holds" if margin >= -self.slack else "violated", margin, unit, holds)

    def _needs_unit(self, everywhere: bool = False) -> list[str]:
        facts = self.facts
        unit = bool(facts.highest(facts.off_unit)[self.head] <= facts.tolerances.unit) if everywhere else self.unit
        return [] if unit else ["q and k are not unit vectors"]

    def _needs(self, gate: str, value: float) -> list[str]:
        return [] if value <= 1 else [f"{gate} = {value:.3f} is above 1"]
