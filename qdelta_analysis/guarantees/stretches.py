"""A few stretches of tokens followed one by one in float64: what the closed forms and the chunk form are held to."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qdelta_kernels import chunk_qdelta_rule
from qdelta_kernels.decay import chunk_decay, sums_between
from qdelta_kernels.diagnostics import length

from ..inputs import QDeltaInputs

# The chunks of the trace, which the stretches coincide with.
CHUNK = 64
# How many elements of states all steps together may touch, and how many stretches there are at most.
_WORK, _MOST = 1 << 24, 8
_ROUNDING, _SUBNORMAL = 1e-13, 1e-307
# Below these sizes products leave the range of what the memory is followed in.
_UNDERFLOW = {torch.float32: 1e-30, torch.float64: 1e-290}
_ODD_CHUNK = 23
# What the trace says of every token, and the loop too.
TRACED = ("error_before", "error_after", "key_retrieval", "query_prediction", "cosine", "state_norm")


@dataclass(frozen=True)
class Stretches:
    """n stretches of L tokens each, every head; float64 unless said otherwise."""

    batch: Tensor  # [n]
    token: Tensor  # [n, L]
    error: Tensor  # [n, L, H]: ||eps||, eps = v - alpha S_{t-1} x, from the state itself
    left: Tensor  # [n, L, H]: ||e||, e = v - S_t x, from the state itself
    residual: Tensor  # [n, L, H]: ||e - (1 - beta a) eps||
    size: Tensor  # [n, L, H]: ||v|| + (1 + beta ||x|| ||k||) ||x|| max ||S||: what rounding here is relative to
    state_norm: Tensor  # [n, L, H]: ||S_t||_F
    largest: Tensor  # [n, L, H]: the largest ||S||_F from the stretch's start on, ||v|| at least
    compensated: Tensor  # [n, L, H]: ||S_t||_F under norm-compensated decay
    compensated_bound: Tensor  # [n, L, H]: alpha ||S_{t-1}||_F + beta ||v|| ||k|| for it
    growth: dict[int, Tensor]  # length -> [n, H]: ||A_1 ... A_length|| of the stretch's first steps
    chunk_error: Tensor  # [n, L, H]: chunk form against this loop in float64, relative to `chunk_size`
    trace_error: Tensor  # [n, L, H]: the trace, in the inputs' dtype, against this loop, relative to `chunk_size`
    chunk_size: Tensor  # [n, L, H]: what rounding in the chunk form is relative to
    inverse: Tensor  # [n, L, H]: over j < i, the largest |T_ij| / bound by the norms of the steps between
    inverse_largest: Tensor  # [n, L, H]: over j < i, the largest |T_ij|
    inverse_unit: Tensor  # [n, L, H]: over j < i, the largest |T_ij| / ((1 + L) (1 + L^2)^((i - j - 1) / 2))


def pick_stretches(inputs: QDeltaInputs, norm: Tensor, seed: int) -> tuple[list[int], list[int], int]:
    """Choose sequences, starts and the length: the first chunk, the most expanding step's, the last, and others.

    They start where the trace's chunks do: what enters is then what the trace itself went on from.
    """
    x = inputs
    length = min(x.T, CHUNK)
    most = max(2, min(_MOST, _WORK // (length * x.H * x.K * max(x.K, x.V))))
    last = (x.T - length) // CHUNK
    draw = torch.Generator().manual_seed(seed)
    b, t = divmod(int(norm.amax(-1).nan_to_num(nan=0.0).argmax()), x.T)
    random = torch.stack([torch.randint(n, (most,), generator=draw) for n in (x.B, last + 1)], dim=1)
    wanted = [(0, 0), (b, min(t // CHUNK, last)), (x.B - 1, last), *map(tuple, random.tolist())]
    chosen = list(dict.fromkeys(wanted))[:most]
    return [b for b, _ in chosen], [chunk * CHUNK for _, chunk in chosen], length


@dataclass(frozen=True)
class _Tokens:
    """The stretches' tokens, [n, L, H, .] in float64, and the state that enters, [n, H, K, V]."""

    q: Tensor
    k: Tensor
    v: Tensor
    g: Tensor
    beta: Tensor
    lam: Tensor
    norm: Tensor  # s+
    state: Tensor

    @property
    def x(self) -> Tensor:
        return self.k + self.lam[..., None] * self.q


def follow_stretches(
    inputs: QDeltaInputs, batch: Tensor, token: Tensor, state: Tensor, norm: Tensor, trace: dict[str, Tensor]
) -> Stretches:
    """Follow stretches through the recurrence, and compare: with the chunk form, with the trace, with bounds.

    batch [n] and token [n, L] say where; state [n, H, K, V] enters; norm, s+, and the trace's errors and state
    norm are [B, T, H].
    """
    cut = lambda x: x[batch[:, None], token].double()
    groups = inputs.H // inputs.q.shape[2]
    q, k = (cut(x).repeat_interleave(groups, dim=2) for x in (inputs.q, inputs.k))
    g, beta, lam = (cut(x) for x in (inputs.g, inputs.beta, inputs.lam))
    tokens = _Tokens(q, k, cut(inputs.v), g, beta, lam, cut(norm), state)
    found = _follow(tokens)
    inverse, amplified = _inverse(tokens)
    before = (token[:, :1] - torch.arange(1, CHUNK + 1)).clamp(min=0)
    earlier = trace["state_norm"][batch[:, None], before].double()
    memory = torch.maximum(found.largest, earlier.where(earlier.isfinite(), 0).amax(1)[:, None])
    size = _chunk_size(tokens, memory, amplified)
    compared = _compare(tokens, found, {name: x[batch[:, None], token] for name, x in trace.items()}, size, memory)
    bounds = _compensated(tokens) | inverse
    return Stretches(batch=batch, token=token, **found.kept(), **compared, **bounds, growth=_growth(tokens))


@dataclass(frozen=True)
class _Followed:
    error: Tensor
    left: Tensor
    residual: Tensor
    size: Tensor
    state_norm: Tensor
    largest: Tensor
    key_retrieval: Tensor
    query_prediction: Tensor
    cosine: Tensor
    o: Tensor  # [n, L, H, V]

    def kept(self) -> dict[str, Tensor]:
        names = ("error", "left", "residual", "size", "state_norm", "largest")
        return {name: getattr(self, name) for name in names}


def _norm(x: Tensor) -> Tensor:
    return length(x)[0]


def _follow(tokens: _Tokens) -> _Followed:
    """S_t = alpha S_{t-1} + beta (v - alpha S_{t-1} x) k^T, and the errors from S itself."""
    x, alpha = tokens.x, tokens.g.exp()
    factor = 1 - torch.linalg.vecdot(tokens.beta[..., None] * x, tokens.k)
    S = tokens.state.mT.clone()
    entering = _norm(S.flatten(-2))
    columns: list[tuple[Tensor, ...]] = []
    for t in range(x.shape[1]):
        found = alpha[:, t, :, None, None] * (S @ torch.stack([tokens.k[:, t], tokens.q[:, t]], dim=-1))
        (key, key_way), (query, query_way) = (length(y) for y in found.unbind(-1))
        before = (key, query, torch.linalg.vecdot(key_way, query_way))
        S, eps = _step(S, x[:, t], tokens.k[:, t], tokens.v[:, t], alpha[:, t], tokens.beta[:, t])
        reads = S @ torch.stack([x[:, t], tokens.q[:, t]], dim=-1)
        e = tokens.v[:, t] - reads[..., 0]
        off = e - factor[:, t, :, None] * eps
        columns.append((_norm(eps), _norm(e), _norm(off), _norm(S.flatten(-2)), *before, reads[..., 1]))
    joined = (torch.stack(column, dim=1) for column in zip(*columns, strict=True))
    error, left, residual, norm, key, query, cosine, o = joined
    v = _norm(tokens.v)
    largest = torch.cat([entering[:, None], torch.maximum(norm, v)], dim=1).cummax(dim=1).values[:, 1:]
    lengths = _norm(x)
    size = v + (1 + tokens.beta * lengths * _norm(tokens.k)) * lengths * largest
    return _Followed(error, left, residual, size, norm, largest, key, query, cosine, o)


def _step(S: Tensor, x: Tensor, k: Tensor, v: Tensor, alpha: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
    """One token: the state [n, H, V, K] after it, and eps = v - alpha S x [n, H, V]."""
    S = alpha[..., None, None] * S
    eps = v - (S @ x[..., None])[..., 0]
    return S + (beta[..., None] * eps)[..., None] * k[..., None, :], eps


def _chunk_size(tokens: _Tokens, memory: Tensor, amplified: Tensor) -> Tensor:
    """What rounding errors of the chunk form are relative to: ||v|| + (||k|| + lam ||q||) ||S||, with what sums add.

    It reads the memory at k and at q, which may cancel in x. And the memory may since have shrunk: a chunk's
    errors are those of the largest state in it and in the one before.
    """
    running = lambda y: y.cummax(dim=1).values
    q, k, v = (_norm(y) for y in (tokens.q, tokens.k, tokens.v))
    return running(amplified) * (running(v) + running(k + tokens.lam * q) * memory)


def _compare(
    tokens: _Tokens, found: _Followed, trace: dict[str, Tensor], size: Tensor, memory: Tensor
) -> dict[str, Tensor]:
    """Hold the chunk form, in float64 and with an odd chunk size, and the trace to the loop.

    `size` is what rounding errors of what is read are relative to; those of ||S|| are to `memory` too.
    """
    t = tokens
    o, _ = chunk_qdelta_rule(t.q, t.k, t.v, t.g, t.beta, t.lam, scale=1.0, initial_state=t.state, chunk_size=_ODD_CHUNK)
    relative = lambda y, to, dtype: y.abs() / (to + _UNDERFLOW[dtype])
    dtype = trace["state_norm"].dtype
    over = lambda size, y: size / y.clamp(min=_SUBNORMAL)
    at_key, read = (torch.maximum(size, memory) * _norm(y) for y in (t.k, t.q))
    trace = {name: x.double() for name, x in trace.items()}
    largest = torch.maximum(size, memory) + _UNDERFLOW[dtype]
    off = [
        relative(trace["error_before"] - found.error, size, dtype),
        # It is |1 - beta a| times the error before the write, rounding included.
        relative(trace["error_after"] - found.left, size * (1 + t.beta * _norm(t.x) * _norm(t.k)), dtype),
        relative(trace["key_retrieval"] - found.key_retrieval, at_key, dtype),
        relative(trace["query_prediction"] - found.query_prediction, read, dtype),
        # An angle is off by what two vectors are off relative to their lengths.
        (trace["cosine"] - found.cosine).abs()
        / (1 + over(at_key, found.key_retrieval) + over(read, found.query_prediction)),
        # The trace follows ||S||^2, so that is where its rounding errors are.
        ((trace["state_norm"] / largest).square() - (found.state_norm / largest).square()).abs(),
    ]
    # Where the memory has left the range of a dtype there is nothing to compare.
    finite = lambda y: y.where(y.isfinite(), torch.nan)
    return {
        "chunk_error": finite(relative(_norm(o - found.o), read, torch.float64)),
        "trace_error": finite(torch.stack(off).amax(0)),
        "chunk_size": size,
    }


def _growth(tokens: _Tokens) -> dict[int, Tensor]:
    """||A_1 ... A_m|| for two lengths m: the product by the recurrence itself, with S_0 = I and nothing written."""
    n, L, H, K = tokens.k.shape
    alpha, x = tokens.g.exp(), tokens.x
    P = torch.eye(K, dtype=torch.float64).expand(n, H, K, K)
    nothing = torch.zeros(n, H, K, dtype=torch.float64)
    found = {}
    for t in range(L):
        P, _ = _step(P, x[:, t], tokens.k[:, t], nothing, alpha[:, t], tokens.beta[:, t])
        if t + 1 in (2, L):
            ok = P.isfinite().all(-1).all(-1)
            norm = torch.linalg.matrix_norm(P.where(ok[..., None, None], 0), ord=2)
            found[t + 1] = norm.where(ok, torch.nan)
    return found


def _compensated(tokens: _Tokens) -> dict[str, Tensor]:
    """The memory when alpha' = alpha / s+ pays for each step's expansion."""
    alpha, x = tokens.g.exp(), tokens.x
    paid = alpha / tokens.norm.where(tokens.norm > 0, 1)
    S = tokens.state.mT.clone()
    written = tokens.beta * _norm(tokens.v) * _norm(tokens.k)
    norms, bounds = [], []
    for t in range(x.shape[1]):
        bounds.append(alpha[:, t] * _norm(S.flatten(-2)) + written[:, t])
        S, _ = _step(S, x[:, t], tokens.k[:, t], tokens.v[:, t], paid[:, t], tokens.beta[:, t])
        norms.append(_norm(S.flatten(-2)))
    return {"compensated": torch.stack(norms, dim=1), "compensated_bound": torch.stack(bounds, dim=1)}


def _inverse(tokens: _Tokens) -> tuple[dict[str, Tensor], Tensor]:
    """T = (I + L)^-1 of each stretch, and |T_ij| <= beta_i alpha_i ||k_j|| ||x_i|| prod ||A_m||, j < m < i.

    Besides: by how much the two sums of the chunk form, over T and over the products x.k, can amplify, [n, L, H].
    """
    L = tokens.k.shape[1]
    heads = lambda x: x.transpose(1, 2)  # [n, L, H, .] -> [n, H, L, .]
    x, k, q = (heads(y) for y in (tokens.x, tokens.k, tokens.q))
    beta, lam, g = (heads(y) for y in (tokens.beta, tokens.lam, tokens.g))
    later = torch.ones(L, L, dtype=torch.bool).triu(0)
    decay = chunk_decay(g)[0].masked_fill(later, 0)
    strict = decay * (beta[..., None] * (x @ k.mT))
    T = torch.linalg.solve_triangular(strict, torch.eye(L, dtype=x.dtype), upper=False, unitriangular=True).abs()
    # A step of norm 0 (one dimension, beta a = 1) has no logarithm; a tiny norm instead only raises the bound.
    steps = sums_between(g + heads(tokens.norm).clamp(min=1e-300).log())
    between = torch.nn.functional.pad(steps[..., :-1, :], (0, 0, 1, 0))  # of j < m < i
    first = (beta * _norm(x)).log() + g
    bound = first[..., :, None] + between + _norm(k).log()[..., None, :]
    # The stretch's own L, so that the closed bound is as sharp as it can be.
    top = lam.amax(-1)[..., None, None]
    age = torch.arange(L)[:, None] - torch.arange(L) - 1
    closed = (1 + top).log() + age / 2 * (1 + top.square()).log()
    # What rounding left in the solution is not held to a bound that may be far smaller.
    carried = T @ (torch.eye(L, dtype=x.dtype) + strict.abs()) @ T  # times 2^-53: what a solution's rounding errors are
    rounding = _ROUNDING * carried + _SUBNORMAL * (T.sum(-1)[..., :, None] * T.sum(-2)[..., None, :])
    sure = (T - rounding.nan_to_num(nan=torch.inf, posinf=torch.inf)).clamp(min=0)
    sure = sure.masked_fill(later, 0)
    over = lambda limit: torch.where(sure > 0, sure.log() - limit, -torch.inf).amax(-1).exp()
    read = decay * ((k @ k.mT).abs() + lam[..., None] * (q @ k.mT).abs())
    solved = torch.maximum(T.sum(-1), carried.sum(-1) / 100)  # the second where steps expand a thousandfold
    amplified = (solved.cummax(-1).values * (1 + read.sum(-1))).transpose(1, 2)
    return {
        "inverse": over(bound).transpose(1, 2),
        "inverse_unit": over(closed).transpose(1, 2),
        "inverse_largest": T.masked_fill(later, 0).amax(-1).transpose(1, 2),
    }, amplified
