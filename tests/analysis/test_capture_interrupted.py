"""What interrupts a capture or a patch, at any point, leaves the model as it was, and other threads alone."""

import contextlib
import copy
import functools
import gc
import io
import linecache
import pickle
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path

import pytest
import torch
import torch.utils.checkpoint
from torch import nn

from qdelta_analysis import capture, patch
from qdelta_analysis.capturing import lam_effect, record, sites, standing
from qdelta_analysis.threads import one_thread
from tests.helpers import cases, relative_error
from tests.learning.sizes import model, tokens

from . import stand_ins
from .stand_ins import AttributeLayer, FlaLayer
from .test_capture import CLASSES, everything, peer

HERE = str(Path(sites.__file__).parent)
INTERRUPTS = (KeyboardInterrupt, SystemExit, GeneratorExit, RuntimeError)


@pytest.fixture(autouse=True)
def _one_thread():
    with one_thread():
        yield


class Tower(nn.Module):
    """Layers one after the other, that take vectors."""

    def __init__(self, *layers: nn.Module):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x):
        for layer in self.layers:
            x = x + layer(x)
        return x


def tower(layer_class, layers: int = 3) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    return Tower(*(layer_class(n) for n in range(layers))), torch.randn(2, 9, 16)


def made(kind: str) -> tuple[nn.Module, torch.Tensor]:
    """A model, and what it takes."""
    if kind == "own":
        return model(), tokens(2, 9)
    if kind in ("fla", "attributes"):
        return tower({"fla": FlaLayer, "attributes": AttributeLayer}[kind])
    return peer(kind), tokens(2, 9)


def outcome(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        out = net(x)
    return out if isinstance(out, torch.Tensor) else out.logits


def behind(net: nn.Module) -> list:
    """What may be left in a model, in modules whose functions it calls, or in this thread."""
    names = (*sites._GLOBALS, *sites._TORCH_GLOBALS)
    modules = [sys.modules[type(layer).__module__] for layer in net.modules()]
    functions = [vars(module).get(name) for module in modules for name in names]
    own = [layer.__dict__.get(name) for layer in net.modules() for name in ("forward", "recurrence", *names)]
    checkpoint = torch.utils.checkpoint
    torchs = [checkpoint.CheckpointFunction, checkpoint._CheckpointFrame, torch.is_grad_enabled()]
    return [*everything(net), *functions, *own, *torchs, sites._running.get(), standing._at_work.get()]


class Everywhere:
    """Raises an interrupt when the given number of lines of this package's capturing has run."""

    def __init__(self, line: int, interrupt: type[BaseException]):
        self.left, self.interrupt = line, interrupt

    def __call__(self, frame, event, _):
        if not frame.f_code.co_filename.startswith(HERE):
            return None
        # Not where a lock is let go: Python looks for signals at calls and jumps, and there is none.
        if event == "line" and "with _changing" not in linecache.getline(frame.f_code.co_filename, frame.f_lineno):
            self.left -= 1
            if self.left == 0:
                raise self.interrupt
        return self


def interrupted(run, line: int, interrupt: type[BaseException]) -> int:
    """Run with an interrupt at that line; return how many lines were left to run."""
    before, trace = sys.gettrace(), Everywhere(line, interrupt)
    sys.settrace(trace)
    with contextlib.suppress(interrupt, ValueError):  # as which a RuntimeError of torch's may be told
        run()
    sys.settrace(before)
    return trace.left


def runs(net: nn.Module, x: torch.Tensor) -> dict:
    """Everything that stands between a model and its rule for a while."""

    def patched(**options):
        with patch(net, 0.9, **options):
            outcome(net, x)

    def nested():
        with patch(net, 0.9), record(net), patch(net, 0.3, layers=[1 if 1 in sites.find_layers(net) else 2]):
            outcome(net, x)
            capture(net, x)

    def recorded():
        with record(net):
            outcome(net, x)

    return {
        "capture": lambda: capture(net, x),
        "one layer": lambda: capture(net, x, layers=[0], heads=[1], tokens=slice(2, 5)),
        "patch": patched,
        "compensated": lambda: patched(norm_compensation=True),
        "nested": nested,
        "record": recorded,
        "effect": lambda: lam_effect(net, x, [0.5]),
    }


@pytest.mark.cases
@pytest.mark.parametrize("kind", ["own", "fla", "attributes", "qwen3_next"])
def test_an_interrupt_at_any_line_leaves_nothing_behind(kind):
    net, x = made(kind)
    plain, before = outcome(net, x), behind(net)
    captured = capture(net, x)
    ways = runs(net, x)
    if kind == "attributes":  # returns no logits, as the stand-ins of flash-linear-attention
        del ways["effect"]
    lines = {}
    for name, run in ways.items():  # at the depth of the loop below: a patch looks at who called it
        lines[name] = 10**6 - interrupted(run, 10**6, KeyboardInterrupt)
    assert min(lines.values()) > 20
    every = [(name, line) for name, count in lines.items() for line in range(1, count + 1)]
    draw = torch.randperm(len(every), generator=torch.Generator().manual_seed(len(kind))).tolist()
    for i in draw[: cases(40)]:
        name, line = every[i]
        interrupt = INTERRUPTS[i % len(INTERRUPTS)]
        assert interrupted(ways[name], line, interrupt) == 0, (name, line)
        assert behind(net) == before, (name, line, interrupt)
        assert torch.equal(outcome(net, x), plain), (name, line, interrupt)
    assert all(torch.equal(capture(net, x)[n].v, found.v) for n, found in captured.items())


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, RuntimeError])  # one that hooks are told of, one not
def test_an_interrupt_inside_any_layer_leaves_nothing_behind(kind, interrupt, monkeypatch):
    net, x = made(kind)
    plain, before = outcome(net, x), behind(net)
    module = sys.modules[type(net).__module__]
    rule = module.torch_chunk_gated_delta_rule

    def stop(*_, **__):
        raise interrupt

    linear = [layer for layer in net.modules() if type(layer).__name__.endswith("GatedDeltaNet")]
    assert len(linear) == 2
    for layer in linear:
        for part in layer.children():  # before the rule, and after it
            for name in ("capture", "patch", "nested"):
                hook = part.register_forward_pre_hook(stop)
                if part is getattr(layer, "conv1d", None):  # its weights are used, it is not called
                    hook.remove()
                    continue
                with pytest.raises(interrupt):
                    runs(net, x)[name]()
                hook.remove()
                assert behind(net) == before
                assert torch.equal(outcome(net, x), plain)
    for name in ("capture", "one layer", "record"):  # within the rule itself; a patch has one of its own
        with monkeypatch.context() as changed:
            changed.setattr(module, "torch_chunk_gated_delta_rule", broken := functools.wraps(rule)(stop))
            with pytest.raises(interrupt):
                runs(net, x)[name]()
            assert module.torch_chunk_gated_delta_rule is broken
        assert module.torch_chunk_gated_delta_rule is rule
    assert behind(net) == before
    with patch(net, 0.9, layers=[2]):
        second = outcome(net, x)
    hook = linear[1].register_forward_pre_hook(stop)
    with patch(net, 0.9, layers=[2]):  # still open: the layer that was interrupted runs no more
        with pytest.raises(interrupt):
            outcome(net, x)
        hook.remove()
        assert torch.equal(outcome(net, x), second)
        assert list(capture(net, x, layers=[2])) == [2]
    assert behind(net) == before


@pytest.mark.parametrize("kind", ["own", "fla", "qwen3_next"])
def test_a_block_in_a_generator_ends_with_it(kind):
    net, x = made(kind)
    plain, before = outcome(net, x), behind(net)

    def generate():
        with patch(net, 0.9):
            while True:
                yield outcome(net, x)

    steps = generate()
    assert not torch.equal(next(steps), plain)
    steps.close()
    assert behind(net) == before
    # Ended by another thread, whose context is another: no longer at work here.
    steps = generate()
    next(steps)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(steps.close).result()
    assert torch.equal(outcome(net, x), plain)
    with patch(net, 0.9):
        pass
    assert behind(net) == before


@pytest.mark.parametrize("kind", ["own", "fla", "qwen3_next"])
def test_threads_do_not_see_each_other(kind):
    net, x = made(kind)
    before, plain = behind(net), outcome(net, x)
    alone = {}
    for lam in (0.3, 0.9):
        with patch(net, lam):
            alone[lam] = outcome(net, x)
    captured = capture(net, x)
    barrier = threading.Barrier(4, timeout=60)

    def patched(lam: float) -> bool:
        barrier.wait()
        found = []
        for _ in range(5):
            with patch(net, lam):
                found.append(torch.equal(outcome(net, x), alone[lam]))
        return all(found)

    def unchanged() -> bool:
        barrier.wait()
        return all(torch.equal(outcome(net, x), plain) for _ in range(10))

    def caught() -> bool:
        barrier.wait()
        found = [capture(net, x) for _ in range(5)]
        return all(torch.equal(one[n].v, inputs.v) for one in found for n, inputs in captured.items())

    with ThreadPoolExecutor(4) as pool:
        ways = [pool.submit(patched, 0.3), pool.submit(patched, 0.9), pool.submit(unchanged), pool.submit(caught)]
        assert all(way.result() for way in ways)
    with patch(net, 0.9):  # a thread that is to see it is given the context
        for run, expected in ((copy_context().run, alone[0.9]), (lambda f, *args: f(*args), plain)):
            with ThreadPoolExecutor(1) as pool:
                assert torch.equal(pool.submit(run, outcome, net, x).result(), expected)
    assert behind(net) == before


def test_copies_made_while_something_stands_in_have_nothing_of_it():
    for kind in ("own", "fla", "attributes"):
        net, x = made(kind)
        plain, file = outcome(net, x), io.BytesIO()
        with patch(net, 0.9):
            other, again = copy.deepcopy(net), pickle.loads(pickle.dumps(net))
            torch.save(net, file)
            assert not torch.equal(outcome(net, x), plain)
        file.seek(0)
        for one in (other, again, torch.load(file, weights_only=False)):
            assert not any(isinstance(x, standing.StandIn) for m in one.modules() for x in m.__dict__.values())
            assert torch.equal(outcome(one, x), plain)


def test_what_others_put_in_the_same_place_stays(monkeypatch):
    """Another tool's wrapper, there before, or put there meanwhile."""
    net, x = made("fla")
    plain, calls = outcome(net, x), []

    def wrapped(rule):
        def wrapper(*args, **kwargs):
            calls.append(len(calls))
            return rule(*args, **kwargs)

        return wrapper

    first = wrapped(stand_ins.chunk_gated_delta_rule)
    monkeypatch.setattr(stand_ins, "chunk_gated_delta_rule", first)
    net.layers[1].forward = hooked = wrapped(net.layers[1].forward)
    with record(net) as recording:
        outcome(net, x)
        stand_ins.chunk_gated_delta_rule = second = wrapped(stand_ins.chunk_gated_delta_rule)
        outcome(net, x)
    assert [len(recorded) for recorded in recording.calls.values()] == [2, 2, 2]
    assert stand_ins.chunk_gated_delta_rule is second
    assert net.layers[1].__dict__["forward"] is hooked
    calls.clear()
    assert torch.equal(outcome(net, x), plain)
    assert len(calls) == 7
    with patch(net, 0.0):
        assert relative_error(outcome(net, x), plain) < 1e-5
    assert stand_ins.chunk_gated_delta_rule is second


def test_an_interrupted_model_is_freed_at_once():
    net, x = made("fla")
    hook = net.layers[1].o_proj.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    for way in ("capture", "patch"):
        with contextlib.suppress(KeyboardInterrupt):
            runs(net, x)[way]()
    hook.remove()
    gone = weakref.ref(net)
    gc.disable()
    try:
        del net, hook
        assert gone() is None
    finally:
        gc.enable()
