"""The closed-form spectrum and norm of a million transitions, against LAPACK's on a sample of them."""

from __future__ import annotations

from functools import partial
from statistics import median

import torch
from torch.nn.functional import normalize

from qdelta_analysis import Transition

from .report import Figure, among_others, timing
from .timing import interleaved

TITLE = "spectra and norms of 1,000,000 transitions, d = 128, float32 (fewer with --quick)"
D = 128
REPEATS = 5


def measure(quick: bool = False) -> list[Figure]:
    """Check the closed forms against float64 LAPACK on the sample, then time both.

    The dense matrices are formed before the clock starts. All closed forms start from a new Transition, which
    keeps what it has computed.
    """
    count, sample = (20_000, 16) if quick else (1_000_000, 128)
    k, q, beta, lam, alpha = _gates(count)
    few = Transition(k[:sample], q[:sample], beta[:sample], lam[:sample], alpha[:sample])
    _check(few)
    dense = few.matrix()

    def compute(*methods: str) -> None:
        t = Transition(k, q, beta, lam, alpha)
        for method in methods:
            getattr(t, method)()  # dropped at once: all the values are as large as k

    closed = {
        f"{first}() + {second}()": partial(compute, first, second)
        for first, second in (
            ("spectral_radius", "operator_norm"),
            ("eigenvalues", "operator_norm"),
            ("eigenvalues", "singular_values"),
        )
    }
    numeric = {name: partial(getattr(torch.linalg, name), dense) for name in ("eigvals", "svdvals")}
    times = interleaved(closed | numeric, REPEATS)
    numeric_seconds = count / sample * sum(median(times.seconds[name]) for name in numeric)
    figures = [
        *(timing(f"{name}, {count:,} transitions", times.seconds[name]) for name in closed),
        *(timing(f"torch.linalg.{name}, {sample} matrices", times.seconds[name]) for name in numeric),
        Figure(f"eigvals + svdvals, scaled to {count:,} matrices", numeric_seconds, "s"),
        *(
            Figure(f"eigvals + svdvals / {name}", numeric_seconds / median(times.seconds[name]), "x", at_least=1000)
            for name in closed
        ),
    ]
    return among_others(figures, times.others, "this")


def _gates(count: int) -> tuple[torch.Tensor, ...]:
    draw = torch.Generator().manual_seed(0)
    k, q = (normalize(torch.randn(count, D, generator=draw), dim=-1) for _ in range(2))
    beta, lam, alpha = torch.rand(3, count, generator=draw).unbind()
    return k, q, 0.1 + 0.9 * beta, 2 * lam, 0.5 + 0.5 * alpha


def _check(t: Transition) -> None:
    """Raise AssertionError unless the closed forms are what LAPACK finds in float64."""
    exact = Transition(*(x.double() for x in (t.k, t.q, t.beta, t.lam, t.alpha))).matrix()
    eigenvalues, singular_values = torch.linalg.eigvals(exact), torch.linalg.svdvals(exact)
    assert eigenvalues.imag.abs().max() < 1e-6, "an eigenvalue is not real"
    pairs = {
        "eigenvalues": (t.eigenvalues().sort().values, eigenvalues.real.sort().values),
        "singular values": (t.singular_values(), singular_values),
        "spectral radius": (t.spectral_radius(), eigenvalues.abs().amax(-1)),
        "operator norm": (t.operator_norm(), singular_values[..., 0]),
    }
    for name, (closed, numeric) in pairs.items():
        error = float((closed.double() - numeric).abs().max())
        assert error < 2e-6, f"{name} differ by {error:.1e} from LAPACK's"
