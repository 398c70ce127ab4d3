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
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ..learning.layer import QDeltaLayer
from .calls import RuleCall, read_call, read_own_call

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
def intercepted(sites: Mapping[int, Site], handler: Handler) -> Iterator[None]:
    """Put the handler between these layers and their rule; leaves everything as it was, also after an exception.

    Several handlers may be at work at once: each sees the call as the earlier ones changed it.
    """
    with ExitStack() as stack:
        for site in sites.values():
            for name in site.names:
                stack.enter_context(_dispatched(site, name, handler))
            if site.shared:
                stack.enter_context(_announced(site.layer))
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


# Functions in a module's globals do not know which layer calls them: the layer that runs says so here. A thread
# that runs another model finds nothing.
_running: ContextVar[nn.Module | None] = ContextVar("running_layer", default=None)


@contextmanager
def _announced(layer: nn.Module) -> Iterator[None]:
    """Let the layer say that it runs, while it does."""
    # No restoring of what was said before: of two announcers of one layer, the first to speak is the first to leave.
    enter = layer.register_forward_pre_hook(lambda module, args: _say(module))
    leave = layer.register_forward_hook(lambda module, args, out: _say(None), always_call=True)
    try:
        yield
    finally:
        enter.remove()
        leave.remove()


def _say(layer: nn.Module | None) -> None:
    _running.set(layer)


class _Dispatcher:
    """Takes a function's place: passes calls from the layers that have handlers through those, others straight on."""

    outside_graphs: ClassVar[Callable[..., Any] | None] = None

    def __init__(self, site: Site, name: str):
        self.layer = None if site.shared else site.layer
        self.own = isinstance(site.layer, QDeltaLayer)
        self.function: Callable[..., Any] = getattr(site.layer, name) if self.own else site.owner[name]
        self.handlers: dict[int, list[tuple[int, Handler]]] = defaultdict(list)
        # A compiled model's graph ends before the handlers. No model is compiled before dynamo is there, which takes
        # seconds to import.
        if "torch._dynamo" in sys.modules and _Dispatcher.outside_graphs is None:
            _Dispatcher.outside_graphs = staticmethod(torch.compiler.disable(_Dispatcher._dispatch))

    def __call__(self, *args, **kwargs):
        dispatch = _Dispatcher.outside_graphs or _Dispatcher._dispatch
        return dispatch(self, *args, **kwargs)

    def _dispatch(self, *args, **kwargs):
        layer = self.layer if self.layer is not None else _running.get()
        handlers = self.handlers.get(id(layer))
        if not handlers:
            return self.function(*args, **kwargs)
        came = read_own_call(*args, **kwargs) if self.own else read_call(self.function, args, kwargs)
        call = came
        for number, handler in handlers:
            call = handler.before(number, call)
        result = self._run(*args, **kwargs) if call is came else call.compute()
        for number, handler in handlers:
            handler.after(number, call, result)
        return result

    def _run(self, *args, **kwargs):
        """Call the function, whose own calls of another rule's are no calls of the layer."""
        layer = _running.get()
        _say(None)
        try:
            return self.function(*args, **kwargs)
        finally:
            _say(layer)


@contextmanager
def _dispatched(site: Site, name: str, handler: Handler) -> Iterator[None]:
    found = site.owner.get(name)
    if not isinstance(found, _Dispatcher):
        site.owner[name] = found = _Dispatcher(site, name)
    entry = (site.number, handler)
    found.handlers[id(site.layer)].append(entry)
    try:
        yield
    finally:
        found.handlers[id(site.layer)].remove(entry)
        if not any(found.handlers.values()):
            if found.own:
                del site.owner[name]
            else:
                site.owner[name] = found.function
