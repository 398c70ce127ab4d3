"""What test_compiling.py starts by itself: torch.compile cannot trace the shape checker that tests run under."""

from __future__ import annotations

import copy
import json
import random
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch._dynamo.utils import counters

from qdelta_analysis import capture, patch
from qdelta_analysis.learning import (
    LanguageModel,
    LayerConfig,
    ModelConfig,
    QDeltaForCausalLM,
    ablation,
    compile_blocks,
)
from qdelta_analysis.learning.experiments import run_experiment, running
from qdelta_analysis.learning.nonfinite import first_nonfinite
from tests.helpers import cases, relative_error

from .layouts import LAYOUTS, sequences
from .sizes import BASE, VARIANTS, model, tokens
from .test_experiments import QUIET, SIZE, TINY


def outcome(a_model: LanguageModel, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the logits and every gradient of a loss, on the CPU."""
    logits = a_model(x)
    logits.float().square().sum().backward()
    grads = {name: p.grad for name, p in a_model.named_parameters() if p.grad is not None}
    return {name: y.detach().cpu() for name, y in ({"logits": logits} | grads).items()}


def errors(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> dict[str, float]:
    return {name: relative_error(found[name], y) for name, y in expected.items()}


def variants() -> dict:
    found = {}
    for name, config in VARIANTS.items():
        torch._dynamo.reset()
        counters.clear()
        plain = model(config).double()  # rounding in float32 reaches 1e-5 in A_log's gradient
        compiled = compile_blocks(copy.deepcopy(plain), fullgraph=True, backend="aot_eager")
        x = tokens(2, 20)
        found[name] = {
            "errors": errors(outcome(compiled, x), outcome(plain, x)),
            "graphs": counters["stats"]["unique_graphs"],
            "same names": list(compiled.state_dict()) == list(plain.state_dict()),
        }
    return found


def pair(name: str) -> tuple[LanguageModel, LanguageModel]:
    """A model, and the same compiled, in float64; what a compiler makes of a graph is for `variants` to say."""
    torch._dynamo.reset()
    plain = LanguageModel(ModelConfig(VARIANTS[name], layers=1, mlp_size=32, vocabulary=50)).double().eval()
    return plain, compile_blocks(copy.deepcopy(plain), backend="eager")


def worst(nets: tuple[LanguageModel, LanguageModel], layout, case: int) -> float:
    """Lay random sequences out, each time of other lengths; the largest error of logits and, at times, gradients."""
    given = sequences(random.Random(case), 50)
    differentiated = case % 4 == 0 and any(map(len, given))
    with torch.set_grad_enabled(differentiated):
        expected, found = (torch.cat(layout(net, random.Random(case), given)) for net in nets)
    errors = [relative_error(found, expected)]
    if differentiated:
        each = zip((expected, found), nets, strict=True)
        slopes = (torch.autograd.grad(y.sin().sum(), list(net.parameters())) for y, net in each)
        errors += [relative_error(ours, theirs) for theirs, ours in zip(*slopes, strict=True)]
    return max(errors)


def options() -> dict:
    """Masks, packed rows, states, single tokens, no tokens, generation: what they give compiled, against plain."""
    found = {}
    for name in ("q-delta", "linear-attention, decay"):
        nets = pair(name)
        found[name] = [worst(nets, LAYOUTS[case % 3], case) for case in range(cases(6))]
        prompts, mask = tokens(3, 6), torch.tensor([[1] * 6, [0] * 4 + [1] * 2, [0] * 5 + [1]])
        hubs = [QDeltaForCausalLM.from_model(net, pad_token_id=0) for net in nets]
        for settings in ({}, {"use_cache": False}, {"num_beams": 2}):
            first, other = (
                hub.generate(prompts, attention_mask=mask, max_new_tokens=4, do_sample=False, **settings)
                for hub in hubs
            )
            found[name].append(float((first != other).sum()))
    return found


def experiment(folder: Path) -> dict:
    """Run a tiny experiment plainly and compiled, watched; return what came out."""
    running.compile_blocks = partial(compile_blocks, backend="aot_eager")  # needs no C compiler
    found = {}
    for compiled in (False, True):
        counters.clear()
        paths = run_experiment(TINY, [0], folder / str(compiled), watch_every=2, compiled=compiled, **QUIET)
        found[str(compiled)] = {
            "results": [json.loads(path.read_text()) for path in paths],
            "graphs": counters["stats"]["unique_graphs"],
        }
    return found


def watched_and_changed() -> dict:
    """Capture, patch and break a compiled model, and the same model plain."""
    plain = model(BASE)
    compiled = compile_blocks(copy.deepcopy(plain), backend="aot_eager")
    x = tokens(2, 20)
    compiled(x)
    captured = [capture(one, x) for one in (plain, compiled)]
    found = {
        "captured": [
            relative_error(getattr(found, name), getattr(expected, name))
            for expected, found in zip(*(each.values() for each in captured), strict=True)
            for name in ("q", "k", "v", "g", "beta", "lam")
        ]
    }
    before = compiled(x).detach()
    with patch(plain, lam=0.8), patch(compiled, lam=0.8):
        found["patched"] = relative_error(compiled(x), plain(x))
        found["patched, changes"] = relative_error(compiled(x), before)
    found["afterwards"] = relative_error(compiled(x), before)
    with torch.no_grad():
        compiled.blocks[1].mixer.v_proj.weight.fill_(1e38)
    found["not finite"] = first_nonfinite(compiled, x)
    return found


def many_kinds(folder: Path) -> list[int]:
    """Run more kinds of blocks than torch compiles in one process; return how many graphs each run took."""
    graphs = []

    def counted(graph, _inputs):
        graphs.append(graph)
        return graph.forward

    running.compile_blocks = partial(compile_blocks, backend=counted)
    torch._dynamo.config.recompile_limit = 2
    models = {f"{n} wide": replace(SIZE, mlp_size=n) for n in (256, 264, 272, 280)}
    after = []
    for name, size in models.items():
        run_experiment(replace(TINY, models={name: size}), [0], folder, compiled=True, **QUIET)
        after.append(len(graphs))
    return after


def on_a_gpu() -> dict:
    found = {}
    for name, config in ablation(LayerConfig(128, 2, 64, 128, chunk_size=64)).items():
        torch._dynamo.reset()
        plain = LanguageModel(ModelConfig(config, layers=2, mlp_size=256)).cuda()
        compiled = compile_blocks(copy.deepcopy(plain), fullgraph=True)
        x = tokens(2, 300).cuda()
        exact = outcome(copy.deepcopy(plain).double(), x)
        with torch.autocast("cuda", torch.bfloat16):
            found[name] = {
                "errors": errors(outcome(compiled, x), exact),
                "errors, not compiled": errors(outcome(plain, x), exact),
            }
    return found


if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    parts = {
        "variants": variants,
        "options": options,
        "watched": watched_and_changed,
        "experiment": lambda: experiment(Path(*rest)),
        "kinds": lambda: many_kinds(Path(*rest)),
        "gpu": on_a_gpu,
    }
    print(json.dumps(parts[what]()))
