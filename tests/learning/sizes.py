"""Small layers and models for the tests of this folder."""

from __future__ import annotations

from dataclasses import replace

import torch

from qdelta_analysis.learning import LanguageModel, LayerConfig, ModelConfig, ablation

BASE = LayerConfig(hidden_size=24, heads=2, key_dim=8, value_dim=12, chunk_size=16)
VARIANTS = {
    **ablation(BASE),
    "linear-attention, decay": replace(BASE, rule="linear-attention", decay=True),
    "q-delta, norm-compensated, no decay": replace(BASE, norm_compensation=True, decay=False),
    "q-delta, doubled": replace(BASE, allow_neg_eigval=True),
    "q-delta, grouped": replace(BASE, value_heads=4, norm_compensation=True),
    "q-delta, no convolution": replace(BASE, conv_width=1),
}


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tokens(*shape: int, vocabulary: int = 50, seed: int = 0) -> torch.Tensor:
    return torch.randint(vocabulary, shape, generator=torch.Generator().manual_seed(seed))


def model(layer: LayerConfig = BASE, seed: int = 0, vocabulary: int = 50) -> LanguageModel:
    return LanguageModel(ModelConfig(layer, layers=2, mlp_size=32, vocabulary=vocabulary), seed)
