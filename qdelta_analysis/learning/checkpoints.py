"""A run that goes on exactly where it stopped: weights, optimizer, random numbers and losses in a safetensors file."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qdelta_analysis.files import read_tensors, write_tensors

from . import distributed

_KIND = "qdelta training checkpoint 2"
_REMEDY = "put a copy of it back, or remove it to train from the first step"


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
    metadata = {"kind": _KIND, "settings": json.dumps(settings, sort_keys=True), "sum": _sum_of(kept)}
    write_tensors(path, kept, metadata)


def load_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, settings: Mapping[str, Any]
) -> list[float]:
    """Put a checkpoint into the model, the optimizer and torch's random numbers; return the losses of its steps.

    Raises ValueError for another file or a damaged one, and for a run with other settings, naming the first that
    differs. Nothing is changed then.
    """
    tensors, metadata = read_tensors(path, "a checkpoint of a training run, whole")
    if metadata.get("kind") != _KIND:
        raise ValueError(f"{path} is no checkpoint of a training run; expected a file of `fit`.")
    found, wanted = _settings(path, metadata), json.loads(json.dumps(settings))
    if found != wanted:
        name = next(n for n in sorted({*found, *wanted}) if found.get(n) != wanted.get(n))
        raise ValueError(
            f"{path} is of a run with {name} = {found.get(name)!r}; expected {wanted.get(name)!r}, or another folder."
        )
    _check_tensors(path, tensors, metadata, model)
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


def _settings(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    try:
        found = json.loads(metadata.get("settings", ""))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: its settings are no JSON ({error}); {_REMEDY}.") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} is damaged: its settings are {found!r}; {_REMEDY}.")
    return found


def _check_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], model: nn.Module) -> None:
    """Raise ValueError unless a checkpoint holds what was written, and the weights that this model takes."""
    if metadata.get("sum") != _sum_of(tensors):
        raise ValueError(f"{path} is damaged: its tensors are not those that were written; {_REMEDY}.")
    held = {name.removeprefix("model/"): list(x.shape) for name, x in tensors.items() if name.startswith("model/")}
    taken = {name: list(x.shape) for name, x in model.state_dict().items()}
    if held != taken:
        name = next(name for name in sorted({*held, *taken}) if held.get(name) != taken.get(name))
        raise ValueError(f"{path} has {name} of shape {held.get(name)}; expected {taken.get(name)}, or another folder.")


def _sum_of(tensors: Mapping[str, Tensor]) -> str:
    """Return a check sum of all tensors: safetensors has none of its own."""
    found = 0
    for name, x in sorted(tensors.items()):
        found = zlib.crc32(f"{name} {x.dtype}".encode(), found)
        found = zlib.crc32(x.reshape(-1).view(torch.uint8).numpy().data, found)
    return f"crc32 {found:08x}"
