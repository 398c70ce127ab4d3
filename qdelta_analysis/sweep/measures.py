"""What a sweep can measure by name: functions of inputs that return one number for each memory, [B, H]."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from qdelta_kernels import chunk_qdelta_diagnostics
from qdelta_kernels.arguments import check_arguments
from qdelta_kernels.chunkwise import blocks, carry, chunk_layout, prepare_chunks, state_in, state_out, write

from ..inputs import QDeltaInputs
from ..transition import Transition

Measure = Callable[[QDeltaInputs], Any]
# Tokens per chunk: less work inside the chunks than the kernels' usual 64, which pays where many heads fill the cores.
_CHUNK = 32


@torch.no_grad()
def error(inputs: QDeltaInputs) -> Mapping[str, Tensor]:
    """Follow the mixed error: `error_before` and `error_after`, means over tokens of ||v - alpha S x|| and ||v - S x||.

    And `final_norm`, ||S_T||_F. Half the work of `memory`, whose values these are.
    """
    before, state = _written(inputs)
    after = (1 - inputs.beta * _in_the_plane(inputs).alignment).abs() * before
    return {"error_before": before.mean(1), "error_after": after.mean(1), "final_norm": state.norm(dim=(-2, -1))}


@torch.no_grad()
def memory(inputs: QDeltaInputs) -> Mapping[str, Tensor]:
    """Follow the memory: its norm, the mixed error around every write, and how alike v_hat and o_hat are.

    `final_norm` and `largest_norm` of ||S_t||_F; `error_before` and `error_after`, means over tokens of
    ||v - alpha S x|| and ||v - S x||; `cosine`, the mean of cos(v_hat, o_hat).
    """
    found = chunk_qdelta_diagnostics(**inputs.arguments(), chunk_size=_CHUNK)
    return {
        "final_norm": found.state_norm[:, -1],
        "largest_norm": found.state_norm.amax(1),
        "error_before": found.error_before.mean(1),
        "error_after": found.error_after.mean(1),
        "cosine": found.cosine.mean(1),
    }


@torch.no_grad()
def recall(inputs: QDeltaInputs) -> Mapping[str, Tensor]:
    """Read every token's pair back from the last memory: ||S_T k_t - v_t||^2 / ||v_t||^2.

    `recall_error` is the mean over tokens, `oldest_error` over the first quarter of them, `newest_error` over the last.
    """
    _, state = _written(inputs)
    H = inputs.q.shape[2]
    read = inputs.k.transpose(1, 2)[:, :, None] @ state.unflatten(1, (H, -1))  # [B, H, R, T, V]
    v = inputs.v.permute(0, 2, 1, 3)
    size = v.square().sum(-1)
    error = (read.flatten(1, 2) - v).square().sum(-1) / torch.where(size > 0, size, 1)
    quarter = max(1, inputs.T // 4)
    means = {"recall_error": error, "oldest_error": error[..., :quarter], "newest_error": error[..., -quarter:]}
    return {name: x.mean(-1) for name, x in means.items()}


@torch.no_grad()
def transition(inputs: QDeltaInputs) -> Mapping[str, Tensor]:
    """Look at the transitions alone, in closed form: their norm, their alignment, and where the error contracts.

    `mean_norm` and `largest_norm` of ||A_t||_2, `mean_log_norm` in nats per token, `mean_alignment` of beta a, and
    `contracting`, the share of tokens with beta a in (0, 2).
    """
    t = _in_the_plane(inputs)
    norm, aligned = t.operator_norm(), t.beta * t.alignment
    return {
        "mean_norm": norm.mean(1),
        "largest_norm": norm.amax(1),
        "mean_log_norm": norm.log().mean(1),
        "mean_alignment": aligned.mean(1),
        "contracting": ((aligned > 0) & (aligned < 2)).to(norm).mean(1),
    }


def _written(inputs: QDeltaInputs) -> tuple[Float[Tensor, "B T H"], Float[Tensor, "B H K V"]]:
    """Return ||v - alpha S x|| before every write, and the last state: the chunk form without its outputs.

    A token writes u = beta (v - alpha S x). Where beta is 0 it is given a value that changes no digit of the state.
    """
    given: dict[str, Any] = inputs.with_beta(inputs.beta.clamp(min=1e-20)).arguments()
    a = check_arguments(**given)
    layout, H = chunk_layout(a, _CHUNK), a.q.shape[2]
    h, written = state_in(a.state, H), torch.empty_like(a.beta)
    for block in blocks(layout, a.q, a.v):
        c = prepare_chunks(layout, block, a.q, a.k, a.v, a.g, a.beta, a.lam)
        norms = torch.empty_like(c.beta)
        for chunks, _ in block.steps:
            U = write(c, chunks, c.qk[chunks] @ h)
            norms[chunks] = U.norm(dim=-1)
            h = carry(c, chunks, h, U)
        layout.scatter(norms.flatten(1, 2)[..., None], block, written[..., None])
    return written / a.beta, state_out(h, a.groups)


def _in_the_plane(inputs: QDeltaInputs) -> Transition:
    """Turn each q and k into the plane of the first two axes: heads that share them need not look at all K again."""
    q, k = inputs.q.to(inputs.g.dtype), inputs.k.to(inputs.g.dtype)  # as the recurrence has them
    if inputs.K > 2:
        size = k.norm(dim=-1, keepdim=True)
        along = (q * k).sum(-1, keepdim=True) / torch.where(size > 0, size, 1)
        across = (q - along / torch.where(size > 0, size, 1) * k).norm(dim=-1, keepdim=True)
        q, k = torch.cat([along, across], dim=-1), torch.cat([size, torch.zeros_like(size)], dim=-1)
    groups = inputs.H // q.shape[2]
    q, k = q.repeat_interleave(groups, dim=2), k.repeat_interleave(groups, dim=2)
    return Transition(k, q, inputs.beta, inputs.lam, inputs.alpha)


def growth(inputs: QDeltaInputs) -> Mapping[str, Any]:
    """Estimate the top Lyapunov exponent of the transitions, nats per token, and its standard error."""
    from ..products import top_lyapunov_exponent

    found = top_lyapunov_exponent(inputs)
    return {name: found[name].values for name in ("lyapunov_exponent", "standard_error")}


MEASURES: dict[str, Measure] = {
    "error": error,
    "memory": memory,
    "recall": recall,
    "transition": transition,
    "growth": growth,
}
