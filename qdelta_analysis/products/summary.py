"""What the products of a head's transitions can do, do typically, and did."""

from __future__ import annotations

import numpy as np
import xarray as xr

from ..inputs import QDeltaInputs
from .box import worst_growth
from .lyapunov import top_lyapunov_exponent
from .tokens import float64_tokens
from .windows import observed_growth

# float32 unit vectors exceed unit length by less.
_UNIT = 1e-5

_MEANINGS = {
    "worst_case": "log of max alpha times sqrt(1 + max lam^2), beta up to 1 or its maximum if that is larger",
    "worst_case_gates": "mean of log alpha_t + log s(beta_t, lam_t): these gates, the worst short q and k",
    "typical": "largest Lyapunov exponent of the transitions",
    "typical_error": "its standard error by block means",
    "observed": "growth rate of ||S_t||_F, writes included",
    "observed_error": "its standard error by block means",
    "mean_log_decay": "mean of g = log alpha",
}


def growth_summary(inputs: QDeltaInputs, *, transient: int | None = None, blocks: int = 16) -> xr.Dataset:
    """Set side by side, for every head, how fast the memory can grow, typically grows, and grew.

        worst case    log(max alpha sqrt(1 + L^2)),  L = max lam           any short q, k, any gates up to these
                      mean of log(alpha_t s(beta_t, lam_t))                any short q, k, these very gates
        typical       largest Lyapunov exponent of A_1 A_2 ... A_T         these tokens, almost every memory
        observed      growth rate of ||S_t||_F                             these tokens, this memory, with its writes

    with s(beta, lam) the largest ||I - beta x k^T|| over short q and k (`worst_growth`), those in the unit ball;
    K >= 2. Of the first three lines each is at most the one above it. The observed rate is 0 for a memory that settles,
    else the typical rate.

    Args:
        inputs: the tokens; computed in float64.
        transient, blocks: as for `lyapunov_spectrum`; both measured rates use them.

    Returns:
        A dataset with dims (batch, head), in nats per token: `worst_case`, `worst_case_gates`, `typical` and
        `observed` with `typical_error` and `observed_error`, `mean_log_decay`. Factors: `alpha_max`, `alpha_mean` =
        exp(mean g), `threshold` = 1 / sqrt(1 + L^2), which alpha_max must stay below for a bounded memory whatever
        comes, and `threshold_gates`, the same for the geometric mean of alpha under these very gates. `lam_max`,
        `beta_max`; `unit`, whether all q and k lie in the unit ball: worst cases and thresholds are NaN where not,
        or where K = 1.

    Raises ValueError for no tokens, or a count outside its range.
    Source: this project's theory (claims G8 and G9).
    """
    x = float64_tokens(inputs)
    t = x.transition()
    longest = np.stack([y.norm(dim=-1).amax(1).numpy() for y in (t.q, t.k)])
    unit = longest.max(0) < 1 + _UNIT
    g, beta, lam = (y.numpy() for y in (x.g, x.beta, x.lam))  # [B, T, H]
    g_mean, g_max, beta_max, lam_max = g.mean(1), g.max(1), beta.max(1), lam.max(1)
    box = np.log(worst_growth(np.maximum(beta_max, 1), lam_max))
    gates = np.log(worst_growth(beta, lam)).mean(1)
    only_unit = lambda y: np.where(unit & (x.K > 1), y, np.nan)
    typical = top_lyapunov_exponent(x, transient=transient, blocks=blocks)
    observed = observed_growth(x, transient=transient, blocks=blocks)
    values = {
        "worst_case": only_unit(g_max + box),
        "worst_case_gates": only_unit(g_mean + gates),
        "typical": typical["lyapunov_exponent"].values,
        "typical_error": typical["standard_error"].values,
        "observed": observed["rate"].values,
        "observed_error": observed["rate_error"].values,
        "mean_log_decay": g_mean,
        "alpha_max": np.exp(g_max),
        "alpha_mean": np.exp(g_mean),
        "threshold": only_unit(np.exp(-box)),
        "threshold_gates": only_unit(np.exp(-gates)),
        "lam_max": lam_max,
        "beta_max": beta_max,
        "unit": unit,
    }
    data = xr.Dataset({name: (("batch", "head"), y) for name, y in values.items()}, attrs=typical.attrs)
    for name, meaning in _MEANINGS.items():
        data[name].attrs = {"long_name": meaning, "units": "nats per token"}
    return data


def growth_table(summary: xr.Dataset) -> str:
    """Lay out what `growth_summary` found as text, a line for every head."""
    columns = {
        "worst case": lambda y: f"{y.worst_case:+.4f}",
        "at these gates": lambda y: f"{y.worst_case_gates:+.4f}",
        "typical": lambda y: f"{y.typical:+.4f} ± {y.typical_error:.4f}",
        "observed": lambda y: f"{y.observed:+.4f} ± {y.observed_error:.4f}",
        "mean alpha": lambda y: f"{y.alpha_mean:.4f}",
        "max alpha": lambda y: f"{y.alpha_max:.4f}",
        "threshold": lambda y: f"{y.threshold:.4f}",
    }
    several = summary.sizes["batch"] > 1
    rows = [[*(["sequence"] if several else []), "head", *columns]]
    for batch in range(summary.sizes["batch"]):
        for head in range(summary.sizes["head"]):
            values = summary.isel(batch=batch, head=head)
            found = ["-" if "nan" in text else text for text in (column(values) for column in columns.values())]
            rows.append([*([str(batch)] if several else []), str(head), *found])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(
        [
            "Growth of the memory, nats per token (below 0 it shrinks): what any unit q, k can do under the largest of "
            "these gates,",
            "and under these very gates; what these tokens do to almost any memory (top Lyapunov exponent); "
            "what this memory did.",
            "Whatever the tokens, the memory is bounded if max alpha is below the threshold: 1 / sqrt(1 + max lam^2) "
            "for beta <= 1.",
            *lines,
        ]
    )
