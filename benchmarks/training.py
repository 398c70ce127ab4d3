"""Training the paper's 340M model on a GPU: tokens a second, beside flash-linear-attention's Gated DeltaNet."""

from __future__ import annotations

import gc
from collections.abc import Callable
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
PEER = "Gated DeltaNet by flash-linear-attention"
REPEATS = 15


def measure(quick: bool = False) -> list[Figure]:
    """Check that the peer computes the same loss from the same weights, then time each model by itself."""
    if not torch.cuda.is_available():
        raise Unavailable("it needs a CUDA device, and this machine has none")
    if find_spec("fla") is None:
        raise Unavailable("it needs flash-linear-attention: pip install 'qdelta[gpu-peers]'")
    rows, length = (1, 1024) if quick else (4, 4096)
    config = TrainingConfig(batch=rows, length=length, learning_rate=1e-4, precision="bfloat16")
    tokens = torch.randint(32_000, (rows, length), generator=torch.Generator().manual_seed(0)).cuda()
    print(f"losses at first: {_same_loss(tokens)}", flush=True)
    steps: dict[str, Callable[[], Callable[[], None]]] = {
        "Q-Delta": lambda: _ours(compile_blocks(_model("q-delta")), tokens, config),
        "Q-Delta, not compiled": lambda: _ours(_model("q-delta"), tokens, config),
        "Gated DeltaNet": lambda: _ours(compile_blocks(_model("gated-deltanet")), tokens, config),
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
    return [
        *figures,
        Figure(f"tokens a second: Q-Delta / {PEER}", seconds[PEER] / seconds["Q-Delta"], "x", at_least=1.0),
        Figure("tokens a second: Q-Delta / Gated DeltaNet", seconds["Gated DeltaNet"] / seconds["Q-Delta"], "x"),
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


def _same_loss(tokens: Tensor) -> str:
    """Raise AssertionError unless our Gated DeltaNet's weights give the same loss in the peer's model."""
    ours, peer = _model("gated-deltanet"), _peer()
    theirs = {}
    for name, value in ours.state_dict().items():
        name = name.replace("blocks.", "model.layers.").replace("mixer", "attn").replace("head.", "lm_head.")
        if name.endswith("gate_up.weight"):
            stem = name.removesuffix("gate_up.weight")
            theirs[f"{stem}gate_proj.weight"], theirs[f"{stem}up_proj.weight"] = value.chunk(2)
        else:
            theirs[name.replace("mlp.down.", "mlp.down_proj.")] = value
    for name in ("embedding", "norm"):
        theirs[f"model.{name}.weight".replace("embedding", "embeddings")] = theirs.pop(f"{name}.weight")
    peer.load_state_dict(theirs)
    examples = _examples(tokens)
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
        logits = ours(examples.tokens).float().flatten(0, 1)
        a = float(nn.functional.cross_entropy(logits, examples.targets.flatten(), ignore_index=IGNORED))
        b = float(peer(input_ids=tokens, labels=tokens).loss)
    assert abs(a - b) < 2e-3 * a, f"the peer's loss is {b}, ours {a}"
    return f"{a:.4f}, {PEER} {b:.4f}"
