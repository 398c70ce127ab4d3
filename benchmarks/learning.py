"""Training the small language model against transformers' Gated DeltaNet path, and what capture adds to a forward."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qdelta_analysis import capture
from qdelta_analysis.learning import LanguageModel, LayerConfig, ModelConfig, RuleInputs

from .report import Figure, among_others, timing
from .timing import interleaved

TITLE = "one training step of the shipped model's sizes, B = 4, T = 512; capture() on T = 2048 (fewer with --quick)"


def measure(quick: bool = False) -> list[Figure]:
    """Check that both paths train the same model and that capture changes no logits, then time them in turn."""
    return [*_training(quick), *_capturing(quick)]


def _training(quick: bool) -> list[Figure]:
    T, repeats = (128, 3) if quick else (512, 15)
    tokens = torch.randint(256, (4, T + 1), generator=torch.Generator().manual_seed(0))
    ours = {rule: LanguageModel(ModelConfig(LayerConfig(rule=rule))) for rule in ("q-delta", "gated-deltanet")}
    peer = _with_peer(ours["gated-deltanet"])
    _check_training(ours["gated-deltanet"], peer, tokens)
    times = interleaved(
        {
            "q-delta": _step(ours["q-delta"], tokens),
            "gated-deltanet": _step(ours["gated-deltanet"], tokens),
            "peer": _step(peer, tokens),
        },
        repeats,
    )
    figures = [
        timing("training step, Q-Delta", times.seconds["q-delta"]),
        timing("training step, Gated DeltaNet", times.seconds["gated-deltanet"]),
        timing("training step, Gated DeltaNet by transformers' torch path", times.seconds["peer"]),
        Figure("training step: Q-Delta / transformers' path", times.ratio("q-delta", "peer"), "x", at_most=1.5),
        Figure("training step: Q-Delta / Gated DeltaNet", times.ratio("q-delta", "gated-deltanet"), "x"),
    ]
    return among_others(figures, times.others, "the training steps")


def _capturing(quick: bool) -> list[Figure]:
    T, repeats = (256, 3) if quick else (2048, 11)
    tokens = torch.randint(256, (1, T), generator=torch.Generator().manual_seed(0))
    models = {"Qwen3.5": _qwen(), "this project's": _large()}
    figures, others = [], 0.0
    for name, model in models.items():
        forward = lambda model=model: _forward(model, tokens)
        captured = lambda model=model: capture(model, tokens)
        logits = forward()
        captured()
        assert torch.equal(forward(), logits), "capture changed the model"
        times = interleaved({"forward": forward, "capture": captured}, repeats)
        ratio = times.ratio("capture", "forward")
        figures += [
            timing(f"forward, {name} model", times.seconds["forward"]),
            timing(f"capture(), {name} model, all layers", times.seconds["capture"]),
            Figure(f"capture() / forward, {name} model", ratio, "x", at_most=1.1),
        ]
        others = max(others, times.others)
    return among_others(figures, others, "capture")


def _step(model: LanguageModel, tokens: Tensor) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        _loss(model, tokens).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def _loss(model: LanguageModel, tokens: Tensor) -> Tensor:
    return F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


def _with_peer(model: LanguageModel) -> LanguageModel:
    """Copy a Gated DeltaNet model and let transformers compute its recurrence, without the function's wrapper."""
    from transformers.models.qwen3_next.modeling_qwen3_next import torch_chunk_gated_delta_rule

    function = inspect.unwrap(torch_chunk_gated_delta_rule)

    def recurrence(inputs: RuleInputs, **options: Any) -> tuple[Tensor, Tensor | None]:
        q, k, v, g, beta, _ = inputs
        return function(q, k, v, g=g, beta=beta)

    peer = copy.deepcopy(model)
    for block in peer.mixer_blocks():
        block.mixer.recurrence = recurrence  # pyright: ignore[reportAttributeAccessIssue]
    return peer


def _check_training(ours: LanguageModel, peer: LanguageModel, tokens: Tensor) -> None:
    """Raise AssertionError unless both give the same loss and gradients."""
    for model in (ours, peer):
        model.zero_grad()
        _loss(model, tokens).backward()
    for (name, a), b in zip(ours.named_parameters(), peer.parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        error = float((a.grad - b.grad).norm() / a.grad.norm())
        assert error < 1e-3, f"the gradients of {name} differ by {error:.1e}"
    model = copy.deepcopy(ours).double()
    assert (_loss(ours, tokens) - _loss(model, tokens)).abs().item() < 1e-5


@torch.no_grad()
def _forward(model: nn.Module, tokens: Tensor) -> Tensor:
    if isinstance(model, LanguageModel):
        return model(tokens)
    return model(tokens, use_cache=False).logits


def _qwen() -> nn.Module:
    """A Qwen3.5 of random weights: three linear layers to one of attention, hidden size 512, heads as in the 0.8B."""
    from transformers import Qwen3_5ForCausalLM, Qwen3_5TextConfig

    torch.manual_seed(0)
    config = Qwen3_5TextConfig(
        vocab_size=256,
        hidden_size=512,
        intermediate_size=1792,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=128,
        linear_num_key_heads=4,
        linear_num_value_heads=4,
        linear_key_head_dim=128,
        linear_value_head_dim=128,
    )
    return Qwen3_5ForCausalLM(config).eval()


def _large() -> LanguageModel:
    """Layers of the paper's shape, half as wide as its 340M model."""
    layer = LayerConfig(512, 3, 128, 256, norm_eps=1e-6, chunk_size=64)
    return LanguageModel(ModelConfig(layer, layers=4, mlp_size=1536)).eval()
