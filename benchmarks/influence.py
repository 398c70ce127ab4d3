"""The exact influence of every value on every readout: the whole matrix, and one row or column of a long sequence."""

from __future__ import annotations

import torch
from torch.nn.functional import logsigmoid, normalize

from qdelta_analysis import QDeltaInputs, influence

from .report import Figure, among_others, timing
from .timing import interleaved

TITLE = "influence in float32, B = 1, H = 8, K = 64 (T = 2048; rows and columns of T = 65536; smaller with --quick)"


def measure(quick: bool = False) -> list[Figure]:
    """Check M V against the recurrence in float64 and the float32 matrix against that, then time them in turn."""
    T, long, repeats = (512, 4096, 3) if quick else (2048, 65536, 9)
    inputs, stretch = _inputs(T), _inputs(long)
    _check(inputs)
    times = interleaved(
        {
            "o, v_hat and o_hat": lambda: influence.exact(inputs),
            "o": lambda: influence.exact(inputs, of=["o"]),
            "heuristic": lambda: influence.heuristic(inputs),
            "solved": lambda: _solved(inputs),
            "row": lambda: influence.row(stretch, long - 1),
            "column": lambda: influence.column(stretch, 0),
        },
        repeats,
    )
    seconds = times.seconds
    whole = sorted(seconds["o, v_hat and o_hat"])[repeats // 2]
    figures = [
        timing(f"exact, T = {T}: o, v_hat and o_hat", seconds["o, v_hat and o_hat"]),
        timing(f"exact, T = {T}: o", seconds["o"]),
        timing(f"heuristic, T = {T}: o, v_hat and o_hat", seconds["heuristic"]),
        timing(f"the closed form with T x T solves, T = {T}: o", seconds["solved"]),
        Figure("exact: o, v_hat and o_hat", whole, "s", at_most=2.0),
        Figure("the closed form with T x T solves / exact, o alone", times.ratio("solved", "o"), "x"),
        timing(f"the last row, T = {long}", seconds["row"]),
        timing(f"the first column, T = {long}", seconds["column"]),
    ]
    return among_others(figures, times.others, "this")


def _inputs(T: int) -> QDeltaInputs:
    draw = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, T, 8, 64, generator=draw).unbind()
    decay, write, feedback = torch.randn(3, 1, T, 8, generator=draw).unbind()
    gates = (logsigmoid(decay + 3), write.sigmoid(), 2 * feedback.sigmoid())
    return QDeltaInputs(normalize(q, dim=-1), normalize(k, dim=-1), v, *gates)


def _solved(inputs: QDeltaInputs) -> torch.Tensor:
    """M = tril(D Q K^T) (I + L)^-1 diag(beta), with matrices of T x T throughout."""
    q, k, x = (y.transpose(1, 2) for y in (inputs.q, inputs.k, inputs.transition().x))
    G = inputs.g.double().cumsum(1).transpose(1, 2)
    difference = (G[..., :, None] - G[..., None, :]).to(q.dtype)
    later = torch.ones(inputs.T, inputs.T, dtype=torch.bool).triu(1)
    D = difference.masked_fill_(later, -torch.inf).exp_()
    beta = inputs.beta.transpose(1, 2)
    L = (D * (x @ k.mT)).mul_(beta[..., None])
    solved = torch.linalg.solve_triangular(L, D.mul_(q @ k.mT), upper=False, left=False, unitriangular=True)
    return solved.mul_(beta[..., None, :])


def _check(inputs: QDeltaInputs) -> None:
    """Raise AssertionError unless M is exact in float64, and in float32 to its rounding, by each way to it."""
    one = inputs.heads(0).to(torch.float64)
    for name, error in influence.check(one).items():
        assert float(error.max()) < 1e-13, f"{name} is off the recurrence by {float(error.max()):.1e}"
    exact = torch.as_tensor(influence.exact(one, of=["o"]).o.values)
    single = torch.as_tensor(influence.exact(inputs, of=["o"]).o.values)[:, :1].double()
    row = torch.as_tensor(influence.row(inputs, inputs.T - 1, of=["o"]).o.values)[:, :1].double()
    column = torch.as_tensor(influence.column(inputs, 0, of=["o"]).o.values)[:, :1].double()
    for name, found, expected in (
        ("the matrix", single, exact),
        ("the closed form", _solved(inputs)[:, :1].double(), exact),
        ("the last row", row, exact[:, :, -1]),
        ("the first column", column, exact[..., 0]),
    ):
        error = float((found - expected).norm() / expected.norm())
        assert error < 1e-5, f"{name} differs by {error:.1e}"
