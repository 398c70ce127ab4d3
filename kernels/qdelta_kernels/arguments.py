"""What every operation accepts: checked once, before anything is computed."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# Below this squared norm a q or k counts as zero; the same epsilon as in common L2-norm kernels.
_NORM_EPS = 1e-6

Bounds = tuple[tuple[int, int], ...]
P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Arguments:
    """One call's checked arguments in the dtype it is computed in (float64 for float64 q, float32 otherwise)."""

    q: Tensor  # [B, T, H, K]
    k: Tensor  # [B, T, H, K]
    v: Tensor  # [B, T, HV, V]
    g: Tensor  # [B, T, HV], zeros for g=None
    beta: Tensor  # [B, T, HV]
    lam: Tensor  # [B, T, HV], zeros for lam=None
    state: Tensor  # [N, HV, K, V], zeros for initial_state=None
    scale: float
    bounds: Bounds | None  # (start, end) of each packed sequence
    out_dtype: torch.dtype

    @property
    def groups(self) -> int:
        """How many value heads share one q/k head (HV / H)."""
        return self.v.shape[2] // self.q.shape[2]

    def sequences(self):
        """Yield (q, k, v, g, beta, lam, state) of equal sequences at once, or of each packed one with B = 1."""
        tokens = (self.q, self.k, self.v, self.g, self.beta, self.lam)
        if self.bounds is None:
            yield *tokens, self.state
            return
        for n, (start, end) in enumerate(self.bounds):
            yield *(x[:, start:end] for x in tokens), self.state[n : n + 1]


def l2norm(x: Tensor) -> Tensor:
    """Return x / sqrt(||x||^2 + 1e-6) along the last axis (a zero vector stays zero)."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + _NORM_EPS)


def has_tangents(*tensors: Tensor | None) -> bool:
    """Return whether a forward derivative is being taken along one of these tensors.

    Functions with a backward of their own have none: torch refuses them, or takes it for zero without a word.
    """
    if torch.compiler.is_compiling():
        return False
    return any(isinstance(x, Tensor) and forward_ad.unpack_dual(x).tangent is not None for x in tensors)


def eager_where_packed(function: Callable[P, R]) -> Callable[P, R]:
    """Let calls with cu_seqlens break torch.compile's graphs: where sequences end decides what is computed.

    A graph is traced once, with no values to look at; the same graph for other bounds would give other sequences.
    """
    outside: Any = torch.compiler.disable(function, reason="cu_seqlens decides what is computed")

    @functools.wraps(function)
    def call(*args: P.args, **options: P.kwargs) -> R:
        packed = options.get("cu_seqlens") is not None and torch.compiler.is_compiling()
        return (outside if packed else function)(*args, **options)

    return call


def check_call(
    q, k, v, g, beta, lam, *, scale=None, initial_state=None, cu_seqlens=None, l2norm_qk=False, chunk_size=64
) -> tuple[float, Bounds | None]:
    """Check one call's arguments; return the scale, and the (start, end) of each packed sequence.

    Raises TypeError for what is no float tensor, and ValueError for a wrong shape, dtype, device, value, or
    cu_seqlens; each message names the argument, what came, and what was expected. Values are looked at on the CPU
    only: on a GPU that would cost as much as the computation, and under torch.compile it would break the graph.
    """
    given = {"q": q, "k": k, "v": v, "g": g, "beta": beta, "lam": lam, "initial_state": initial_state}
    _check_tensors(given)
    B, T, K, HV, V = _check_shapes(q, k, v)
    for name in ("g", "beta", "lam"):
        if given[name] is not None:
            _expect(
                given[name].shape == (B, T, HV),
                f"{name} has shape {_shape(given[name])}; expected [B, T, HV] = [{B}, {T}, {HV}]",
            )
    _expect(
        isinstance(chunk_size, int) and chunk_size >= 1,
        f"chunk_size is {chunk_size!r}; expected a whole number of at least 1",
    )
    bounds, N = None, B
    if cu_seqlens is not None:
        _check_cu_seqlens(cu_seqlens, B)
        if not torch.compiler.is_compiling():  # in a graph, the Triton operators read them when they run
            bounds = sequence_bounds(cu_seqlens, T)
        N = cu_seqlens.shape[0] - 1
    if initial_state is not None:
        _expect(
            initial_state.shape == (N, HV, K, V),
            f"initial_state has shape {_shape(initial_state)}; expected [N, HV, K, V] = [{N}, {HV}, {K}, {V}]",
        )
    if q.device.type == "cpu" and not torch.compiler.is_compiling():
        _check_values(given)
    return _check_scale(scale, K), bounds


def check_arguments(
    q, k, v, g, beta, lam, *, scale=None, initial_state=None, cu_seqlens=None, l2norm_qk=False, chunk_size=64
) -> Arguments:
    """Check one call's arguments and bring them to the dtype and defaults that the operations compute with.

    Raises what `check_call` raises.
    """
    scale, bounds = check_call(
        q,
        k,
        v,
        g,
        beta,
        lam,
        scale=scale,
        initial_state=initial_state,
        cu_seqlens=cu_seqlens,
        l2norm_qk=l2norm_qk,
        chunk_size=chunk_size,
    )
    if cu_seqlens is not None and bounds is None:  # traced by what cannot leave its graph for this
        raise RuntimeError(
            "cu_seqlens is given where torch.export traces a graph, and where sequences end decides what is computed; "
            "expected torch.compile, or sequences in rows."
        )
    (B, T, _, K), (HV, V) = q.shape, v.shape[2:]
    N = B if bounds is None else len(bounds)
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    zeros = lambda: q.new_zeros((B, T, HV), dtype=dtype)  # torch.compile refuses one tensor in two places
    q, k = q.to(dtype), k.to(dtype)
    if l2norm_qk:
        q, k = l2norm(q), l2norm(k)
    return Arguments(
        q=q,
        k=k,
        v=v.to(dtype),
        g=zeros() if g is None else g.to(dtype),
        beta=beta.to(dtype),
        lam=zeros() if lam is None else lam.to(dtype),
        state=q.new_zeros((N, HV, K, V)) if initial_state is None else initial_state.to(dtype),
        scale=scale,
        bounds=bounds,
        out_dtype=v.dtype,
    )


def _expect(condition: bool, sentence: str) -> None:
    if not condition:
        raise ValueError(sentence + ".")


def _shape(x: Tensor) -> str:
    return str(list(x.shape))


def _check_tensors(given: dict[str, Tensor | None]) -> None:
    optional = {"g", "lam", "initial_state"}
    for name, x in given.items():
        if x is None and name in optional:
            continue
        if not isinstance(x, Tensor):
            raise TypeError(f"{name} is a {type(x).__name__}; expected a torch.Tensor.")
        if x.dtype not in _FLOATS:
            raise TypeError(f"{name} has dtype {x.dtype}; expected float16, bfloat16, float32 or float64.")
    q = given["q"]
    assert q is not None
    for name, x in given.items():
        if x is not None:
            _expect(x.device == q.device, f"{name} is on device {x.device}; expected {q.device}, where q is")
    for name in ("k", "v"):
        x = given[name]
        assert x is not None
        _expect(x.dtype == q.dtype, f"{name} has dtype {x.dtype}; expected {q.dtype}, the dtype of q")


def _check_shapes(q: Tensor, k: Tensor, v: Tensor) -> tuple[int, int, int, int, int]:
    _expect(q.ndim == 4, f"q has shape {_shape(q)}; expected four axes [B, T, H, K]")
    B, T, H, K = q.shape
    _expect(k.shape == q.shape, f"k has shape {_shape(k)}; expected {_shape(q)}, the shape of q")
    _expect(
        v.ndim == 4 and v.shape[:2] == (B, T),
        f"v has shape {_shape(v)}; expected [B, T, HV, V] with B = {B} and T = {T}",
    )
    HV, V = v.shape[2:]
    _expect(
        min(B, H, K, HV, V) >= 1,
        f"q has shape {_shape(q)} and v {_shape(v)}; expected every axis but T to be at least 1",
    )
    _expect(HV % H == 0, f"v has {HV} heads; expected a multiple of the {H} heads of q and k")
    return B, T, K, HV, V


def _check_scale(scale: float | None, K: int) -> float:
    if scale is None:
        return K**-0.5
    _expect(
        isinstance(scale, int | float) and abs(scale) < float("inf"),
        f"scale is {scale!r}; expected a finite number, or None for K^-0.5",
    )
    return float(scale)


def _check_cu_seqlens(cu_seqlens: Tensor, B: int) -> None:
    if not isinstance(cu_seqlens, Tensor) or cu_seqlens.dtype not in (torch.int32, torch.int64):
        kind = cu_seqlens.dtype if isinstance(cu_seqlens, Tensor) else type(cu_seqlens).__name__
        raise TypeError(f"cu_seqlens is {kind}; expected an int32 or int64 tensor of sequence bounds.")
    _expect(
        cu_seqlens.ndim == 1 and cu_seqlens.shape[0] >= 2,
        f"cu_seqlens has shape {_shape(cu_seqlens)}; expected a vector of at least two sequence bounds",
    )
    _expect(B == 1, f"q has B = {B}; expected B = 1 with cu_seqlens, which packs the sequences along T")


def sequence_bounds(cu_seqlens: Tensor, T: int) -> Bounds:
    """Return the (start, end) of each packed sequence; raises ValueError unless they make up T tokens, in order."""
    ends = cu_seqlens.tolist()
    _expect(
        ends[0] == 0 and ends[-1] == T, f"cu_seqlens is {ends}; expected a vector that starts at 0 and ends at T = {T}"
    )
    pairs = tuple(itertools.pairwise(ends))
    _expect(all(a <= b for a, b in pairs), f"cu_seqlens is {ends}; expected ascending sequence bounds")
    return pairs


def _check_values(given: dict[str, Tensor | None]) -> None:
    for name, x in given.items():
        # A sum is an order of magnitude cheaper than a look at every element; it may overflow, so look again then.
        if x is None or torch.isfinite(x.detach().sum()):
            continue
        wrong, besides = ~torch.isfinite(x), ""
        if name == "g":
            wrong, besides = wrong & (x != -torch.inf), " (or -inf, which forgets everything)"
        if wrong.any():
            bad = wrong.nonzero()[0].tolist()
            raise ValueError(
                f"{name} holds {x[tuple(bad)].item()} at index {bad}; expected finite values only{besides}."
            )
