"""Faster steps on a GPU: the blocks of a model through torch.compile."""

from __future__ import annotations

from typing import Any

from .model import LanguageModel


def compile_blocks(model: LanguageModel, **options: Any) -> LanguageModel:
    """Compile every block in place and return the model: its parameters and their names stay as they are.

    Alike blocks share one graph, compiled at the first call of each kind of input (a minute on a GPU, two on a CPU).
    What a model computes changes by rounding, so a stopped run goes on to the same bits only if compiled again. It
    pays most on a GPU, where norms, gates and convolutions are otherwise launched one operation at a time. From the
    ninth kind of block in a process on, torch leaves blocks uncompiled, with a warning: `torch.compiler.reset()`.
    `torch.compiler.set_stance("force_eager")` leaves the graphs aside for a while. options: of `torch.compile`; with
    fullgraph=True a model cannot be captured or patched.
    """
    for block in model.mixer_blocks():
        block.compile(**options)
    return model
