"""A small causal language model over bytes, with delta-rule layers as its only token mixers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from qdelta_analysis.inputs import QDeltaInputs

from .layer import LayerConfig, QDeltaLayer, initialise

BYTES = 256


@dataclass(frozen=True)
class ModelConfig:
    """The sizes of the model; `layer` holds those of its token mixers and the rule."""

    layer: LayerConfig = field(default_factory=LayerConfig)
    layers: int = 3
    mlp_size: int = 320


class SwiGLU(nn.Module):
    """The channel mixer: y = W_down (silu(W_gate x) * W_up x)."""

    def __init__(self, hidden_size: int, mlp_size: int):
        super().__init__()
        self.gate_up = nn.Linear(hidden_size, 2 * mlp_size, bias=False)
        self.down = nn.Linear(mlp_size, hidden_size, bias=False)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Mix the channels of each token by itself."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


class Block(nn.Module):
    """One pre-norm block: x + mixer(norm x), then x + mlp(norm x)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        size, eps = config.layer.hidden_size, config.layer.norm_eps
        self.mixer_norm = nn.RMSNorm(size, eps)
        self.mixer = QDeltaLayer(config.layer)
        self.mlp_norm = nn.RMSNorm(size, eps)
        self.mlp = SwiGLU(size, config.mlp_size)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Apply both halves."""
        x = x + self.mixer(self.mixer_norm(x))
        return x + self.mlp(self.mlp_norm(x))


class ByteLanguageModel(nn.Module):
    """p(byte_{t+1} | byte_1 ... byte_t): embedding, pre-norm blocks, norm, linear head; drawn by seed."""

    def __init__(self, config: ModelConfig, seed: int = 0):
        super().__init__()
        self.config = config
        size = config.layer.hidden_size
        self.embedding = nn.Embedding(BYTES, size)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(size, config.layer.norm_eps)
        self.head = nn.Linear(size, BYTES, bias=False)
        initialise(self, seed, depth=config.layers)

    def forward(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B T 256"]:
        """Return the logits of each token's successor; tokens are bytes as int64, [B, T]."""
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))

    @torch.no_grad()
    def capture(
        self, tokens: Int[Tensor, "B T"], metadata: Mapping[str, str] | None = None
    ) -> tuple[QDeltaInputs, ...]:
        """Run the model and return what each layer fed to the recurrence, q and k already of unit length.

        `metadata` goes into every layer's inputs, together with the layer's number and the rule.
        """
        captured = []
        x = self.embedding(tokens)
        for number, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            inputs = block.mixer.rule_inputs(block.mixer_norm(x))
            notes = {**(metadata or {}), "layer": str(number), "rule": self.config.layer.rule}
            captured.append(QDeltaInputs(**inputs._asdict(), metadata=notes))
            x = block(x)
        return tuple(captured)
