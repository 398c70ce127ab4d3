"""Weights and traces as safetensors files: what is stored, in which precision, and how it comes back."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import torch
import torch.nn.functional as F

from qdelta_analysis.files import read_tensors, write_tensors
from qdelta_analysis.inputs import QDeltaInputs

from .configs import LayerConfig, ModelConfig
from .model import LanguageModel


def save_weights(model: LanguageModel, path: Path) -> None:
    """Write the model's weights in float16 and its sizes as metadata.

    Raises ValueError for a weight that float16 does not hold exactly (see `training.round_to_half`): the file
    is the model, not nearly the model.
    """
    weights = {}
    for name, weight in model.state_dict().items():
        weights[name] = weight.half().contiguous()
        if not torch.equal(weights[name].to(weight.dtype), weight):
            raise ValueError(f"{name} holds values that float16 rounds; expected weights rounded to float16.")
    write_tensors(path, weights, {"config": json.dumps(asdict(model.config))})


def load_weights(path: Path) -> LanguageModel:
    """Return the model that `save_weights` wrote, in float32.

    Raises FileNotFoundError, or ValueError for any other file, naming it.
    """
    tensors, metadata = read_tensors(path, "a file of save_weights")
    if "config" not in metadata:
        raise ValueError(f"{path} has no model sizes in its metadata; expected a file of save_weights.")
    try:
        sizes = json.loads(metadata["config"])
        model = LanguageModel(ModelConfig(**{**sizes, "layer": LayerConfig(**sizes["layer"])}))
        model.load_state_dict({name: weight.float() for name, weight in tensors.items()})
    except (ValueError, TypeError, KeyError, RuntimeError) as error:
        raise ValueError(
            f"{path} holds other weights than its sizes say ({error}); expected a file of save_weights."
        ) from error
    return model.eval()


def save_trace(inputs: QDeltaInputs, path: Path) -> None:
    """Write one layer's inputs: q, k and v in float16, g, beta and lam in float32, the metadata as it is."""
    replace(inputs, q=inputs.q.half(), k=inputs.k.half(), v=inputs.v.half()).save(path)


def load_trace(path: Path) -> QDeltaInputs:
    """Return the inputs that `save_trace` wrote, in float32, with q and k scaled to unit length again.

    Float16 leaves the length of a unit vector wrong by up to 5e-4, which would show as a broken hypothesis in
    every guarantee for unit vectors; dividing by the norm in float32 brings it back to within 1e-6.
    """
    stored = QDeltaInputs.load(path)
    q, k = (F.normalize(x.float(), dim=-1) for x in (stored.q, stored.k))
    return replace(stored, q=q, k=k, v=stored.v.float())
