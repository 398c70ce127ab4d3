"""What a guarantee is: a claim, its hypotheses, its check on data, its proof, and what happens without a hypothesis."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from html import escape
from typing import Any, Literal

import torch
from torch import Tensor

from ..inputs import QDeltaInputs
from ..threads import one_thread
from .facts import Facts, Worst

Verdict = Literal["holds", "hypotheses not met", "violated"]
# From best to worst; a verdict over several heads is the worst of theirs.
VERDICTS: tuple[Verdict, ...] = ("holds", "hypotheses not met", "violated")


@dataclass(frozen=True)
class Hypothesis:
    """A condition that a claim needs, as a predicate on data: met where `excess` <= 0."""

    name: str
    words: str
    excess: Callable[[Facts], Tensor]  # [B, T, H]: by how much each token fails it; NaN counts as failing


@dataclass(frozen=True)
class Condition:
    """One hypothesis, tested on data: met or not in each head, and the token that fails it most."""

    name: str
    words: str
    met: tuple[bool, ...]
    excess: Worst


@dataclass(frozen=True)
class Finding:
    """One numerical test of a claim: it passes in a head where margin >= -tolerance.

    `worst.value` is the margin with its sign turned, at the token closest to failing: value - limit for a bound,
    the residual for an identity. NaN: nothing could be evaluated. `needs`: only under the claim's hypotheses.
    """

    words: str
    worst: Worst
    needs: bool = True

    @property
    def margin(self) -> Tensor:
        """How far from violation, [H]: limit - value for a bound, -residual for an identity."""
        return 0 - self.worst.value

    @property
    def passes(self) -> Tensor:
        """[H] bool; a margin that could not be evaluated does not pass."""
        return self.worst.value <= self.worst.tolerance

    @property
    def fails(self) -> Tensor:
        """[H] bool; a margin that could not be evaluated does not fail."""
        return self.worst.value > self.worst.tolerance


@dataclass(frozen=True)
class Measured:
    """What a claim's check finds on data: the first finding is the one whose margin is reported."""

    findings: tuple[Finding, ...]
    sentence: str
    numbers: dict[str, Tensor | float] = field(default_factory=dict)  # tensors are [H]


@dataclass(frozen=True)
class Check:
    """A guarantee tested on inputs.

    verdict: the worst over heads of `verdicts`: "violated" if a test fails whose hypotheses are met,
    "hypotheses not met" if the claim says nothing of these inputs, otherwise "holds".
    margin: how far the claim's conclusion is from failing, in `unit`: limit - value for a bound, minus the
    residual for an identity; it holds where margin >= -tolerance. It is stated whether or not the hypotheses
    are met. NaN: it could not be evaluated.
    batch, token, head: where that is; -1 where the claim is not about a token.
    """

    id: str
    title: str
    unit: str
    verdict: Verdict
    verdicts: tuple[Verdict, ...]
    margin: float
    margins: tuple[float, ...]
    tolerance: float
    batch: int
    token: int
    head: int
    conditions: tuple[Condition, ...]
    findings: tuple[Finding, ...]
    sentence: str
    numbers: dict[str, float | tuple[float, ...]]

    @property
    def conclusion_holds(self) -> bool:
        """Whether the numbers agree with the conclusion in every head, hypotheses met or not."""
        return bool(torch.stack([finding.passes for finding in self.findings]).all())

    @property
    def unmet(self) -> tuple[Condition, ...]:
        """The hypotheses that some head does not meet."""
        return tuple(condition for condition in self.conditions if not all(condition.met))


@dataclass(frozen=True, repr=False)
class Guarantee:
    """A claim about Q-Delta's memory, with its hypotheses, proof, check and counterexample.

    statement: LaTeX. words: the same in words. unit: of the margin. source: who stated it.
    """

    id: str
    title: str
    statement: str
    words: str
    unit: str
    source: str
    hypotheses: tuple[Hypothesis, ...]
    measure: Callable[[Facts], Measured]
    dropped: str | None = None  # the hypothesis that `counterexample` drops
    example: Callable[[], QDeltaInputs] | None = None

    def __repr__(self) -> str:
        """Say the claim in words, what it needs, and who stated it."""
        needs = "; ".join(hypothesis.words for hypothesis in self.hypotheses) or "nothing"
        return f"{self.id} {self.title}: {self.words}. It needs: {needs}. Source: {self.source}."

    def _repr_html_(self) -> str:
        """Return the same for a notebook, with the statement as mathematics."""
        needs = "".join(f"<li>{escape(hypothesis.words)}</li>" for hypothesis in self.hypotheses) or "<li>nothing</li>"
        return (
            f"<b>{self.id} {escape(self.title)}</b>$${escape(self.statement, quote=False)}$$"
            f"<p>{escape(self.words)}.</p>It needs:<ul>{needs}</ul><small>Source: {escape(self.source)}</small>"
        )

    def prove(self) -> Any:
        """Return the symbolic proof (`qdelta_analysis.symbolic.Proof`); raises ProofError if a step is not true."""
        from ..symbolic import prove

        return prove(self.id)

    @one_thread()
    def check(self, inputs: QDeltaInputs | Facts) -> Check:
        """Test the claim on inputs, or on facts about them that several checks share."""
        facts = inputs if isinstance(inputs, Facts) else Facts(inputs)
        hypotheses = (SOME_TOKENS, *self.hypotheses) if facts.inputs.T else (SOME_TOKENS,)
        conditions = tuple(_tested(hypothesis, facts) for hypothesis in hypotheses)
        measured = self.measure(facts) if facts.inputs.T else _nothing(facts)
        met = torch.tensor([condition.met for condition in conditions]).all(0)
        verdicts = _verdicts(measured.findings, met)
        head = _worst_head(measured.findings[0], verdicts)
        worst = measured.findings[0].worst
        return Check(
            id=self.id,
            title=self.title,
            unit=self.unit,
            verdict=VERDICTS[max(map(VERDICTS.index, verdicts))],
            verdicts=verdicts,
            margin=float(0 - worst.value[head]),
            margins=tuple((0 - worst.value).tolist()),
            tolerance=float(worst.tolerance[head]),
            batch=int(worst.batch[head]),
            token=int(worst.token[head]),
            head=head,
            conditions=conditions,
            findings=measured.findings,
            sentence=measured.sentence,
            numbers={name: _number(value) for name, value in measured.numbers.items()},
        )

    def counterexample(self) -> QDeltaInputs:
        """Return inputs that fail the hypothesis `dropped`, and with it the conclusion.

        `check` on them says "hypotheses not met", with a negative margin. Raises ValueError for a claim that
        has no hypothesis to drop.
        """
        if self.example is None:
            raise ValueError(f"{self.id} has no hypothesis that can fail; expected one of the other claims.")
        return self.example().with_metadata(counterexample=f"{self.id} without: {self.dropped}")


SOME_TOKENS = Hypothesis("tokens", "there is at least one token", lambda facts: facts.gates.beta.new_zeros(1, 1, 1))


def _tested(hypothesis: Hypothesis, facts: Facts) -> Condition:
    if hypothesis in facts.tested:  # several claims share a hypothesis
        return facts.tested[hypothesis]
    excess = facts.find(hypothesis.excess).nan_to_num(nan=torch.inf)
    worst = facts.worst(excess.expand(facts.shape))
    met = worst.value <= 0 if facts.inputs.T else torch.zeros(facts.inputs.H, dtype=torch.bool)
    found = Condition(hypothesis.name, hypothesis.words, tuple(met.tolist()), worst)
    facts.tested[hypothesis] = found
    return found


def _verdicts(findings: tuple[Finding, ...], met: Tensor) -> tuple[Verdict, ...]:
    """Per head. A test that could not be evaluated is no support: the head counts as not covered."""
    violated = torch.stack([finding.fails & (met | (not finding.needs)) for finding in findings]).any(0)
    supported = torch.stack([finding.passes for finding in findings]).all(0)
    rank = torch.where(violated, 2, torch.where(met & supported, 0, 1))
    return tuple(VERDICTS[i] for i in rank.tolist())


def _worst_head(finding: Finding, verdicts: tuple[Verdict, ...]) -> int:
    """The head with the worst verdict, and among those with the smallest margin."""
    beyond = (finding.worst.value - finding.worst.tolerance).nan_to_num(nan=-torch.inf).tolist()
    return max(range(len(verdicts)), key=lambda head: (VERDICTS.index(verdicts[head]), beyond[head]))


def _nothing(facts: Facts) -> Measured:
    return Measured((Finding("no tokens", facts.nowhere()),), "there are no tokens")


def _number(value: Tensor | float) -> float | tuple[float, ...]:
    return tuple(value.tolist()) if isinstance(value, Tensor) else float(value)
