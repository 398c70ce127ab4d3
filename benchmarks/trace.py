"""What following the memory costs: trace() against the plain forward pass on the same inputs."""

from __future__ import annotations

import torch
from torch.nn.functional import logsigmoid, normalize

from qdelta_analysis import QDeltaInputs, trace
from qdelta_kernels import chunk_qdelta_rule

from .report import Figure, among_others, timing
from .timing import interleaved

TITLE = "trace() in float32, B = 1, H = 8, K = V = 128 (T = 16384 unless --quick)"
SNAPSHOTS = 64


def measure(quick: bool = False) -> list[Figure]:
    """Check the trace against the plain forward pass and LAPACK in float64, then time them in turn."""
    T, repeats = (1024, 3) if quick else (16384, 9)
    inputs = _inputs(T)
    _check(inputs)
    times = interleaved(
        {
            "forward": lambda: chunk_qdelta_rule(**inputs.arguments()),
            "bare": lambda: trace(inputs, snapshots=0),
            "usual": lambda: trace(inputs),
            "full": lambda: trace(inputs, snapshots=SNAPSHOTS),
        },
        repeats,
    )
    figures = [
        timing("chunk_qdelta_rule", times.seconds["forward"]),
        timing("trace(snapshots=0)", times.seconds["bare"]),
        timing("trace()", times.seconds["usual"]),
        timing(f"trace(snapshots={SNAPSHOTS})", times.seconds["full"]),
        Figure("trace(snapshots=0) / forward", times.ratio("bare", "forward"), "x"),
        Figure("trace() / forward", times.ratio("usual", "forward"), "x", at_most=2.0),
        Figure(f"trace(snapshots={SNAPSHOTS}) / forward", times.ratio("full", "forward"), "x", at_most=2.0),
    ]
    return among_others(figures, times.others, "this")


def _inputs(T: int) -> QDeltaInputs:
    draw = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, T, 8, 128, generator=draw).unbind()
    decay, write, feedback = torch.randn(3, 1, T, 8, generator=draw).unbind()
    return QDeltaInputs(
        q=normalize(q, dim=-1),
        k=normalize(k, dim=-1),
        v=v,
        g=logsigmoid(decay + 3),
        beta=write.sigmoid(),
        lam=2 * feedback.sigmoid(),
    )


def _check(inputs: QDeltaInputs) -> None:
    """Raise AssertionError unless the trace ends in the forward pass's state and knows its norm and spectrum."""
    found = trace(inputs, snapshots=SNAPSHOTS).isel(snapshot=-1)
    state = chunk_qdelta_rule(**inputs.arguments(), output_final_state=True)[1]
    assert state is not None
    S = state.mT.double()
    last = found.isel(time=-1)
    for name, expected in {
        "state": S,
        "singular_values": torch.linalg.svdvals(S),
        "state_norm": S.norm(dim=(-2, -1)),
        "error_after": (inputs.v[:, -1].double() - _read(S, inputs)).norm(dim=-1),
    }.items():
        error = float((torch.as_tensor(last[name].values) - expected).norm() / expected.norm())
        assert error < 5e-6, f"{name} differs by {error:.1e}"


def _read(S: torch.Tensor, inputs: QDeltaInputs) -> torch.Tensor:
    """S x at the last token."""
    return (S @ inputs.transition().x[:, -1, :, :, None].double())[..., 0]
