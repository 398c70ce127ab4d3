"""Where a model calls its delta rule, and how to stand between the layer and the function that it calls.

Four kinds of layer are known, by what their forward pass looks up:

    this project's QDeltaLayer         its method `recurrence`
    transformers 5.15 and later        torch_chunk_... and torch_recurrent_gated_delta_rule, globals of its module
    transformers before 5.15           chunk_... and recurrent_gated_delta_rule, attributes of the layer
    flash-linear-attention             chunk_... and fused_recurrent_gated_delta_rule, globals of its module
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ..learning.layer import QDeltaLayer
from .calls import RuleCall, read_call, read_own_call
from .standing import Place, StandIn, at_work, working

_GLOBALS = ("chunk_gated_delta_rule", "fused_recurrent_gated_delta_rule")
_TORCH_GLOBALS = ("torch_chunk_gated_delta_rule", "torch_recurrent_gated_delta_rule")
_ATTRIBUTES = ("chunk_gated_delta_rule", "recurrent_gated_delta_rule")


@runtime_checkable
class Handler(Protocol):
    """What stands between a layer and its rule."""

    def before(self, number: int, call: RuleCall) -> RuleCall:
        """Return the call to make: the one that came, or another."""
        ...

    def after(self, number: int, call: RuleCall, result: tuple[Tensor, Tensor | None]) -> None:
        """Take notice of the call that was made and its result (o, state)."""
        ...


@dataclass(frozen=True)
class Site:
    """One delta-rule layer of a model: its number, and the names under which its forward pass finds the rule."""

    number: int
    layer: nn.Module = field(repr=False)
    names: tuple[str, ...]
    owner: dict[str, Any] = field(
        repr=False
    )  # where those names are looked up: the layer's attributes, or its module's globals
    shared: bool  # whether other layers look there too

    @property
    def rule(self) -> str:
        """Which rule it is, as `LayerConfig.rule` names it."""
        return self.layer.config.rule if isinstance(self.layer, QDeltaLayer) else "gated-deltanet"

    @property
    def sums_wide(self) -> bool:
        """Whether the rule is known to sum in float32 at least, whatever it is given."""
        return isinstance(self.layer, QDeltaLayer) or self.names == _TORCH_GLOBALS

    def places(self) -> list[Place]:
        """Return where stand-ins have to be for a handler to work at this layer."""
        layer, own = self.layer, isinstance(self.layer, QDeltaLayer)
        caller = None if self.shared else layer
        rule = lambda name: lambda found: _Rule(caller, found, getattr(layer, name) if found is None else found, own)
        forward = lambda found: _Forward(layer, found, layer.forward)
        rules = [Place(self.owner, name, rule(name)) for name in self.names]
        return [*rules, Place(layer.__dict__, "forward", forward)] if self.shared else rules


def find_layers(model: nn.Module) -> Mapping[int, Site]:
    """Return the model's delta-rule layers by number: its own `layer_idx`, or else the order in the model.

    Raises TypeError for what is no module, ValueError for a model without such a layer.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}; expected a torch.nn.Module.")
    found = [(layer, *place) for layer in model.modules() if (place := _place(layer)) is not None]
    if not found:
        raise ValueError(
            f"model is a {type(model).__name__} without a layer whose rule can be reached; expected a model with "
            "Gated DeltaNet layers, of this project, transformers or flash-linear-attention."
        )
    own = [number for layer, *_ in found if isinstance(number := getattr(layer, "layer_idx", None), int)]
    numbers = own if len(set(own)) == len(found) else range(len(found))
    return {number: Site(number, *place) for number, place in zip(numbers, found, strict=True)}


def choose_layers(model: nn.Module, layers: int | Sequence[int] | None) -> Mapping[int, Site]:
    """Return the chosen ones of `find_layers`; raises ValueError for a number that is none of them."""
    sites = find_layers(model)
    if layers is None:
        return sites
    chosen = [layers] if isinstance(layers, int) else list(layers)
    if missing := [number for number in chosen if number not in sites]:
        raise ValueError(f"layers has {missing[0]!r}; expected some of the delta-rule layers, {list(sites)}.")
    return {number: sites[number] for number in chosen}


def without_cache(model: nn.Module, options: Mapping[str, Any]) -> dict[str, Any]:
    """Add to a forward pass's options that it keep no cache, where the model could and nothing is said of it."""
    can = "use_cache" in inspect.signature(model.forward).parameters
    return {"use_cache": False, **options} if can else dict(options)


@contextmanager
def intercepted(sites: Mapping[int, Site], handler: Handler, *, lasting: bool = False) -> Iterator[None]:
    """Put the handler between these layers and their rule; leaves everything as it was, whatever ends the block.

    Several handlers may be at work at once: each sees the call as the earlier ones changed it. Other threads' calls
    pass by. lasting: also where activation checkpointing computes a layer again.
    """
    layers = {number: site.layer for number, site in sites.items()}
    with working(handler, layers, [place for site in sites.values() for place in site.places()], lasting=lasting):
        yield


def _place(layer: nn.Module) -> tuple[tuple[str, ...], dict[str, Any], bool] | None:
    """Return the rule's names, where they are looked up, and whether other layers look there too."""
    if isinstance(layer, QDeltaLayer):
        return ("recurrence",), layer.__dict__, False
    if all(callable(layer.__dict__.get(name)) for name in _ATTRIBUTES):
        return _ATTRIBUTES, layer.__dict__, False
    forward = inspect.unwrap(type(layer).forward)
    code = getattr(forward, "__code__", None)
    for names in (_TORCH_GLOBALS, _GLOBALS):
        if code is not None and all(
            name in code.co_names and callable(forward.__globals__.get(name)) for name in names
        ):
            return names, forward.__globals__, True
    return None


# Functions in a module's globals do not know which layer calls them: the layer that runs says so here, in a context of
# its own, so that nothing has to be set back when something interrupts it.
_running: ContextVar[nn.Module | None] = ContextVar("running_layer", default=None)


class _Watched(StandIn):
    """A stand-in that a compiled model's graph ends before."""

    outside_graphs: ClassVar[Callable[..., Any] | None] = None
    _call: ClassVar[Callable[..., Any]]
    whole: ClassVar[bool]  # whether what it calls is outside of graphs as well

    def __init__(self, layer: nn.Module | None, found: Any, function: Callable[..., Any]):
        super().__init__(found, function)
        self.layer = layer
        # No model is compiled before dynamo is there, which takes seconds to import.
        if "torch._dynamo" in sys.modules and type(self).outside_graphs is None:
            type(self).outside_graphs = staticmethod(torch.compiler.disable(type(self)._call, recursive=self.whole))


class _Forward(_Watched):
    """Stands in for the forward pass of a layer that calls a rule which others call too."""

    whole = False

    def __call__(self, *args, **kwargs):
        call = _Forward.outside_graphs or _Forward._call
        return call(self, *args, **kwargs)

    def _call(self, *args, **kwargs):
        context = copy_context()
        context.run(_running.set, self.layer)
        return context.run(self.function, *args, **kwargs)


class _Rule(_Watched):
    """Stands in for a rule: passes calls from layers at which handlers work through those, others straight on."""

    whole = True

    def __init__(self, layer: nn.Module | None, found: Any, function: Callable[..., Any], own: bool):
        super().__init__(layer, found, function)
        self.own = own

    def __call__(self, *args, **kwargs):
        call = _Rule.outside_graphs or _Rule._call
        return call(self, *args, **kwargs)

    def _call(self, *args, **kwargs):
        handlers: list[tuple[int, Handler]] = at_work(self.layer if self.layer is not None else _running.get())
        if not handlers:
            return self.function(*args, **kwargs)
        came = read_own_call(*args, **kwargs) if self.own else read_call(self.function, args, kwargs)
        # A cache keeps its state in one tensor and overwrites that.
        entering = None if came.initial_state is None else came.initial_state.detach().clone()
        call = came
        for number, handler in handlers:
            call = handler.before(number, call)
        if call is came:
            context = copy_context()
            context.run(_running.set, None)  # the function's own calls of another's rule are no calls of the layer
            result = context.run(self.function, *args, **kwargs)
        else:
            result = call.compute()
        for number, handler in handlers:
            handler.after(number, replace(call, initial_state=entering), result)
        return result
