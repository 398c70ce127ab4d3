"""Claims about the memory over many steps: G5, G8, G9, G12, G14. Each function tests one of them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from qdelta_kernels.diagnostics import length

from ..generators import two_token_cycle
from ..products import worst_growth
from .examples import aligned_doubled, line, long_keys, overshooting, undamped_cycle
from .facts import Facts, worst_of
from .hypotheses import BALL, BETA, FINITE, GAMMA, PLANE, RATE, growth_bound
from .margins import MARGINS
from .model import Finding, Guarantee, Measured
from .steps import OURS, PAPER, closest, sampled, share, stretched, tightest

_DENSE = 1e-11
_SUBNORMAL = torch.finfo(torch.float64).tiny  # below it even sums lose digits


def _powers(rate: Tensor, T: int) -> tuple[Tensor, Tensor]:
    """rate^t and 1 + rate + ... + rate^(t-1) for t = 1 to T, each [T, H]; inf where they overflow."""
    t = torch.arange(1, T + 1, dtype=torch.float64)[:, None]
    distance = rate - 1
    # Through the logarithm, for 1 - rate^t would keep few digits near rate = 1.
    series = torch.where(distance != 0, (t * torch.log1p(distance)).expm1() / distance.where(distance != 0, 1), t)
    return rate**t, series


def _decayed(rate: Tensor, start: Tensor, each: Tensor, T: int) -> Tensor:
    """rate^t start + each (1 + ... + rate^(t-1)), [B, T, H], for start and each [B, H]; 0 times inf is 0."""
    power, series = (x[None] for x in _powers(rate, T))
    safe = lambda size, x: torch.where(size != 0, size * x, 0)
    return safe(start[:, None].expand(-1, T, -1), power) + safe(each[:, None].expand(-1, T, -1), series)


def _tracking(facts: Facts) -> Measured:
    """e_0 is the error that the first token meets, so the drift begins at the second one."""
    trace, T = facts.trace, facts.inputs.T
    rho = facts.highest((1 - facts.beta_a).abs())
    # Where the hypothesis fails, the comparison is with errors that at least do not expand.
    rate = rho.clamp(max=1)
    drift = trace.drift.amax(1)
    first = trace.error_before[:, 0].double()
    bound = _decayed(rate, first, rate * drift, T)
    length = facts.geometry.kk.sqrt() + facts.gates.lam * facts.geometry.qq.sqrt()
    size = facts.memory_size * length + facts.value_length
    tolerance = facts.tolerances.recurrence * (size + bound.where(bound.isfinite(), 0)) + _SUBNORMAL
    error = trace.error_after.double()
    worst = closest(facts, bound - error, tolerance)
    return Measured(
        (Finding("||e_t|| <= rho^t ||e_0|| + rho r (1 - rho^t) / (1 - rho)", worst),),
        f"rho reaches {float(rho.max()):.4g}; the error after a write reaches {float(error.max()):.4g}, "
        f"where the bound allows {float(bound.max()):.4g}",
        {"rho": rho, "drift": drift.amax(0), "largest_error": error.amax((0, 1)), "largest_bound": bound.amax((0, 1))},
    )


def _joint_radius(facts: Facts) -> Measured:
    gamma, found = growth_bound(facts), facts.stretches
    alpha, lam = facts.highest(facts.gates.alpha), facts.highest(facts.gates.lam)
    off = torch.stack([_cycle_radius(L) - float(worst_growth(1.0, L)) for L in lam.tolist()]).abs()
    rates = torch.stack([norm ** (1 / length) for length, norm in found.growth.items()])
    start = found.token[:, 0].expand(rates.shape[:2])
    worst = worst_of(rates - gamma, alpha * facts.unit_slack, found.batch.expand(start.shape), start)
    longest = max(found.growth)
    return Measured(
        (
            Finding("||A_1 ... A_m||^(1/m) <= gamma, on stretches followed densely", worst),
            Finding("the two-token cycle for these gates grows by gamma a token", facts.everywhere(off, 1e-9), False),
        ),
        f"tokens with gates like these can let the memory grow by gamma = {float(gamma.max()):.4g} a token for ever; "
        f"the stretches of {longest} tokens looked at come to at most {float(rates[-1].max()):.4g} a token",
        {"gamma": gamma, "largest_alpha": alpha, "largest_lam": lam, "observed": rates[-1].amax(0), "window": longest},
    )


def _cycle_radius(L: float) -> Tensor:
    """Spectral radius per token of the witness in the plane, alpha = 1, by dense eigenvalues."""
    first, second = two_token_cycle(T=2, K=2, V=1, lam=L).transition().matrix()[0, :, 0]
    return torch.linalg.eigvals(first @ second).abs().max().sqrt()


def _memory(facts: Facts) -> Measured:
    x, trace = facts.inputs, facts.trace
    gamma, alpha = growth_bound(facts), facts.highest(facts.gates.alpha)
    # Where the hypothesis fails there is no bound: the comparison is then with the one that lam = 0 would have.
    rate = gamma.where(gamma < 1, alpha)
    norm = trace.state_norm.double()
    start = norm.new_zeros(x.B, x.H) if x.initial_state is None else length(x.initial_state.double().flatten(-2))[0]
    written = (facts.gates.beta * facts.value_length * facts.geometry.kk.sqrt()).amax(1)
    bound = _decayed(rate + facts.unit_slack * (gamma < 1), start, written, x.T)
    tolerance = (
        facts.tolerances.recurrence * torch.maximum(bound, facts.memory_size).where(bound.isfinite(), 0) + _SUBNORMAL
    )
    threshold = (1 + facts.highest(facts.gates.lam).square()).rsqrt()
    above = share(facts.gates.alpha >= threshold)
    covered = bool((gamma < 1).all())
    bounds = "bounds" if covered else "does not bound"
    other = "" if covered else " (where gamma >= 1: compared with the bound that lam = 0 would give)"
    words = "||S_t|| <= gamma^t ||S_0|| + sup(beta ||v||) / (1 - gamma)"
    return Measured(
        (Finding(words + other, closest(facts, bound - norm, tolerance)),),
        f"gamma = max alpha sqrt(1 + max lam^2) = {float(gamma.max()):.4g} {bounds} the memory for all such inputs; "
        f"alpha is not below 1 / sqrt(1 + max lam^2) at {float(above.mean()):.1%} of tokens; "
        f"here ||S|| reaches {float(norm.max()):.4g}",
        {
            "gamma": gamma,
            "largest_alpha": alpha,
            "threshold": threshold,
            "largest_memory": norm.amax((0, 1)),
            "share_above_threshold": above,
        },
    )


def _chunks(facts: Facts) -> Measured:
    found, x = facts.stretches, facts.inputs
    steps = torch.arange(found.token.shape[1])[None, :, None]
    slack = 1e-9 + (steps + 1) * facts.unit_slack
    return Measured(
        (
            Finding(
                "|T_ij| <= (1 + L) (1 + L^2)^((i - j - 1) / 2), as a share of it",
                stretched(facts, found.inverse_unit - 1, slack),
            ),
            Finding(
                "the chunk form equals the token loop in float64",
                stretched(facts, found.chunk_error, _DENSE),
                needs=False,
            ),
            Finding(
                f"the chunk form in {str(x.q.dtype).removeprefix('torch.')} equals the token loop",
                stretched(facts, found.trace_error, facts.tolerances.recurrence),
                needs=False,
            ),
            Finding(
                "|T_ij| <= beta_i alpha_i ||k_j|| ||x_i|| prod ||A_m||",
                stretched(facts, found.inverse - 1, 1e-9),
                needs=False,
            ),
        ),
        f"the largest |T_ij| in chunks of {found.token.shape[1]} tokens is {float(found.inverse_largest.max()):.4g} "
        "(at lam = 0, with q, k in the unit ball and beta <= 1, it would stay within 1)",
        {"largest_inverse": found.inverse_largest.amax((0, 1)), "largest_share": found.inverse_unit.amax((0, 1))},
    )


def _payment(facts: Facts) -> Measured:
    found, (price, _) = facts.stretches, facts.find(MARGINS["G14"])
    limit = found.compensated_bound
    return Measured(
        (
            Finding("log s+ >= 0, so that g' <= g", tightest(facts, "G14")),
            Finding("||A'|| = alpha, on dense samples", sampled(facts, facts.samples.payment_error, _DENSE)),
            Finding(
                "||S_t|| <= alpha ||S_{t-1}|| + beta ||v|| ||k|| under the compensated decay",
                stretched(facts, found.compensated - limit, facts.tolerances.algebra * (limit + found.largest)),
            ),
        ),
        f"paying for each step's expansion means forgetting {-math.expm1(-float(price.mean())):.2%} more per token on "
        f"average, {-math.expm1(-float(price.max())):.2%} at most",
        {"mean_price": price.mean((0, 1)), "largest_price": facts.highest(price)},
    )


G5 = Guarantee(
    id="G5",
    title="Tracking of a moving target",
    statement=r"\|e_t\|\le\rho^t\|e_0\|+\rho r\,\frac{1-\rho^t}{1-\rho},\quad\rho=\sup|1-\beta a|,\ r=\sup\|r_t\|",
    words="the mixed error after a write stays within rho^t of the first one plus what the drift r adds",
    unit="length of a value",
    source=f"{PAPER}, Theorem 3.2, with decay",
    hypotheses=(RATE, FINITE),
    measure=_tracking,
    dropped=RATE.name,
    example=aligned_doubled,
)
G8 = Guarantee(
    id="G8",
    title="Joint spectral radius, exact",
    statement=r"\mathrm{JSR}=\alpha_{\max}\sqrt{1+L^2}\quad(\|q\|,\|k\|\le1,\ \beta\in[0,1],\ \lambda\in[0,L])",
    words="over all sequences with such gates the memory grows in the long run by at most "
    "gamma = max alpha sqrt(1 + max lam^2) a token, and the two-token cycle reaches it, though the mixed error "
    "contracts perfectly along it",
    unit="growth per token",
    source=OURS,
    hypotheses=(PLANE, BALL, BETA),
    measure=_joint_radius,
    dropped=BETA.name,
    example=overshooting,
)
G9 = Guarantee(
    id="G9",
    title="Uniform memory bound",
    statement=r"\gamma=\alpha_{\max}\sqrt{1+L^2}<1\ \Rightarrow\ "
    r"\|S_t\|_F\le\gamma^t\|S_0\|_F+\frac{\sup\beta\|v\|}{1-\gamma}",
    words="if gamma = max alpha sqrt(1 + max lam^2) < 1 the memory is bounded for ever, whatever the tokens",
    unit="||S||",
    source=OURS,
    hypotheses=(BALL, BETA, GAMMA, FINITE),
    measure=_memory,
    dropped=GAMMA.name,
    example=undamped_cycle,
)
G12 = Guarantee(
    id="G12",
    title="Chunk identity and its conditioning",
    statement=r"U=T(\operatorname{diag}(\beta)V-\operatorname{diag}(\beta e^G)XS^\top),\quad"
    r"|T_{ij}|\le(1+L)(1+L^2)^{(i-j-1)/2}",
    words="the chunk form equals the recurrence, and its inverse grows at most like sqrt(1 + L^2) a token",
    unit="share of the bound",
    source=OURS,
    hypotheses=(BALL, BETA, FINITE),
    measure=_chunks,
    dropped=BALL.name,
    example=long_keys,
)
G14 = Guarantee(
    id="G14",
    title="The price of query feedback",
    statement=r"g'_t=g_t-\log s_+\ \Rightarrow\ \|A'_t\|=\alpha_t",
    words="decay by a further 1 / s+ per token makes every step exactly as contracting as Gated DeltaNet's",
    unit="log decay per token",
    source=OURS,
    hypotheses=(PLANE,),
    measure=_payment,
    dropped=PLANE.name,
    example=line,
)
