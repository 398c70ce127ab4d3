"""Train the small language models and write the shipped data: python -m qdelta_analysis.learning --help."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer

from .configs import LayerConfig, ModelConfig, Rule
from .corpus import load_corpus
from .shipping import COMPARED, SEEDS, finish_run
from .shipping import ship as write_data
from .training import TrainingConfig

app = typer.Typer(add_completion=False, help="Train byte language models on CPython's language reference.")
Folder = Annotated[Path, typer.Option(help="Where finished runs lie.")]
Threads = Annotated[int, typer.Option(min=1, help="Threads that torch computes with.")]
Steps = Annotated[int, typer.Option(min=1, help="Optimizer steps of one run.")]


@app.command()
def train(
    rule: Annotated[Rule, typer.Argument(help="The token mixers' rule.")],
    seed: Annotated[int, typer.Option(help="Sets the initial weights and the order of the data.")] = 0,
    runs: Folder = Path("runs/learning"),
    threads: Threads = 2,
    steps: Steps = TrainingConfig.steps,
) -> None:
    """Train one rule with one seed and measure it on the held-out text."""
    torch.set_num_threads(threads)
    config = replace(TrainingConfig(), steps=steps)
    typer.echo(finish_run(_sizes(rule), config, seed, runs, load_corpus()).read_text())


@app.command("train-all")
def train_all(runs: Folder = Path("runs/learning"), threads: Threads = 2) -> None:
    """Train all three rules with three seeds each, one after another; finished runs are kept as they are."""
    torch.set_num_threads(threads)
    corpus = load_corpus()
    for seed in SEEDS:
        for rule in COMPARED:
            typer.echo(finish_run(_sizes(rule), TrainingConfig(), seed, runs, corpus))


@app.command()
def ship(runs: Folder = Path("runs/learning"), threads: Threads = 2) -> None:
    """Write the package's data from the nine finished runs: results, weights, trace and text."""
    torch.set_num_threads(threads)
    write_data(runs)


def _sizes(rule: Rule) -> ModelConfig:
    return ModelConfig(LayerConfig(rule=rule))


if __name__ == "__main__":
    app()
