"""Claims about typical tokens, in mean square: G10 and G11."""

from __future__ import annotations

from .examples import one_direction
from .facts import Facts
from .hypotheses import EXCITED, GENTLE, INDEPENDENT, UNIFORM, UNIT
from .model import Finding, Guarantee, Measured
from .statistics import FEWEST, STANDARD_ERRORS
from .steps import OURS, sampled


def _mean_square(facts: Facts) -> Measured:
    tokens = facts.tokens
    growth = tokens.claimed.mean(0)
    beta = tokens.beta.mean(0)
    c = (tokens.q * tokens.k).sum(-1)
    # All betas times one factor: the averaged growth is quadratic in it, and without decay 1 at this mean beta.
    share = (tokens.beta / beta).where(beta > 0, 1)
    a, size = 1 + tokens.lam * c, 1 + 2 * tokens.lam * c + tokens.lam.square()
    boundary = 2 * (share * a).mean(0) / (share.square() * size).mean(0).clamp(min=1e-300)
    enough = tokens.N >= FEWEST
    worst = facts.everywhere(tokens.mean_square_error - STANDARD_ERRORS) if enough else facts.nowhere()
    off = facts.highest(facts.off_unit)
    off = off.where(off <= facts.tolerances.unit, 0)
    average = sampled(facts, facts.samples.average_error, 1e-11 + 10 * off)
    return Measured(
        (
            Finding("E||s A||^2 along six directions s", worst),
            Finding("the average over all directions is ||A||_F^2 / d, on dense samples", average),
        ),
        f"for isotropic tokens with these gates E||s A||^2 = {float(growth.max()):.4g} ||s||^2 a token; without decay "
        f"it would grow from beta = {float(boundary.min()):.4g} on (mean beta {float(beta.max()):.4g})",
        {"growth": growth, "boundary": boundary, "mean_beta": beta, "mean_cos": c.mean(0), "tokens": tokens.N},
    )


def _excitation(facts: Facts) -> Measured:
    tokens = facts.tokens
    mu, noise, decay = tokens.excitation, tokens.noise, tokens.decay
    bound = decay - 2 * mu + noise
    margin = bound.minimum(decay) - tokens.mean_square_growth
    tolerance = 1e-9 * (1 + noise)
    return Measured(
        (
            Finding("E||s A||^2 <= min(bound, E[alpha^2]) ||s||^2", facts.everywhere(-margin, tolerance)),
            Finding("E||s A||^2 <= bound", facts.everywhere(tokens.mean_square_growth - bound, tolerance), needs=False),
        ),
        f"mu = {float(mu.min()):.3g} to {float(mu.max()):.3g}; drawn independently of each other, these tokens take "
        f"E||s A||^2 to at most {float(tokens.mean_square_growth.max()):.4g} ||s||^2, where the bound says "
        f"{float(bound.max()):.4g}",
        {"mu": mu, "lambda_max": noise, "bound": bound, "growth": tokens.mean_square_growth, "tokens": tokens.N},
    )


G10 = Guarantee(
    id="G10",
    title="Typical growth in mean square",
    statement=r"\mathbb E\|sA\|^2=\alpha^2\Big(1+"
    r"\frac{\beta^2(1+2\lambda c+\lambda^2)-2\beta(1+\lambda c)}{d}\Big)\|s\|^2",
    words="for i.i.d. tokens with uniform directions and cos(q, k) = c the memory, without decay, grows in mean "
    "square only beyond beta = 2 (1 + lam c) / (1 + 2 lam c + lam^2)",
    unit="standard errors",
    source=OURS,
    hypotheses=(UNIT, INDEPENDENT, UNIFORM),
    measure=_mean_square,
    dropped=UNIFORM.name,
    example=one_direction,
)
G11 = Guarantee(
    id="G11",
    title="Persistent excitation",
    statement=r"\mu=\lambda_{\min}(\operatorname{sym}\mathbb E[\alpha^2\beta xk^\top])>0,\ "
    r"\Lambda=\lambda_{\max}(\mathbb E[\alpha^2\beta^2\|k\|^2xx^\top])<2\mu\ \Rightarrow\ "
    r"\mathbb E\|sA\|^2\le(\mathbb E\alpha^2-2\mu+\Lambda)\|s\|^2",
    words="i.i.d. tokens that excite every direction, written gently, contract the memory in mean square",
    unit="||s||^2",
    source=OURS,
    hypotheses=(INDEPENDENT, EXCITED, GENTLE),
    measure=_excitation,
    dropped=EXCITED.name,
    example=one_direction,
)
