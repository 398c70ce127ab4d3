"""QDeltaInputs: the q, k, v, g, beta and lam of one stretch of tokens, validated, and their file format."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, SupportsIndex

import numpy as np
import torch
from torch import Tensor

from qdelta_kernels import qdelta_rule
from qdelta_kernels.arguments import check_arguments
from qdelta_kernels.autocast import outside_autocast

from .checks import places, plain, require_count
from .files import read_tensors, write_tensors
from .transition import Transition

_FORMAT = {"format": "qdelta-inputs", "format_version": "1"}
_TENSORS = ("q", "k", "v", "g", "beta", "lam", "initial_state")
_RANGES = {"g": (float("-inf"), 0.0), "beta": (0.0, 2.0), "lam": (0.0, 2.0)}

Array = Tensor | np.ndarray


@dataclass(frozen=True, eq=False, init=False, repr=False)
class QDeltaInputs:
    """What the recurrence reads at every token, for B sequences of T tokens.

        S_t = alpha_t S_{t-1} (I - beta_t x_t k_t^T) + beta_t v_t k_t^T,    x_t = k_t + lam_t q_t

    q, k [B, T, H, K]; v [B, T, HV, V]; g = log alpha <= 0, beta in [0, 2] and lam in [0, 2], each [B, T, HV]
    (None is 0); initial_state [B, HV, K, V], S transposed (None is 0). NumPy arrays become tensors. The fields
    cannot be set again, and the methods return new objects that share memory: leave the tensors' contents alone.

    Raises TypeError or ValueError, in one sentence that names the argument, for a wrong shape, dtype or value.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    g: Tensor
    beta: Tensor
    lam: Tensor
    initial_state: Tensor | None
    metadata: Mapping[str, str]

    def __init__(
        self,
        q: Array,
        k: Array,
        v: Array,
        g: Array | None,
        beta: Array,
        lam: Array | None,
        initial_state: Array | None = None,
        metadata: Mapping[str, str] = MappingProxyType({}),
    ):
        raw = zip(_TENSORS, (q, k, v, g, beta, lam, initial_state), strict=True)
        given: dict[str, Any] = {name: x if x is None else torch.as_tensor(x).detach() for name, x in raw}
        checked = check_arguments(**given)
        for name, (low, high) in _RANGES.items():
            value = given[name] = getattr(checked, name)
            if value.numel() and not (low <= value.min() and value.max() <= high):
                found = f"[{value.min():g}, {value.max():g}]"
                raise ValueError(f"{name} has values in {found}; expected values in [{low:g}, {high:g}].")
        if not all(isinstance(x, str) for pair in metadata.items() for x in pair):
            raise TypeError(f"metadata is {dict(metadata)!r}; expected strings under strings.")
        for name, value in given.items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "metadata", MappingProxyType(dict(metadata)))

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name}={getattr(self, name)}" for name in "BTHKV")
        return f"QDeltaInputs({sizes}, {str(self.q.dtype).removeprefix('torch.')}, {self.metadata.get('source', '?')})"

    @property
    def B(self) -> int:
        """Sequences."""
        return self.q.shape[0]

    @property
    def T(self) -> int:
        """Tokens in each sequence."""
        return self.q.shape[1]

    @property
    def H(self) -> int:
        """Value heads, the heads of the memory."""
        return self.v.shape[2]

    @property
    def K(self) -> int:
        """Width of a key."""
        return self.q.shape[3]

    @property
    def V(self) -> int:
        """Width of a value."""
        return self.v.shape[3]

    @property
    def alpha(self) -> Tensor:
        """Decay exp(g), [B, T, H]."""
        return self.g.exp()

    def with_lam(self, lam: float | Tensor) -> QDeltaInputs:
        """Replace the query feedback by a number or by values that broadcast to [B, T, H]."""
        return replace(self, lam=self._gate("lam", lam))

    def with_beta(self, beta: float | Tensor) -> QDeltaInputs:
        """Replace the write strength by a number or by values that broadcast to [B, T, H]."""
        return replace(self, beta=self._gate("beta", beta))

    def with_alpha(self, alpha: float | Tensor) -> QDeltaInputs:
        """Replace the decay alpha, in (0, 1], by a number or by values that broadcast to [B, T, H]."""
        # Close to 1 a float32 alpha would leave little of its logarithm.
        gate = self._gate("alpha", alpha, torch.float64)
        if not (gate > 0).all():
            raise ValueError(f"alpha is as low as {gate.min():g}; expected values in (0, 1].")
        return replace(self, g=gate.log().to(self.g.dtype))

    def with_norm_compensation(self) -> QDeltaInputs:
        """Let every step also forget what it could expand: g_t - log s_t, s_t the norm of I - beta_t x_t k_t^T.

        Then ||A_t|| = alpha_t exactly, as in Gated DeltaNet, up to the rounding of g, which is computed in float64 and
        kept in float32 or float64 as it was; for K >= 2. Source: this project's theory (claim G14).
        """
        t = self._transition(torch.float64)
        expansion = Transition(t.k, t.q, t.beta, t.lam).operator_norm()
        # For K >= 2 the norm is at least 1; where it is 1, rounding may leave it just below.
        g = self.g.double() - expansion.log().clamp(min=0)
        return replace(self, g=g.to(self.g.dtype))

    def with_metadata(self, **metadata: str) -> QDeltaInputs:
        """Add to what is known of where these inputs came from."""
        return replace(self, metadata={**self.metadata, **metadata})

    def heads(self, heads: SupportsIndex | Iterable[SupportsIndex] | slice) -> QDeltaInputs:
        """Keep some value heads, in this order, each with the q and k that it reads with; -1 is the last.

        Raises ValueError for a head that is not there, or none at all.
        """
        chosen = torch.tensor(places("heads", heads, self.H), device=self.q.device)
        shared = chosen // (self.H // self.q.shape[2])
        state = None if self.initial_state is None else self.initial_state[:, chosen]
        q, k = self.q[:, :, shared], self.k[:, :, shared]
        v, g, beta, lam = (x[:, :, chosen] for x in (self.v, self.g, self.beta, self.lam))
        return replace(self, q=q, k=k, v=v, g=g, beta=beta, lam=lam, initial_state=state)

    @outside_autocast
    def tokens(self, start: SupportsIndex, stop: SupportsIndex | None = None) -> QDeltaInputs:
        """Keep tokens start to stop - 1; the memory left by the tokens before them becomes the initial state.

        Both count from the end where they are negative; stop None is T, and with stop = start no token is left.
        Raises ValueError for a place outside -T to T, or a stop before the start.
        """
        T, start, stop = self.T, plain(start), plain(stop)
        for name, at in (("start", start), ("stop", T if stop is None else stop)):
            require_count(name, at, -T, T)
        first, end, _ = slice(start, stop).indices(T)
        if end < first:
            raise ValueError(f"stop is {stop!r}, before start {start!r} of {T} tokens; expected a later place.")
        state = self.initial_state
        if first > 0:
            past = [getattr(self, name)[:, :first] for name in _TENSORS[:6]]
            _, state = qdelta_rule(*past, initial_state=state, output_final_state=True)
        kept = {name: getattr(self, name)[:, first:end] for name in _TENSORS[:6]}
        return replace(self, **kept, initial_state=state)

    def to(self, *args, **kwargs) -> QDeltaInputs:
        """Convert every tensor as torch.Tensor.to does (dtype, device)."""
        tensors = {name: getattr(self, name) for name in _TENSORS}
        return replace(self, **{name: x.to(*args, **kwargs) for name, x in tensors.items() if x is not None})

    def wide(self) -> QDeltaInputs:
        """Return the same in the one dtype that the recurrence computes with: float64 where q is, else float32."""
        return self.to(torch.float64 if self.q.dtype == torch.float64 else torch.float32)

    def arguments(self) -> dict[str, Any]:
        """Return the keyword arguments for `qdelta_rule`."""
        return {name: getattr(self, name) for name in _TENSORS}

    def transition(self) -> Transition:
        """Return the transitions of every token and value head, batch shape [B, T, H].

        In the dtype that the recurrence is computed in: float64 for float64, else float32.
        """
        return self._transition(self.g.dtype)

    def save(self, path: str | os.PathLike) -> None:
        """Write a safetensors file with the metadata; a file that was there is replaced only by a complete one.

        Raises OSError, or ValueError for what is no path, in one sentence that names it.
        """
        tensors = {name: x.contiguous() for name, x in self.arguments().items() if x is not None}
        write_tensors(path, tensors, {**self.metadata, **_FORMAT})

    @classmethod
    def load(cls, path: str | os.PathLike) -> QDeltaInputs:
        """Read what `save` wrote.

        Raises FileNotFoundError, or ValueError or TypeError for a file that is no such file, naming the path.
        """
        tensors, metadata = read_tensors(path, "a file written by QDeltaInputs.save")
        found = {name: metadata.pop(name, None) for name in _FORMAT}
        if found != _FORMAT or not set(_TENSORS[:6]) <= set(tensors) <= set(_TENSORS):
            raise ValueError(
                f"{path} holds {sorted(tensors)} in format {found['format']} {found['format_version']}; "
                f"expected q, k, v, g, beta, lam in format {' '.join(_FORMAT.values())}."
            )
        try:
            return cls(**tensors, metadata=metadata)
        except (ValueError, TypeError) as error:
            raise type(error)(f"{path}: {error}") from error

    def _transition(self, dtype: torch.dtype) -> Transition:
        groups = self.H // self.q.shape[2]
        q, k = self.q.to(dtype), self.k.to(dtype)
        if groups > 1:
            q, k = q.repeat_interleave(groups, dim=2), k.repeat_interleave(groups, dim=2)
        return Transition(k, q, self.beta, self.lam, self.g.to(dtype).exp())

    def _gate(self, name: str, value: float | Array, dtype: torch.dtype | None = None) -> Tensor:
        given = getattr(value, "dtype", type(value).__name__)
        try:
            if torch.as_tensor(value).is_complex():
                raise TypeError
            value = torch.as_tensor(value, dtype=dtype or self.beta.dtype, device=self.beta.device)
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(f"{name} is of type {given}; expected a real number, or an array of them.") from None
        try:
            return value.expand(self.beta.shape)
        except RuntimeError:
            raise ValueError(
                f"{name} has shape {list(value.shape)}; expected one that broadcasts to {list(self.beta.shape)}."
            ) from None
