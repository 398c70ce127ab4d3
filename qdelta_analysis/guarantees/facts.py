"""What the checks read of some inputs: each quantity computed once, when first asked for, block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from qdelta_kernels import Diagnostics, chunk_qdelta_diagnostics
from qdelta_kernels.diagnostics import length

from ..inputs import QDeltaInputs
from ..threads import all_threads
from ..transition import Transition
from .samples import Samples, draw_samples
from .statistics import TokenSample, draw_tokens
from .stretches import CHUNK, TRACED, Stretches, follow_stretches, pick_stretches

# Elements of one block of q in float64: a few of them stay in the cache together.
_BLOCK_ELEMENTS = 1 << 18
# float32 normalisation leaves lengths wrong by about 1e-7, one with an epsilon of 1e-6 by up to 5e-6.
_UNIT = 1e-5
_ALGEBRA = 1e-12

Found = TypeVar("Found")


@dataclass(frozen=True)
class Worst:
    """Per head the token at which something is worst: its value, what it may be, and where; all [H]."""

    value: Tensor
    tolerance: Tensor
    batch: Tensor
    token: Tensor  # -1: no token


@dataclass(frozen=True)
class Tolerances:
    """What rounding may do, and so what is let pass."""

    unit: float  # ||q|| - 1 of a vector in the unit ball, | ||q|| - 1 | of a unit vector
    recurrence: float  # of what the chunk form computes in the inputs' dtype, relative to the memory's size
    algebra: float  # of float64 algebra on the inputs as they are, relative


@dataclass(frozen=True)
class Gates:
    """beta, lam and alpha in float64, [B, T, H]."""

    beta: Tensor
    lam: Tensor
    alpha: Tensor


@dataclass(frozen=True)
class Geometry:
    """Products of every token's vectors, and its closed forms at alpha = 1; float64, [B, T, H].

    The products are taken from the vectors directly; `alignment` and `norm` are those of `Transition`.
    """

    kk: Tensor  # ||k||^2
    qq: Tensor  # ||q||^2
    xk: Tensor  # x.k
    xx: Tensor  # ||x||^2
    alignment: Tensor  # a, closed form
    norm: Tensor  # s+, closed form

    @property
    def across2(self) -> Tensor:
        """||k||^2 ||x||^2 - (x.k)^2, which rounding may not turn negative."""
        return (self.kk * self.xx - self.xk.square()).clamp(min=0)


@dataclass(frozen=True)
class Trace:
    """What one pass over the tokens in the inputs' dtype says of the memory, [B, T, H]."""

    error_before: Tensor
    error_after: Tensor
    key_retrieval: Tensor
    query_prediction: Tensor
    cosine: Tensor
    state_norm: Tensor
    drift: Tensor  # ||r_t||, r_t = eps_t - e_{t-1}; 0 at the first token, NaN after and at beta = 0


class Facts:
    """Shared by all checks of one QDeltaInputs; nothing is computed before it is asked for. seed: of the samples."""

    def __init__(self, inputs: QDeltaInputs, seed: int = 0):
        self.inputs = inputs if inputs.q.device.type == "cpu" else inputs.to("cpu")
        self.seed = seed
        self.tested: dict[Any, Any] = {}  # hypothesis -> what was found of it
        self._found: dict[Callable[[Facts], Any], Any] = {}

    def find(self, function: Callable[[Facts], Found]) -> Found:
        """Return what a function says of these facts, asked once: at_token reads what the checks read."""
        if function not in self._found:
            self._found[function] = function(self)
        return self._found[function]

    @property
    def shape(self) -> tuple[int, int, int]:
        """[B, T, H]."""
        return self.inputs.B, self.inputs.T, self.inputs.H

    @property
    def d(self) -> int:
        """Width of a key."""
        return self.inputs.K

    @cached_property
    def tolerances(self) -> Tolerances:
        """By the inputs' dtype."""
        dtype = self.inputs.q.dtype
        computed = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
        return Tolerances(max(_UNIT, torch.finfo(dtype).eps), 64 * computed, _ALGEBRA)

    @cached_property
    def gates(self) -> Gates:
        """The gates in float64."""
        x = self.inputs
        return Gates(x.beta.double(), x.lam.double(), x.g.double().exp())

    def blocks(self) -> Iterator[slice]:
        """Cut the tokens into blocks that fit the caches."""
        B, T, H = self.shape
        step = max(1, _BLOCK_ELEMENTS // (B * H * self.d))
        return (slice(start, min(start + step, T)) for start in range(0, T, step))

    def vectors(self, at: slice) -> tuple[Tensor, Tensor]:
        """Return q and k of some tokens for every value head, float64, [B, t, H, K]."""
        groups = self.inputs.H // self.inputs.q.shape[2]
        q, k = (x[:, at].double() for x in (self.inputs.q, self.inputs.k))
        return (q, k) if groups == 1 else (q.repeat_interleave(groups, dim=2), k.repeat_interleave(groups, dim=2))

    @cached_property
    def geometry(self) -> Geometry:
        """One pass over q and k."""
        gates = self.gates
        found = Geometry(*(torch.empty(self.shape, dtype=torch.float64) for _ in range(6)))
        for at in self.blocks():
            q, k = self.vectors(at)
            t = Transition(k, q, gates.beta[:, at], gates.lam[:, at])
            x = t.x
            found.kk[:, at], found.qq[:, at] = _dot(k, k), _dot(q, q)
            found.xk[:, at], found.xx[:, at] = _dot(x, k), _dot(x, x)
            found.alignment[:, at], found.norm[:, at] = t.alignment, t.operator_norm()
        return found

    @cached_property
    def beta_a(self) -> Tensor:
        """beta a with a = x.k from the vectors, [B, T, H]."""
        return self.gates.beta * self.geometry.xk

    @cached_property
    def value_length(self) -> Tensor:
        """||v||, [B, T, H], float64."""
        found = torch.empty(self.shape, dtype=torch.float64)
        for at in self.blocks():
            found[:, at] = length(self.inputs.v[:, at].double())[0]
        return found

    @cached_property
    def plane_size2(self) -> Tensor:
        """||M||_F^2 of the 2 x 2 matrix M of I - beta x k^T in the plane of k and x, [B, T, H].

        In the basis (k / ||k||, across) M is [[1 - beta a, 0], [-beta ||k|| x_across, 1]]; in one dimension 1 - beta a.
        """
        line = (1 - self.beta_a).square()
        return line if self.d == 1 else line + self.gates.beta.square() * self.geometry.across2 + 1

    @cached_property
    def off_unit(self) -> Tensor:
        """max(| ||q|| - 1 |, | ||k|| - 1 |), [B, T, H]."""
        return torch.maximum((self.geometry.qq.sqrt() - 1).abs(), (self.geometry.kk.sqrt() - 1).abs())

    @cached_property
    def beyond_unit(self) -> Tensor:
        """max(||q||, ||k||) - 1, [B, T, H]: at most 0 in the unit ball."""
        return torch.maximum(self.geometry.qq, self.geometry.kk).sqrt() - 1

    @cached_property
    def unit_slack(self) -> Tensor:
        """[H]: what lengths beyond 1 by delta, where that still counts as the unit ball, add to a bound for the ball.

        beta a and ||A|| / alpha move by at most (1 + lam) ((1 + delta)^2 - 1) at beta <= 1.
        """
        counted = self.beyond_unit.where(self.beyond_unit <= self.tolerances.unit, 0)
        delta = self.highest(counted).clamp(min=0)
        return (1 + self.highest(self.gates.lam)) * (2 * delta + delta.square()) + self.tolerances.algebra

    @cached_property
    def _picked(self) -> tuple[list[int], list[int], int]:
        return pick_stretches(self.inputs, self.geometry.norm, self.seed)

    @cached_property
    def _passed(self) -> tuple[Trace, list[Tensor]]:
        """The one pass over the memory; the updates [B, T, H, V] are let go as soon as the drift is known.

        Besides the trace, the states that enter the stretches.
        """
        batch, start, _ = self._picked
        at = sorted({s - 1 for s in start if s > 0})
        with all_threads():
            found = chunk_qdelta_diagnostics(**self.inputs.arguments(), at=at, keep_updates=True, chunk_size=CHUNK)
        assert found.updates is not None
        trace = Trace(**{name: getattr(found, name) for name in TRACED}, drift=self._drift(found.updates))
        return trace, [self._state(found, b, s, at) for b, s in zip(batch, start, strict=True)]

    @property
    def trace(self) -> Trace:
        """Errors, norms and drift at every token."""
        return self._passed[0]

    @cached_property
    def stretches(self) -> Stretches:
        """A few stretches followed token by token in float64, from the states that enter them."""
        (trace, states), (batch, start, length) = self._passed, self._picked
        usable = [i for i, state in enumerate(states) if state.isfinite().all()]  # the first always is
        where = torch.tensor([(batch[i], start[i]) for i in usable])
        token = where[:, 1:] + torch.arange(length)
        entering = torch.stack([states[i] for i in usable])
        compared = {name: getattr(trace, name) for name in TRACED}
        return follow_stretches(self.inputs, where[:, 0], token, entering, self.geometry.norm, compared)

    @cached_property
    def memory_size(self) -> Tensor:
        """The largest ||S|| at a token and in the 2 chunks before it, [B, T, H], float64: what its rounding is of."""
        norm = self.trace.state_norm.double().nan_to_num().transpose(1, 2)
        padded = torch.nn.functional.pad(norm, (2 * CHUNK, 0))
        return torch.nn.functional.max_pool1d(padded, 2 * CHUNK + 1, stride=1).transpose(1, 2)

    @cached_property
    def samples(self) -> Samples:
        """Dense transitions of a few tokens of each head, the most expanding ones among them."""
        return draw_samples(self.inputs, self.geometry.norm, self.beta_a, self.seed)

    @cached_property
    def tokens(self) -> TokenSample:
        """Many tokens of each head, for statistics."""
        return draw_tokens(self.inputs, self.seed)

    def highest(self, x: Tensor) -> Tensor:
        """[B, T, H] -> [H]; -inf without tokens."""
        flat = x.expand(self.shape).reshape(-1, self.inputs.H)
        return flat.amax(0) if len(flat) else flat.new_full((self.inputs.H,), -torch.inf)

    def worst(self, value: Tensor, tolerance: Tensor | float = 0.0) -> Worst:
        """Find where value - tolerance is largest in each head, [B, T, H]; NaN counts only where all are NaN."""
        tolerance = torch.as_tensor(tolerance, dtype=torch.float64).expand(value.shape)
        B, T, _ = value.shape
        token = torch.arange(T).expand(B, T)
        return worst_of(value.double(), tolerance, torch.arange(B)[:, None].expand(B, T), token)

    def everywhere(self, value: Tensor, tolerance: Tensor | float = 0.0) -> Worst:
        """A finding about a head as a whole, [H]."""
        tolerance = torch.as_tensor(tolerance, dtype=torch.float64).expand(value.shape)
        none = torch.full(value.shape, -1)
        return Worst(value.double(), tolerance, none, none)

    def nowhere(self) -> Worst:
        """Nothing could be evaluated."""
        return self.everywhere(torch.full((self.inputs.H,), torch.nan))

    def _state(self, found: Diagnostics, b: int, start: int, at: list[int]) -> Tensor:
        """S^T as it enters a stretch, [H, K, V], float64."""
        if start > 0:
            return found.states[b, at.index(start - 1)].double()
        state, x = self.inputs.initial_state, self.inputs
        return torch.zeros(x.H, x.K, x.V, dtype=torch.float64) if state is None else state[b].double()

    def _drift(self, updates: Tensor) -> Tensor:
        """||eps_t - e_{t-1}|| with eps = u / beta and e = (1 - beta a) eps."""
        found = torch.zeros(self.shape, dtype=torch.float64)
        inverse = (1 / self.gates.beta).where(self.gates.beta > 0, torch.nan)
        left = ((1 - self.beta_a) * inverse)[..., None].to(updates.dtype)
        inverse = inverse[..., None].to(updates.dtype)
        for at in self.blocks():
            here, before = slice(max(at.start, 1), at.stop), slice(max(at.start, 1) - 1, at.stop - 1)
            eps = updates[:, here] * inverse[:, here]
            found[:, here] = length(eps - updates[:, before] * left[:, before])[0].double()
        return found


def worst_of(value: Tensor, tolerance: Tensor, batch: Tensor, token: Tensor) -> Worst:
    """Reduce over all axes but the last, the heads; batch and token, without that axis, say where each stands."""
    H = value.shape[-1]
    flat, allowed = value.reshape(-1, H), tolerance.expand(value.shape).reshape(-1, H)
    if not len(flat):
        none = torch.full((H,), -1)
        return Worst(flat.new_full((H,), torch.nan), flat.new_zeros(H), none, none)
    beyond = (flat - allowed).nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.finfo(flat.dtype).max)
    at = beyond.argmax(0)
    pick = lambda x: x.gather(0, at[None])[0]
    where = [x.reshape(-1)[at] if x.ndim < value.ndim else pick(x.reshape(-1, H)) for x in (batch, token)]
    return Worst(pick(flat), pick(allowed), *where)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return torch.linalg.vecdot(a, b)
