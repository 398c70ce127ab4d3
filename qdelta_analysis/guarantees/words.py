"""The claims at one token, in words: what the explorer says of the token that it shows."""

from __future__ import annotations

from dataclasses import dataclass

from .facts import Facts
from .hypotheses import CLOSED, growth_bound
from .margins import MARGINS, least_alignment
from .memory import G9, G14
from .model import Guarantee, Verdict
from .report import Report
from .steps import G2, G3, G4, G6, G7

_CLAIMS = {claim.id: claim for claim in (G2, G3, G4, G6, G7, G14)}


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

    Claims G2, G3, G4, G6, G7, G14 at this token, G9 for its head, by the margins, tolerances and hypotheses that
    `check` reads: of a head it says "holds" where that is so at every token. From a Report nothing is computed again;
    from Facts these claims are checked once, for all tokens.
    Raises IndexError for a token, head or sequence that is not there.
    """
    facts = source.facts if isinstance(source, Report) else source
    for name, value, size in zip(("batch", "token", "head"), (batch, token, head), facts.shape, strict=True):
        if not 0 <= value < size:
            raise IndexError(f"{name} is {value}; expected 0 to {size - 1}.")
    here = _Here(facts, (batch, token, head))
    return here.radius(), here.norm(), here.contraction(), here.box(), here.envelope(), here.memory(), here.payment()


def _verdict(claim: Guarantee, facts: Facts, at: tuple[int, int, int]) -> Verdict:
    """What `Guarantee.check` would say of this token alone."""
    excess = [facts.find(hypothesis.excess).expand(facts.shape)[at] for hypothesis in claim.hypotheses]
    margin, tolerance = facts.find(MARGINS[claim.id])
    margin, tolerance = margin[at], tolerance.expand(facts.shape)[at]
    head = facts.find(claim.check)
    # A head whose tests could not be evaluated is not covered though every token meets the hypotheses.
    unsupported = head.verdicts[at[2]] == "hypotheses not met" and all(c.met[at[2]] for c in head.conditions)
    if not all(x <= 0 for x in excess) or margin.isnan() or unsupported:
        return "hypotheses not met"
    return "holds" if -margin <= tolerance else "violated"


class _Here:
    """The numbers of one token."""

    def __init__(self, facts: Facts, at: tuple[int, int, int]):
        pick = lambda x: float(x[at])
        self.facts, self.at, self.head = facts, at, at[2]
        self.beta, self.lam, self.alpha = (pick(x) for x in (facts.gates.beta, facts.gates.lam, facts.gates.alpha))
        self.ba, self.expansion = pick(facts.beta_a), pick(facts.geometry.norm)
        self.longer = pick(facts.beyond_unit) > facts.tolerances.unit
        self.factor = abs(1 - self.ba)

    def _statement(self, claim: str, title: str, unit: str, sentence: str) -> TokenStatement:
        margin = float(self.facts.find(MARGINS[claim])[0][self.at])
        return TokenStatement(claim, title, _verdict(_CLAIMS[claim], self.facts, self.at), margin, unit, sentence)

    def radius(self) -> TokenStatement:
        found = max(1.0, self.factor) if self.facts.d >= 2 else self.factor
        numbers = f"ρ(A) = {self.alpha * found:.3f} with α = {self.alpha:.3f}"
        where = "inside" if self.facts.find(CLOSED.excess)[self.at] <= 0 else "outside"
        sentence = f"{numbers}: βa = {self.ba:.3g} is {where} [0, 2]"
        return self._statement("G2", "Spectral radius at most α", "α", sentence)

    def norm(self) -> TokenStatement:
        full = self.alpha * self.expansion
        grows = "some memories grow in this step" if full > 1 + 1e-9 else "no memory grows in this step"
        numbers = f"‖A‖ = {full:.3f}, {self.expansion:.3f} times α = {self.alpha:.3f}"
        return self._statement("G3", "Operator norm, exact", "α", f"{numbers}: {grows}")

    def contraction(self) -> TokenStatement:
        all_ba = self.facts.beta_a[..., self.head]
        share = int(((all_ba > 0) & (all_ba < 2)).sum())
        return self._statement(
            "G4",
            "One-step contraction of the mixed error (Lemma 3.1)",
            "of the error",
            f"βa = {self.ba:.3g} is {'inside' if 0 < self.ba < 2 else 'outside'} (0, 2): this write takes ‖v − Sx‖ to "
            f"|1 − βa| = {self.factor:.3f} of what it was; inside at {share} of the head's {all_ba.numel()} tokens",
        )

    def box(self) -> TokenStatement:
        least = float(self.facts.find(least_alignment)[self.at])
        needs = [*self._needs_ball(), *self._needs("β", self.beta), *self._needs("λ", self.lam)]
        limits = "[0, 2]" if least == 0 else f"[{least:.3g}, 2]"
        sentence = f"βa = {self.ba:.3g} lies in {limits}, as it must for q, k in the unit ball and β, λ in [0, 1]"
        return self._statement("G6", "Alignment box", "in βa", _said(needs, sentence, f"βa = {self.ba:.3g}"))

    def envelope(self) -> TokenStatement:
        limit = self.alpha * (1 + self.lam**2) ** 0.5
        numbers = f"‖A‖ = {self.alpha * self.expansion:.3f} and α√(1 + λ²) = {limit:.3f}"
        needs = [*self._needs_ball(), *self._needs("β", self.beta)]
        return self._statement("G7", "Norm envelope", "in ‖A‖", _said(needs, numbers, numbers))

    def memory(self) -> TokenStatement:
        gamma = float(growth_bound(self.facts)[self.head])
        beta = float(self.facts.highest(self.facts.gates.beta)[self.head])
        longer = bool(self.facts.highest(self.facts.beyond_unit)[self.head] > self.facts.tolerances.unit)
        needs = [*self._needs_ball(longer), *self._needs("β", beta)]
        if gamma >= 1:
            needs.append(f"γ = {gamma:.3f} is not below 1")
        verdict = self.facts.find(G9.check).verdicts[self.head]
        if verdict == "hypotheses not met" and not needs:
            needs.append("‖S‖ leaves the range of its dtype")
        holds = f"γ = max α √(1 + max λ²) = {gamma:.3f} < 1 bounds ‖S‖ for ever"
        other = (
            "such gates allow inputs along which the memory grows by γ a token" if gamma >= 1 else f"γ = {gamma:.3f}"
        )
        title = "Memory bounded whatever the tokens"
        return TokenStatement("G9", title, verdict, 1 - gamma, "in γ", _said(needs, holds, other))

    def payment(self) -> TokenStatement:
        sentence = f"decay by a further 1/{self.expansion:.4f} in this step would make ‖A‖ = α = {self.alpha:.3f}"
        return self._statement("G14", "Price of query feedback", "nats", sentence)

    def _needs_ball(self, longer: bool | None = None) -> list[str]:
        return ["q or k is longer than 1"] if (self.longer if longer is None else longer) else []

    def _needs(self, gate: str, value: float) -> list[str]:
        return [] if value <= 1 else [f"{gate} = {value:.3f} is above 1"]


def _said(needs: list[str], holds: str, other: str) -> str:
    return f"{'; '.join(needs)}: {other}" if needs else holds
