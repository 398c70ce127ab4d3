"""Training the paper's 340M model on a GPU: tokens a second, beside flash-linear-attention's Gated DeltaNet."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace
from statistics import median

import torch
from torch import Tensor, nn

from qdelta_analysis.learning import PAPER, LanguageModel, TrainingConfig, ablation, compile_blocks
from qdelta_analysis.learning.distributed import current
from qdelta_analysis.learning.fitting import adamw, backward
from qdelta_analysis.learning.tasks import IGNORED, Examples

from .agreement import lift_guard, require_close, require_gpu_and_peers
from .report import Figure, timing
from .timing import once

TITLE = "one training step of the paper's 340M model, 4 rows of 4,096 tokens, bfloat16 under autocast, AdamW"
PEER = "Gated DeltaNet as flash-linear-attention ships it"
REPEATS = 15


def measure(quick: bool = False) -> list[Figure]:
    """Check that the peer computes the same from the same weights, then time each model by itself."""
    require_gpu_and_peers("fla", "fla.models")
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
        seconds[name] = median(times)
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


def _model(rule: str) -> LanguageModel:
    paper = PAPER["340M"]
    return LanguageModel(replace(paper, layer=ablation(paper.layer)[rule]), seed=0).cuda()


def _peer() -> nn.Module:
    """Return flash-linear-attention's model of the same sizes, its kernels fused as it ships."""
    from fla.models import GatedDeltaNetConfig, GatedDeltaNetForCausalLM  # pyright: ignore[reportMissingImports]

    lift_guard()
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
    """Raise AssertionError unless our Gated DeltaNet gives the same logits and gradients as the peer of its weights."""
    ours, peer = _model("gated-deltanet"), _peer()
    peer.load_state_dict(_as_theirs(ours.state_dict()))
    examples = _examples(tokens)
    logits = []
    for forward in (ours, lambda x: peer(input_ids=x).logits):
        with torch.autocast("cuda", torch.bfloat16):
            y = forward(examples.tokens)
        loss = nn.functional.cross_entropy(y.float().flatten(0, 1), examples.targets.flatten(), ignore_index=IGNORED)
        loss.backward()
        logits.append(y.detach())
    require_close("the peer's logits", logits[1], logits[0], 0.05)
    theirs = _gradients(peer)
    for name, expected in _as_theirs(_gradients(ours)).items():
        if ".attn." in name and expected.ndim == 2:
            require_close(f"the peer's gradients of {name}", theirs[name], expected, 0.1)


def _gradients(model: nn.Module) -> dict[str, Tensor]:
    found = {}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{name} has no gradient"
        found[name] = parameter.grad
    return found


def _as_theirs(ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return what belongs to our parameters, under the names of the peer's."""
    outer = {"embedding.weight": "model.embeddings.weight", "norm.weight": "model.norm.weight"}
    theirs = {}
    for name, x in ours.items():
        name = outer.get(name, name.replace("blocks.", "model.layers.").replace("mixer", "attn"))
        if name.endswith("mlp.gate_up.weight"):
            stem = name.removesuffix("gate_up.weight")
            theirs[f"{stem}gate_proj.weight"], theirs[f"{stem}up_proj.weight"] = x.chunk(2)
        else:
            theirs[name.replace("mlp.down.", "mlp.down_proj.").replace("head.weight", "lm_head.weight")] = x
    return theirs
