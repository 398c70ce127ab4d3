"""In words: which guarantee holds at a token, which does not, and for which reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from .view import View

Verdict = Literal["holds", "fails", "not covered"]
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Statement:
    """One guarantee at one token: its name, the verdict, and the sentence with the numbers."""

    name: str
    verdict: Verdict  # "not covered": the guarantee's hypotheses are not met, so it says nothing
    sentence: str


def statements(view: View, token: int) -> list[Statement]:
    """Say what is guaranteed at this token and over the tokens shown.

    Sources: one-step contraction is Lemma 3.1 of Q-Delta (arXiv 2606.08804); the others are this project's claims
    on the spectral radius (G2), the alignment box (G6), the norm (G3), its envelope (G7) and the memory bound (G9).
    """
    return [_contraction(view, token), _box(view), _radius(view, token), _norm(view, token), _memory(view)]


def _contraction(view: View, token: int) -> Statement:
    ba = view.beta_alignment
    inside = (ba > 0) & (ba < 2)
    here = bool(inside[token])
    return Statement(
        "One-step contraction of the mixed error (Lemma 3.1)",
        "holds" if here else "fails",
        f"βa = {ba[token]:.3f} is {'inside' if here else 'outside'} (0, 2): this write takes ‖v − Sx‖ to "
        f"|1 − βa| = {abs(1 - ba[token]):.3f} of what it was; "
        f"inside at {inside.sum()} of {view.T} tokens",
    )


def _box(view: View) -> Statement:
    name = "Contraction for all unit q, k by the gates alone (alignment box)"
    beta, lam = view.beta.max(), view.lam.max()
    if not view.unit:
        return Statement(name, "not covered", "q and k are not unit vectors everywhere")
    if beta > 1 or lam > 1:
        return Statement(
            name, "not covered", f"needs β ≤ 1 and λ ≤ 1, but they reach {beta:.2f} and {lam:.2f}: βa may leave [0, 2]"
        )
    return Statement(name, "holds", f"β ≤ {beta:.2f} and λ ≤ {lam:.2f} keep βa in [0, 2] whatever the angle")


def _radius(view: View, token: int) -> Statement:
    alpha, factor = float(view.alpha[token]), abs(1 - float(view.beta_alignment[token]))
    holds = factor <= 1 + _ROUNDING
    return Statement(
        "Spectral radius at most α",
        "holds" if holds else "fails",
        f"ρ(A) = α max(1, |1 − βa|) = {alpha * max(1.0, factor):.3f} with α = {alpha:.3f}",
    )


def _norm(view: View, token: int) -> Statement:
    norm, alpha, envelope = (float(x[token]) for x in (view.operator_norm, view.alpha, view.norm_envelope))
    name = "No expansion of the memory in this step (‖A‖ ≤ 1)"
    covered = view.unit and view.beta[token] <= 1
    bound = f", at most α√(1 + λ²) = {envelope:.3f} for unit q, k and β ≤ 1" if covered else ""
    if norm <= 1 + _ROUNDING:
        return Statement(name, "holds", f"‖A‖ = {norm:.3f}{bound}")
    return Statement(
        name, "fails", f"‖A‖ = {norm:.3f} with α = {alpha:.3f}{bound}: some memories grow although the error contracts"
    )


def _memory(view: View) -> Statement:
    name = "Bounded memory for all inputs with these gates"
    if not view.unit or view.beta.max() > 1:
        return Statement(name, "not covered", "needs unit q, k and β ≤ 1")
    gamma = float(view.alpha.max() * np.sqrt(1 + view.lam.max() ** 2))
    if gamma < 1:
        return Statement(name, "holds", f"γ = max α √(1 + max λ²) = {gamma:.3f} < 1 bounds ‖S‖ for ever")
    grown = "" if view.asked == view.T else f"; here ‖S‖ passed 1e30 after {view.T} of {view.asked} tokens"
    return Statement(
        name,
        "not covered",
        f"γ = max α √(1 + max λ²) = {gamma:.3f} ≥ 1, and inputs exist along which the memory grows by γ a token{grown}",
    )
