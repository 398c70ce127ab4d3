"""A small causal language model, with delta-rule layers or their baselines as its only token mixers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, overload

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from qdelta_analysis.inputs import QDeltaInputs

from .configs import ModelConfig
from .initial import initialise
from .layer import LayerState, QDeltaLayer
from .modules import SwiGLU
from .packing import Packing, Padding, real_tokens

ModelState = tuple[LayerState, ...]  # one of each layer


class Block(nn.Module):
    """One pre-norm block: x + mixer(norm x), then x + mlp(norm x)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        size, eps = config.layer.hidden_size, config.layer.norm_eps
        self.mixer_norm = nn.RMSNorm(size, eps)
        self.mixer = QDeltaLayer(config.layer, seed=None)
        self.mlp_norm = nn.RMSNorm(size, eps)
        self.mlp = SwiGLU(size, config.mlp_size)

    @overload
    def forward(self, x: Tensor, state: None = None, packing: Packing | None = None) -> Tensor: ...

    @overload
    def forward(self, x: Tensor, state: LayerState, packing: Packing | None = None) -> tuple[Tensor, LayerState]: ...

    def forward(
        self, x: Float[Tensor, "B T D"], state: LayerState | None = None, packing: Packing | None = None
    ) -> Float[Tensor, "B T D"] | tuple[Float[Tensor, "B T D"], LayerState]:
        """Apply both halves; with a state, go on from it and return the next one too."""
        if state is None:
            x = x + self.mixer(self.mixer_norm(x), None, packing)
            return x + self.mlp(self.mlp_norm(x))
        y, after = self.mixer(self.mixer_norm(x), state, packing)
        x = x + y
        return x + self.mlp(self.mlp_norm(x)), after


class LanguageModel(nn.Module):
    """p(token_{t+1} | token_1 ... token_t): embedding, pre-norm blocks, norm, linear head; drawn by seed.

    seed None leaves the weights to a loader. `gradient_checkpointing = True` recomputes every block in the backward
    pass of training, which saves its activations.
    """

    def __init__(self, config: ModelConfig, seed: int | None = 0):
        super().__init__()
        self.config = config
        size = config.layer.hidden_size
        self.embedding = nn.Embedding(config.vocabulary, size)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(size, config.layer.norm_eps)
        self.head = nn.Linear(size, config.vocabulary, bias=False)
        self.gradient_checkpointing = False
        self._gradient_checkpointing_func: Callable[..., Any] = partial(checkpoint, use_reentrant=False)
        if seed is not None:
            initialise(self, seed, depth=config.layers)

    @overload
    def forward(
        self, tokens: Tensor, mask: Tensor | None = None, cu_seqlens: Tensor | None = None, state: None = None
    ) -> Tensor: ...

    @overload
    def forward(
        self, tokens: Tensor, mask: Tensor | None = None, cu_seqlens: Tensor | None = None, *, state: ModelState
    ) -> tuple[Tensor, ModelState]: ...

    def forward(
        self,
        tokens: Int[Tensor, "B T"],
        mask: Tensor | None = None,
        cu_seqlens: Int[Tensor, " N1"] | None = None,
        state: ModelState | None = None,
    ) -> Float[Tensor, "B T C"] | tuple[Float[Tensor, "B T C"], ModelState]:
        """Return the logits of each token's successor, [B, T, vocabulary]; with a state, the next one too.

        Args:
            tokens: int64, [B, T].
            mask: 1 at tokens, 0 at padding, wherever that lies; [B, T], or longer by what came before. Padding
                changes nothing, and the logits in its place mean nothing.
            cu_seqlens: bounds of N sequences packed one after the other, counted over the tokens of all rows (less
                padding); none of them sees another.
            state: what `fresh_state` or an earlier call returned, to go on from; None: from the start.

        Raises ValueError for a token that is not in the vocabulary, or a mask, bounds or a state that do not fit.
        """
        x, states = self.hidden(self.embed(tokens), mask, cu_seqlens, state)
        logits = self.head(self.norm(x))
        return logits if states is None else (logits, states)

    def embed(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """Return the tokens' embeddings; raises ValueError for a token that is not in the vocabulary."""
        known = self.embedding.num_embeddings
        if tokens.numel() and not torch.compiler.is_compiling():
            low, high = (int(x) for x in tokens.aminmax())
            if low < 0 or high >= known:
                raise ValueError(f"tokens has values in [{low}, {high}]; expected tokens from 0 to {known - 1}.")
        return self.embedding(tokens)

    def fresh_state(self, N: int, like: Tensor | None = None) -> ModelState:
        """Return the state of N sequences before their first token; like: see `QDeltaLayer.fresh_state`."""
        return tuple(block.mixer.fresh_state(N, like) for block in self.mixer_blocks())

    def mixer_blocks(self) -> list[Block]:
        """Return the blocks, first to last."""
        return [block for block in self.blocks if isinstance(block, Block)]

    def hidden(
        self,
        x: Float[Tensor, "B T D"],
        mask: Tensor | None = None,
        cu_seqlens: Int[Tensor, " N1"] | None = None,
        state: ModelState | None = None,
        watch: Callable[[Tensor], None] | None = None,
    ) -> tuple[Float[Tensor, "B T D"], ModelState | None]:
        """Take embeddings through all blocks; `watch` is shown what enters each block, as [B, T, D]."""
        B, T, _ = x.shape
        padding = None if mask is None else real_tokens(mask, B, T)
        if padding is None and cu_seqlens is not None and B > 1:
            padding = Padding(torch.ones(B, T, dtype=torch.bool, device=x.device))
        if padding is not None:
            x, cu_seqlens = padding.remove(x), padding.cu_seqlens if cu_seqlens is None else cu_seqlens
        packing = None if cu_seqlens is None else Packing(cu_seqlens, self.config.layer.conv_width, x.shape[1])
        N = B if packing is None else packing.N
        if state is not None and len(state[0].memory) != N:
            raise ValueError(f"state is of {len(state[0].memory)} sequences; expected one for each of the {N}.")
        restore = (lambda y: y) if padding is None else padding.restore
        states = []
        for number, block in enumerate(self.mixer_blocks()):
            if watch is not None:
                watch(restore(x))
            if state is not None:
                x, after = block(x, state[number], packing)
                states.append(after)
            elif self.gradient_checkpointing and self.training:
                x = self._gradient_checkpointing_func(block.__call__, x, None, packing)
            else:
                x = block(x, None, packing)
        return restore(x), None if state is None else tuple(states)

    def capture(
        self, tokens: Int[Tensor, "B T"], metadata: Mapping[str, str] | None = None
    ) -> tuple[QDeltaInputs, ...]:
        """Return what each layer feeds to the recurrence, as `qdelta_analysis.capture` does for any model."""
        from qdelta_analysis.capturing import capture

        return tuple(capture(self, tokens, metadata=metadata).values())
