"""What test_compiling.py starts by itself: torch.compile cannot trace the shape checker that tests run under."""

from __future__ import annotations

import copy
import json
import sys
from functools import partial
from pathlib import Path

import torch
from torch._dynamo.utils import counters

from qdelta_analysis.learning import LanguageModel, LayerConfig, ModelConfig, ablation, compile_blocks
from qdelta_analysis.learning.experiments import run_experiment, running
from tests.helpers import relative_error

from .sizes import VARIANTS, model, tokens
from .test_experiments import QUIET, TINY


def outcome(a_model: LanguageModel, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the logits and every gradient of a loss, on the CPU."""
    logits = a_model(x)
    logits.float().square().sum().backward()
    grads = {name: p.grad for name, p in a_model.named_parameters() if p.grad is not None}
    return {name: y.detach().cpu() for name, y in ({"logits": logits} | grads).items()}


def errors(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> dict[str, float]:
    return {name: relative_error(found[name], y) for name, y in expected.items()}


def on_the_cpu() -> dict:
    found = {}
    for name, config in VARIANTS.items():
        torch._dynamo.reset()
        counters.clear()
        plain = model(config)
        compiled = compile_blocks(copy.deepcopy(plain), fullgraph=True, backend="aot_eager")
        x = tokens(2, 20)
        found[name] = {
            "errors": errors(outcome(compiled, x), outcome(plain, x)),
            "graphs": counters["stats"]["unique_graphs"],
            "same names": list(compiled.state_dict()) == list(plain.state_dict()),
        }
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
    made = {"cpu": on_the_cpu, "gpu": on_a_gpu, "experiment": lambda: experiment(Path(*rest))}[what]()
    print(json.dumps(made))
