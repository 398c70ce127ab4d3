"""Growth in mean square, measured on tokens: what the closed forms and bounds of `moments` are held against."""

from __future__ import annotations

import torch
import xarray as xr

from qdelta_kernels.diagnostics import length

from ..inputs import QDeltaInputs
from .tokens import eigenvalues, float64_tokens


@torch.no_grad()
def sampled_mean_square_growth(inputs: QDeltaInputs) -> xr.Dataset:
    """Measure E||s A||^2 / ||s||^2 over the tokens, as if they were drawn independently of each other.

        E||s A||^2 = s E[A A^T] s^T,    A A^T = alpha^2 (I - beta (x k^T + k x^T) + beta^2 ||k||^2 x x^T)

    E is the mean over the tokens of one sequence. Averaged over every direction of s it is the mean of ||A||_F^2 / K.

    Returns a dataset with dims (batch, head), factors per token for the square of the norm: `growth`, over all
    directions, with its standard error over tokens `growth_error`, which tokens that depend on each other make too
    small (NaN for one token); `least` and `most`, in the directions that grow least and most. Where E[A A^T] leaves
    float64, `growth` and `most` are inf, `least` NaN.
    Raises ValueError for no tokens. Source: this project's theory (claims G10 and G11).
    """
    x = float64_tokens(inputs)
    t = x.transition()
    alpha2, beta, K = t.alpha.square(), t.beta, x.K
    weighed = (t.alpha * beta * length(t.k)[0])[..., None] * t.x  # no square of a product that alpha makes small
    each = (alpha2 * (K - 2 * beta * t.alignment) + length(weighed)[0].square()) / K  # [B, T, H]
    each = each.where(each.isfinite(), torch.inf)
    heads = lambda y: y.transpose(1, 2)  # [B, T, H, K] -> [B, H, T, K]
    cross = heads((alpha2 * beta)[..., None] * t.x).mT @ heads(t.k) / x.T
    written = heads(weighed).mT @ heads(weighed) / x.T
    moment = alpha2.mean(1)[..., None, None] * torch.eye(K, dtype=torch.float64) - cross - cross.mT + written
    extremes = eigenvalues(moment)
    most = torch.where(extremes[..., -1].isnan(), each.mean(1), extremes[..., -1])
    error = each.std(1) / x.T**0.5 if x.T > 1 else each.new_full((x.B, x.H), torch.nan)
    values = {"growth": each.mean(1), "growth_error": error, "least": extremes[..., 0], "most": most}
    return xr.Dataset({name: (("batch", "head"), y.numpy()) for name, y in values.items()}, attrs=dict(x.metadata))
