"""capture(): what a model's delta-rule layers feed to the recurrence, and the proof that it is that."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from qdelta_kernels import qdelta_rule
from qdelta_kernels.autocast import without_autocast

from ..inputs import QDeltaInputs
from .calls import RuleCall
from .sites import Site, choose_layers, intercepted, without_cache

# Random directions in the space of values along which outputs are compared: the recurrence is linear in v, so a
# difference anywhere shows along a random direction with probability 1, at a fraction of a whole replay's cost.
_DIRECTIONS = 4
_CHUNK = 32  # the fastest for so few values
# ||o - replayed|| / ||o|| of a head that sums in this precision may make; TF32 has 10 bits.
_SUMS = {"float64": 1e-10, "float32": 1e-5, "tf32": 5e-3, "float16": 4e-3, "bfloat16": 3e-2}


class CaptureMismatchError(RuntimeError):
    """What was captured does not give the model's own output."""


@dataclass(eq=False)
class Recording:
    """The calls that the layers made, by layer number, each with its output o; a `Handler`."""

    calls: dict[int, list[tuple[RuleCall, Tensor]]] = field(default_factory=dict)

    def before(self, number: int, call: RuleCall) -> RuleCall:
        """Make the call as it came."""
        return call

    def after(self, number: int, call: RuleCall, result: tuple[Tensor, Tensor | None]) -> None:
        """Keep the call and its output."""
        self.calls.setdefault(number, []).append((call, result[0].detach()))

    def inputs(self, number: int, call: int = 0, metadata: Mapping[str, str] = MappingProxyType({})) -> QDeltaInputs:
        """Return one call of a layer as QDeltaInputs."""
        return self.calls[number][call][0].inputs(metadata)


@contextmanager
def record(model: nn.Module, layers: int | Sequence[int] | None = None) -> Iterator[Recording]:
    """Record every call that the model's delta-rule layers make to their rule, while it runs as it always does.

        with record(model, layers=[0, 4]) as recording:
            model.generate(prompt)

    Leaves the model as it was, also after an exception. Raises as `find_layers`, and ValueError for a layer that the
    model has not.
    """
    recording = Recording()
    with intercepted(choose_layers(model, layers), recording):
        yield recording


def capture(
    model: nn.Module,
    input_ids: Tensor,
    *,
    layers: int | Sequence[int] | None = None,
    heads: int | Sequence[int] | slice | None = None,
    tokens: slice | range | None = None,
    metadata: Mapping[str, str] | None = None,
    tolerance: float | None = None,
    **options: Any,
) -> dict[int, QDeltaInputs]:
    """Run a model and return what its delta-rule layers fed to the recurrence, checked against what they got back.

    Args:
        model: a model of this project, or with Gated DeltaNet layers of transformers (Qwen3-Next, Qwen3.5, OLMo
            Hybrid) or flash-linear-attention; or one such layer.
        input_ids: what the model takes, [B, T].
        layers: which layers, by their number in the model; None: all that are delta-rule layers.
        heads: which value heads, as `QDeltaInputs.heads` takes them; None: all.
        tokens: which tokens, as slice(start, stop) or range(start, stop); the memory that the ones before leave
            becomes the initial state. None: all.
        metadata: goes into every layer's inputs, together with the layer's number and rule.
        tolerance: the largest ||o - replayed|| / ||o|| of a head; None: what rounding makes in the precision that the
            layer computes its rule in, whatever its tensors' dtype.
        options: further arguments of the model's forward pass, such as attention_mask.

    Returns:
        QDeltaInputs by layer number: q and k after their L2 norm, g the log decay, sequences that were packed or
        padded as rows that end in tokens which change nothing.

    Every layer's inputs are run through `qdelta_rule` and compared with the layer's own output. The model is left as
    it was, also after an exception.

    Raises CaptureMismatchError where the two differ; TypeError or ValueError for a model, layer, head or token that
    there is none of, or a layer that did not call its rule exactly once.
    """
    sites = choose_layers(model, layers)
    taking = _Taking(sites, heads, _span(tokens), dict(metadata or {}), type(model).__name__, tolerance)
    with torch.no_grad(), intercepted(sites, taking):
        model(input_ids, **without_cache(model, options))
    for site in sites.values():
        if site.number not in taking.found:
            raise _not_once(site, 0)
    return {number: taking.found[number] for number in sites}


@dataclass(eq=False)
class _Taking:
    """A `Handler` that checks every layer's inputs when it has run, and keeps what was asked for.

    At once, not when the model is through: neither the layers' outputs nor the tokens and heads that nobody asked for
    are then held side by side, which also saves the time in which the system provides that memory.
    """

    sites: Mapping[int, Site]
    heads: int | Sequence[int] | slice | None
    span: slice | None
    metadata: Mapping[str, str]
    source: str
    tolerance: float | None
    found: dict[int, QDeltaInputs] = field(default_factory=dict)

    def before(self, number: int, call: RuleCall) -> RuleCall:
        """Make the call as it came, once."""
        if number in self.found:
            raise _not_once(self.sites[number], 2)
        return call

    def after(self, number: int, call: RuleCall, result: tuple[Tensor, Tensor | None]) -> None:
        """Check the call and keep its inputs."""
        site = self.sites[number]
        notes = {"source": self.source, **self.metadata, "layer": str(number), "rule": site.rule}
        o = result[0].detach()
        sums = _precision(o, site.sums_wide)
        with without_autocast(o.device.type):
            tokens = call.tokens()
            error = _compare(number, call, tokens, o, sums, self.tolerance)
            inputs = QDeltaInputs(**tokens, metadata=notes | {"replay_error": f"{error:.1e}"})
            self.found[number] = _select(inputs, self.heads, self.span)


def _not_once(site: Site, times: int) -> ValueError:
    often = "never" if times == 0 else "more than once"
    return ValueError(
        f"layer {site.number} ({type(site.layer).__name__}) called its rule {often}; expected once, by "
        f"{' or '.join(site.names)}."
    )


@torch.no_grad()
def _compare(
    number: int, call: RuleCall, tokens: Mapping[str, Any], o: Tensor, sums: str, given: float | None
) -> float:
    """Return the largest relative difference of a head between o and the recurrence on the tokens."""
    own = call.rows(o).to(tokens["v"].dtype)
    written = _written(own, o.dtype)
    allowed = _SUMS[sums] + written if given is None else torch.full_like(written, given)
    V, error = own.shape[-1], torch.full_like(allowed, torch.inf)  # until it is looked at
    draw = torch.Generator().manual_seed(number)
    some = torch.randn(V, _DIRECTIONS, generator=draw, dtype=torch.float64).to(own)
    # A few directions in which a head's outputs happen to be small prove nothing against it: then all of them.
    for directions in (some, None) if V > _DIRECTIONS else (None,):
        error = _error(own, tokens, call.scale, directions)
        if (error <= allowed).all():
            return float(error.max()) if error.numel() else 0.0
    row, head = divmod(int((error - allowed).nan_to_num(nan=torch.inf).argmax()), error.shape[1])
    raise CaptureMismatchError(
        f"layer {number}, head {head}, sequence {row}: the recurrence on what was captured differs from the "
        f"model's own output by {float(error[row, head]):.1e} of its norm; expected at most "
        f"{float(allowed[row, head]):.0e}{f', its sums being in {sums}' if given is None else ''}."
    )


def _error(own: Tensor, tokens: Mapping[str, Any], scale: float | None, directions: Tensor | None) -> Tensor:
    """Return ||own - replayed|| / ||own|| of every sequence and head, along some directions of the values or all."""
    v, state = tokens["v"], tokens["initial_state"]
    if directions is not None:
        own, v = own @ directions, v @ directions
        state = None if state is None else state.to(v) @ directions
    replayed, _ = qdelta_rule(**dict(tokens) | {"v": v, "initial_state": state}, scale=scale, chunk_size=_CHUNK)
    size = own.norm(dim=(1, 3))
    return (own - replayed).norm(dim=(1, 3)) / torch.where(size > 0, size, 1)


def _written(o: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what writing the outputs down in half precision may cost, of every sequence's and head's norm."""
    info, size = torch.finfo(dtype), o.norm(dim=(1, 3))
    if info.bits > 16:
        return torch.zeros_like(size)
    steps = (o.abs() * info.eps).clamp(min=info.tiny * info.eps).norm(dim=(1, 3))
    return steps / torch.where(size > 0, size, 1)


def _precision(o: Tensor, sums_wide: bool) -> str:
    """Return what a layer sums in whose output is o: not always the dtype of its tensors, or of o."""
    device = o.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        found = torch.get_autocast_dtype(device)
    elif o.dtype in (torch.float16, torch.bfloat16):
        found = torch.float32 if sums_wide and device == "cpu" else o.dtype
    else:  # numbers of float32, written down as float64, were summed in float32
        found = torch.float32 if torch.equal(o, o.float().to(o.dtype)) else o.dtype
    if found == torch.float32 and device != "cpu":
        return "tf32"  # of tensor cores: FLA's kernels use it whatever torch is told
    products = torch.backends.mkldnn.matmul.fp32_precision  # pyright: ignore[reportAttributeAccessIssue] (not in its stubs)
    if found == torch.float32 and products in ("tf32", "bf16"):
        return {"tf32": "tf32", "bf16": "bfloat16"}[products]
    return str(found).removeprefix("torch.")


def _span(tokens: slice | range | None) -> slice | None:
    if tokens is None:
        return None
    if isinstance(tokens, slice | range) and tokens.step in (None, 1):
        return slice(tokens.start, tokens.stop)
    raise ValueError(f"tokens is {tokens!r}; expected slice(start, stop) or range(start, stop).")


def _select(inputs: QDeltaInputs, heads: int | Sequence[int] | slice | None, span: slice | None) -> QDeltaInputs:
    if heads is not None:
        wanted = [heads] if isinstance(heads, int) else heads
        if not isinstance(wanted, slice) and any(not 0 <= head < inputs.H for head in wanted):
            raise ValueError(f"heads is {heads!r}; expected value heads from 0 to {inputs.H - 1}.")
        inputs = inputs.heads(heads)
    if span is None:
        return inputs
    start, stop, _ = span.indices(inputs.T)
    if start >= stop:
        raise ValueError(f"tokens is {span}; expected some of the tokens 0 to {inputs.T - 1}.")
    return inputs.tokens(start, stop)
