"""Training the paper's 340M model on a GPU: tokens a second, beside flash-linear-attention's Gated DeltaNet."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from qdelta_analysis.learning import PAPER, LanguageModel, ModelConfig, TrainingConfig, ablation, compile_blocks
from qdelta_analysis.learning.distributed import current
from qdelta_analysis.learning.fitting import adamw, backward
from qdelta_analysis.learning.tasks import IGNORED, Examples

from .report import Figure, Unavailable, timing
from .timing import once

TITLE = "one training step of the paper's 340M model, 4 rows of 4,096 tokens, bfloat16 under autocast, AdamW"
PEER = "Gated DeltaNet as flash-linear-attention ships it"
REPEATS = 15


def measure(quick: bool = False) -> list[Figure]:
    """Check that the peer computes the same from the same weights, then time each model by itself."""
    if not torch.cuda.is_available():
        raise Unavailable("it needs a CUDA device, and this machine has none")
    if find_spec("fla") is None or find_spec("fla.models") is None:
        raise Unavailable("it needs flash-linear-attention: pip install 'qdelta[gpu-peers]'")
    rows, length = (1, 1024) if quick else (4, 4096)
    config = TrainingConfig(batch=rows, length=length, learning_rate=1e-4, precision="bfloat16")
    tokens = torch.randint(32_000, (rows, length), generator=torch.Generator().manual_seed(0)).cuda()
    _check(tokens)
    steps: dict[str, Callable[[], Callable[[], None]]] = {
        "Q-Delta, compiled": lambda: _ours(compile_blocks(_model("q-delta")), tokens, config),
        "Q-Delta, not compiled": lambda: _ours(_model("q-delta"), tokens, config),
        "Gated DeltaNet, compiled": lambda: _ours(compile_blocks(_model("gated-deltanet")), tokens, config),
        PEER: lambda: _theirs(_peer(), tokens, config),
    }
    figures, seconds = [], {}
    for name, make in steps.items():
        gc.collect()
        torch.cuda.empty_cache()
        step = make()
        for _ in range(3):
            step()
        torch.cuda.reset_peak_memory_stats()
        times = [once(step) for _ in range(REPEATS)]
        figure = timing(f"step, {name}", times)
        seconds[name] = sorted(times)[REPEATS // 2]
        figures += [
            figure,
            Figure(f"tokens a second, {name}", tokens.numel() / seconds[name] / 1e3, "thousand"),
            Figure(f"peak memory, {name}", torch.cuda.max_memory_allocated() / 2**30, "GiB"),
        ]
        print(f"{name}: {figure.value:.1f} {figure.unit}", flush=True)
        del step
    ratio = lambda a, b: Figure(f"tokens a second: {a} / {b}", seconds[b] / seconds[a], "x")
    return [
        *figures,
        replace(ratio("Q-Delta, compiled", PEER), at_least=1.0),
        ratio("Q-Delta, compiled", "Q-Delta, not compiled"),
        ratio("Q-Delta, compiled", "Gated DeltaNet, compiled"),
    ]


def _config(rule: str) -> ModelConfig:
    paper = PAPER["340M"]
    return ModelConfig(ablation(paper.layer)[rule], paper.layers, paper.mlp_size, paper.vocabulary)


def _model(rule: str) -> LanguageModel:
    return LanguageModel(_config(rule), seed=0).cuda()


def _peer() -> nn.Module:
    """Return flash-linear-attention's model of the same sizes, its kernels fused as it ships."""
    from fla.models import GatedDeltaNetConfig, GatedDeltaNetForCausalLM  # pyright: ignore[reportMissingImports]
    from fla.ops.common import chunk_o  # pyright: ignore[reportMissingImports]

    chunk_o.TRITON_ABOVE_3_7_1 = True  # its guard against miscompiled blocks that these sizes do not use
    paper = PAPER["340M"]
    config = GatedDeltaNetConfig(
        hidden_size=paper.layer.hidden_size,
        head_dim=paper.layer.key_dim,
        num_heads=paper.layer.heads,
        intermediate_size=paper.mlp_size,
        num_hidden_layers=paper.layers,
        norm_eps=paper.layer.norm_eps,
        vocab_size=paper.vocabulary,
        use_cache=False,
    )
    return GatedDeltaNetForCausalLM(config).cuda().train()


def _ours(model: LanguageModel, tokens: Tensor, config: TrainingConfig) -> Callable[[], None]:
    examples, optimizer = _examples(tokens), adamw(model, config)

    def step() -> None:
        optimizer.zero_grad()
        backward(model, examples, 0, config, current())
        optimizer.step()
        torch.cuda.synchronize()

    return step


def _theirs(model: nn.Module, tokens: Tensor, config: TrainingConfig) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, betas=config.betas, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.bfloat16):
            loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        optimizer.step()
        torch.cuda.synchronize()

    return step


def _examples(tokens: Tensor) -> Examples:
    """Ask for each token's successor, but not the last one's: flash-linear-attention's loss."""
    return Examples(tokens, torch.cat([tokens[:, 1:], torch.full_like(tokens[:, :1], IGNORED)], dim=1))


def _check(tokens: Tensor) -> None:
    """Raise AssertionError unless our Gated DeltaNet's weights give the same logits and gradients in the peer's model.

    Gradients too, as the peer's backward pass is run on chips for which it has a guard against wrong results.
    """
    ours, peer = _model("gated-deltanet"), _peer()
    peer.load_state_dict(
        {theirs: take(value) for name, value in ours.state_dict().items() for theirs, take in _names(name)}
    )
    examples = _examples(tokens)
    logits = {}
    for name, model in (("ours", ours), ("theirs", peer)):
        with torch.autocast("cuda", torch.bfloat16):
            logits[name] = model(examples.tokens) if name == "ours" else model(input_ids=tokens).logits
        loss = nn.functional.cross_entropy(
            logits[name].float().flatten(0, 1), examples.targets.flatten(), ignore_index=IGNORED
        )
        loss.backward()
        logits[name] = logits[name].detach()
    _require("logits", logits["theirs"], logits["ours"], 0.05)
    theirs = dict(peer.named_parameters())
    for name, parameter in ours.named_parameters():
        if ".mixer." in name and parameter.ndim == 2:
            assert parameter.grad is not None
            ((their_name, _),) = _names(name)
            _require(f"the gradient of {name}", theirs[their_name].grad, parameter.grad, 0.1)


def _names(name: str) -> list[tuple[str, Callable[[Tensor], Tensor]]]:
    """Return where the peer's model has a parameter of ours, and which part of it."""
    if name.endswith("gate_up.weight"):
        stem = name.removesuffix("gate_up.weight").replace("blocks.", "model.layers.")
        return [(f"{stem}{part}_proj.weight", lambda x, i=i: x.chunk(2)[i]) for i, part in enumerate(("gate", "up"))]
    whole = {
        "embedding.weight": "model.embeddings.weight",
        "norm.weight": "model.norm.weight",
        "head.weight": "lm_head.weight",
    }
    theirs = name.replace("blocks.", "model.layers.").replace("mixer", "attn").replace("mlp.down.", "mlp.down_proj.")
    return [(whole.get(name, theirs), lambda x: x)]


def _require(what: str, found: Tensor | None, expected: Tensor, tolerance: float) -> None:
    assert found is not None, f"there is no {what}"
    error = float((found.double() - expected.double()).norm() / expected.double().norm())
    assert error <= tolerance, f"{what}: the peer's differ by {error:.1e}, more than {tolerance:.0e}"
