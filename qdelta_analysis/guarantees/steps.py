"""Claims about one step, A = alpha (I - beta x k^T): G1 to G4, G6, G7, G13. Each function tests one of them."""

from __future__ import annotations

import torch
from torch import Tensor

from .examples import aligned_doubled, line, overshooting
from .facts import Facts, Worst, worst_of
from .hypotheses import BALL, BETA, CLOSED, FINITE, LAM, OPEN, PLANE
from .margins import MARGINS, least_alignment
from .model import Finding, Guarantee, Measured

PAPER = "Q-Delta (arXiv 2606.08804)"
OURS = "this project"
# A dense eigenvalue solver loses half the digits of a defective matrix.
_EIGENVALUES = 1e-6
_DENSE = 1e-11
_LEAST, _SHORT = torch.finfo(torch.float64).tiny, 1e-140


def share(inside: Tensor) -> Tensor:
    """The share of tokens, per head: [B, T, H] -> [H]."""
    return inside.double().mean((0, 1))


def sampled(facts: Facts, error: Tensor, tolerance: Tensor | float) -> Worst:
    """A residual of the dense samples, [m, H]."""
    at = facts.samples
    m = len(error)
    return worst_of(error, torch.as_tensor(tolerance, dtype=torch.float64), at.batch[:m], at.token[:m])


def stretched(facts: Facts, value: Tensor, tolerance: Tensor | float) -> Worst:
    """A value at every token of the stretches, [n, L, H]."""
    at = facts.stretches
    batch = at.batch[:, None].expand(at.token.shape)
    return worst_of(value, torch.as_tensor(tolerance, dtype=torch.float64), batch, at.token)


def closest(facts: Facts, margin: Tensor, tolerance: Tensor | float = 0.0) -> Worst:
    """The token at which a margin [B, T, H] is smallest."""
    return facts.worst(-margin, tolerance)


def tightest(facts: Facts, claim: str) -> Worst:
    """The token at which a claim's margin is smallest."""
    return closest(facts, *facts.find(MARGINS[claim]))


def _span(x: Tensor) -> str:
    return f"{float(x.min()):.4g} to {float(x.max()):.4g}"


def _spectrum(facts: Facts) -> Measured:
    error, geometry = facts.samples.spectrum_error, facts.geometry
    size = geometry.kk + facts.gates.lam * (geometry.kk * geometry.qq).sqrt()
    # Of shorter vectors the squares, and so the size, underflow.
    off = (geometry.alignment - geometry.xk).abs() / (size + _SHORT * (1 + geometry.kk.sqrt()))
    return Measured(
        (
            Finding(
                "A x = alpha (1 - beta a) x, A y = alpha y for y across k, det(z I - A) and A itself, on dense samples",
                sampled(facts, error, _DENSE),
                needs=False,
            ),
            Finding(
                "a = ||k||^2 + lam k.q = x.k at every token, relative",
                facts.worst(off, facts.tolerances.algebra),
                needs=False,
            ),
        ),
        f"the moving eigenvalue over alpha, 1 - beta a, runs from {_span(1 - facts.beta_a)}",
        {"samples": len(error), "largest_residual": error.amax(0)},
    )


def _radius(facts: Facts) -> Measured:
    factor = (1 - facts.beta_a).abs()
    error = facts.samples.radius_error
    inside = share(factor <= 1)
    return Measured(
        (
            Finding("rho(A) <= alpha", tightest(facts, "G2")),
            Finding(
                "rho(A) = alpha max(1, |1 - beta a|), against dense eigenvalues",
                sampled(facts, error, _EIGENVALUES),
                needs=False,
            ),
        ),
        f"|1 - beta a| reaches {float(factor.max()):.4g}; rho(A) <= alpha at {float(inside.mean()):.1%} of tokens",
        {"largest_radius": facts.highest(facts.gates.alpha * factor.clamp(min=1)), "share_within": inside},
    )


def _norm(facts: Facts) -> Measured:
    norm, det = facts.geometry.norm, (1 - facts.gates.beta * facts.geometry.alignment).abs()
    other = torch.zeros_like(norm) if facts.d == 1 else det / norm.where(norm > 0, 1)
    relation = (norm.square() + other.square() - facts.plane_size2).abs() / facts.plane_size2.clamp(min=1)
    full = facts.gates.alpha * norm
    expanding = share(full > 1 + facts.tolerances.algebra)
    dense = sampled(facts, facts.samples.singular_error, _DENSE)
    return Measured(
        (
            Finding("||A|| >= alpha", tightest(facts, "G3")),
            Finding(
                "s+^2 + s-^2 = ||M||_F^2 and s+ s- = |det M| in the plane of k and x, at every token",
                facts.worst(relation, facts.tolerances.algebra),
                needs=False,
            ),
            Finding("all singular values, on dense samples", dense, needs=False),
        ),
        f"||A|| reaches {float(full.max()):.4g} and ||A|| / alpha {float(norm.max()):.4g}; "
        f"{float(expanding.mean()):.1%} of steps can expand some memory (||A|| > 1)",
        {"largest_norm": facts.highest(full), "largest_over_alpha": facts.highest(norm), "share_expanding": expanding},
    )


def _contraction(facts: Facts) -> Measured:
    factor, found = (1 - facts.beta_a).abs(), facts.stretches
    tolerance = facts.tolerances.algebra * found.size
    # No error to speak of cannot grow.
    off = (found.left / found.error - 1).where(found.error > tolerance, -1)
    ratio = facts.trace.error_after / facts.trace.error_before
    inside = share((facts.beta_a > 0) & (facts.beta_a < 2))
    return Measured(
        (
            Finding("the error shrinks: 1 - |1 - beta a| > 0", tightest(facts, "G4")),
            Finding(
                "v - S x after = (1 - beta a) (v - alpha S x before), from the state itself",
                stretched(facts, found.residual, tolerance),
                needs=False,
            ),
            Finding("||v - S x|| measured after and before the write", stretched(facts, off, 1e-9)),
            Finding(
                "the trace's errors, against the state followed in float64",
                stretched(facts, found.trace_error, facts.tolerances.recurrence),
                needs=False,
            ),
        ),
        f"each write leaves {_span(factor)} of the mixed error (median {float(ratio.nanmedian()):.4g}); "
        f"beta a is in (0, 2) at {float(inside.mean()):.1%} of tokens",
        {"largest_factor": facts.highest(factor), "share_contracting": inside},
    )


def _box(facts: Facts) -> Measured:
    ba, least = facts.beta_a, least_alignment(facts)
    edge = share((ba <= 0) | (ba >= 2))
    lowest = -facts.gates.beta * (facts.gates.lam.square() * facts.geometry.qq) / 4
    return Measured(
        (
            Finding("beta min(0, ||k|| (||k|| - lam ||q||)) <= beta a <= 2", tightest(facts, "G6")),
            Finding("-beta lam^2 ||q||^2 / 4 <= beta a", closest(facts, ba - lowest, facts.unit_slack)),
            Finding(
                "cos(q, k) is that of the normalised vectors, on dense samples",
                sampled(facts, facts.samples.cos_error, _DENSE),
                needs=False,
            ),
        ),
        f"beta a runs from {_span(ba)}, with beta up to {float(facts.gates.beta.max()):.4g} "
        f"and lam up to {float(facts.gates.lam.max()):.4g}; at these lengths it is at least {float(least.min()):.4g}",
        {"smallest": -facts.highest(-ba), "largest": facts.highest(ba), "share_not_inside": edge},
    )


def _envelope(facts: Facts) -> Measured:
    beta, lam, alpha, norm = facts.gates.beta, facts.gates.lam, facts.gates.alpha, facts.geometry.norm
    envelope = (1 + lam.square()).sqrt()
    # Beyond beta = 1, where the claim says nothing, the sharper bounds have no finite value at 2.
    sharper = lambda r2, s2: (1 + lam.square() * s2 * beta / (2 - beta * r2).clamp(min=_LEAST)).sqrt()
    sharp, sharpest = sharper(1.0, 1.0), sharper(facts.geometry.kk, facts.geometry.qq)
    excess = norm.clamp(min=1) / envelope
    return Measured(
        (
            Finding("||A|| <= alpha sqrt(1 + lam^2)", tightest(facts, "G7")),
            Finding(
                "||A|| <= alpha sqrt(1 + lam^2 beta / (2 - beta))",
                closest(facts, alpha * (sharp - norm), facts.unit_slack),
            ),
            Finding(
                "||A|| <= alpha sqrt(1 + lam^2 ||q||^2 beta / (2 - beta ||k||^2))",
                closest(facts, alpha * (sharpest - norm), facts.unit_slack),
            ),
            Finding(
                "alpha sqrt(1 + lam^2) is the dense norm at beta = 1, unit k and unit q across it, on samples",
                sampled(facts, facts.samples.envelope_error, _DENSE),
                needs=False,
            ),
        ),
        f"||A|| reaches {float(excess.max()):.1%} of its envelope, which reaches {float((alpha * envelope).max()):.4g}",
        {"largest_envelope": facts.highest(alpha * envelope), "largest_share": facts.highest(excess)},
    )


def _reduction(facts: Facts) -> Measured:
    error = facts.samples.reduction_error
    norm = (1 - facts.gates.beta * facts.geometry.kk).abs().clamp(min=1)
    return Measured(
        (Finding("A = A^T and ||A|| = alpha max(1, |1 - beta ||k||^2|) at lam = 0", sampled(facts, error, _DENSE)),),
        f"without query feedback ||A|| / alpha would reach {float(norm.max()):.4g}; "
        f"with it {float(facts.geometry.norm.max()):.4g}",
        {"largest_without_feedback": facts.highest(facts.gates.alpha * norm)},
    )


G1 = Guarantee(
    id="G1",
    title="Spectrum of a step",
    statement=r"\operatorname{spec}(A)=\{\alpha^{(d-1)},\ \alpha(1-\beta a)\},\quad a=k^\top x",
    words="the eigenvalues of A are alpha, d - 1 times, and alpha (1 - beta a)",
    unit="residual",
    source=OURS,
    hypotheses=(),
    measure=_spectrum,
)
G2 = Guarantee(
    id="G2",
    title="Spectral radius of a step",
    statement=r"\rho(A)=\alpha\max(1,|1-\beta a|)\le\alpha\iff\beta a\in[0,2]",
    words="no eigenvalue of A exceeds alpha exactly where beta a lies in [0, 2]",
    unit="alpha",
    source=OURS,
    hypotheses=(PLANE, CLOSED),
    measure=_radius,
    dropped=CLOSED.name,
    example=aligned_doubled,
)
G3 = Guarantee(
    id="G3",
    title="Operator norm of a step, exact",
    statement=r"s_+s_-=|1-\beta a|,\quad s_+^2+s_-^2=2-2\beta a+\beta^2\|x\|^2\|k\|^2,\quad\|A\|=\alpha s_+\ge\alpha",
    words="the singular values of A are alpha s+, alpha (d - 2 times) and alpha s-, so ||A|| is never below alpha",
    unit="alpha",
    source=OURS,
    hypotheses=(PLANE,),
    measure=_norm,
    dropped=PLANE.name,
    example=line,
)
G4 = Guarantee(
    id="G4",
    title="One-step contraction of the mixed error",
    statement=r"v_t-S_tx_t=(1-\beta_ta_t)(v_t-\alpha_tS_{t-1}x_t)",
    words="a write takes the mixed error v - S x to 1 - beta a of what it was: less, for beta a in (0, 2)",
    unit="mixed error before the write",
    source=f"{PAPER}, Lemma 3.1",
    hypotheses=(OPEN, FINITE),
    measure=_contraction,
    dropped=OPEN.name,
    example=aligned_doubled,
)
G6 = Guarantee(
    id="G6",
    title="Alignment box",
    statement=r"\|q\|,\|k\|\le1,\ \beta,\lambda\in[0,1]\ \Rightarrow\ "
    r"-\tfrac14\beta\lambda^2\|q\|^2\le\beta a\le2,\quad\beta a\ge0\text{ where }\|k\|\ge\lambda\|q\|",
    words="with q, k in the unit ball and beta, lam in [0, 1], beta a is at most 2 whatever the angle, and at least 0 "
    "where ||k|| >= lam ||q||, as it is for unit vectors; elsewhere it is at least -beta lam^2 ||q||^2 / 4",
    unit="beta a",
    source=OURS,
    hypotheses=(BALL, BETA, LAM),
    measure=_box,
    dropped=BETA.name,
    example=aligned_doubled,
)
G7 = Guarantee(
    id="G7",
    title="Norm envelope",
    statement=r"\|q\|,\|k\|\le1,\ \beta\in[0,1]\ \Rightarrow\ "
    r"\|A\|\le\alpha\sqrt{1+\tfrac{\beta\lambda^2\|q\|^2}{2-\beta\|k\|^2}}"
    r"\le\alpha\sqrt{1+\tfrac{\beta\lambda^2}{2-\beta}}\le\alpha\sqrt{1+\lambda^2}",
    words="with q, k in the unit ball and beta in [0, 1] a step expands no memory by more than alpha sqrt(1 + lam^2), "
    "and no angle makes it more than alpha sqrt(1 + lam^2 beta / (2 - beta))",
    unit="||A||",
    source=OURS,
    hypotheses=(BALL, BETA),
    measure=_envelope,
    dropped=BETA.name,
    example=overshooting,
)
G13 = Guarantee(
    id="G13",
    title="Reduction to Gated DeltaNet",
    statement=r"\lambda=0\ \Rightarrow\ A=A^\top,\quad\|A\|=\alpha\max(1,|1-\beta\|k\|^2|)",
    words="the same tokens without query feedback (lam = 0) have symmetric transitions that expand nothing "
    "while beta ||k||^2 is in [0, 2]",
    unit="residual",
    source=OURS,
    hypotheses=(PLANE,),
    measure=_reduction,
    dropped=PLANE.name,
    example=line,
)
