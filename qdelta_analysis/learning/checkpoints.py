"""A run that goes on exactly where it stopped: weights, optimizer, random numbers and losses in a safetensors file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from qdelta_analysis.files import write_tensors

from . import distributed

_KIND = "qdelta training checkpoint 1"


def save_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, losses: list[float], settings: Mapping[str, Any]
) -> None:
    """Write the state after step len(losses), all or nothing; settings are JSON that a resumed run has to share.

    All processes have to call this, for a model that is spread over them is written whole; the first one writes.
    """
    tensors = {f"model/{name}": x for name, x in model.state_dict().items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{number}/{name}": x for name, x in state.items()}
    tensors["losses"] = torch.tensor(losses, dtype=torch.float64)
    tensors["random"] = torch.get_rng_state()
    first = distributed.current().first
    kept = {}
    for name, x in tensors.items():
        whole = distributed.full(x.detach())
        if first:  # the others hold one tensor at a time
            kept[name] = whole.cpu().contiguous()
    if not first:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"kind": _KIND, "settings": json.dumps(settings, sort_keys=True)}
    write_tensors(path, kept, metadata)


def load_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, settings: Mapping[str, Any]
) -> list[float]:
    """Put a checkpoint into the model, the optimizer and torch's random numbers; return the losses of its steps.

    Raises ValueError for another file, or a run with other settings, naming the first that differs.
    """
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        if metadata.get("kind") != _KIND:
            raise ValueError(f"{path} is no checkpoint of a training run; expected a file of `fit`.")
        tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    found, wanted = json.loads(metadata["settings"]), json.loads(json.dumps(settings))
    if found != wanted:
        name = next(n for n in sorted({*found, *wanted}) if found.get(n) != wanted.get(n))
        raise ValueError(
            f"{path} is of a run with {name} = {found.get(name)!r}; expected {wanted.get(name)!r}, or another folder."
        )
    model.load_state_dict({n: distributed.part_like(tensors[f"model/{n}"], x) for n, x in model.state_dict().items()})
    parameters = [p for options in optimizer.param_groups for p in options["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, x in tensors.items():
        if name.startswith("optimizer/"):
            _, number, what = name.split("/")
            own = parameters[int(number)]
            # AdamW's averages are cut as the parameter is; its count of steps is one number.
            state.setdefault(int(number), {})[what] = distributed.part_like(x, own) if x.shape == own.shape else x
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    torch.set_rng_state(tensors["random"])
    return tensors["losses"].tolist()
