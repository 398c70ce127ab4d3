"""What a layer and a model are made of: sizes, the rule and its options, the paper's models and its ablation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal, get_args

from qdelta_analysis.checks import require, require_count

Rule = Literal["q-delta", "gated-deltanet", "deltanet", "linear-attention"]
RULES: tuple[Rule, ...] = get_args(Rule)
_DECAYING = ("q-delta", "gated-deltanet")  # where the rule's own form has a decay gate


@dataclass(frozen=True)
class LayerConfig:
    """The sizes of one layer, which rule it runs, and that rule's options.

        q-delta           S_t = alpha_t S_{t-1} (I - beta_t x_t k_t^T) + beta_t v_t k_t^T,   x_t = k_t + lam_t q_t
        gated-deltanet    the same with lam = 0
        deltanet          the same with lam = 0 and alpha = 1
        linear-attention  S_t = S_{t-1} + v_t k_t^T, or alpha_t S_{t-1} + v_t k_t^T with decay=True

    lam: the query feedback of "q-delta", a number in [0, 2]; None: learned, sigmoid(W_lamb x - lam_offset).
    decay: None is the rule's own form; "q-delta" may go without, "linear-attention" with.
    norm_compensation: "q-delta" forgets a little more at every step, so that ||A_t|| = alpha_t exactly: g_t is
        lowered by the logarithm of the norm of I - beta_t x_t k_t^T (claim G14 of this project's theory; our own
        variant, not the paper's).
    allow_neg_eigval: beta and a learned lam are doubled, as an option of the paper's released layer does; they leave
        the box in which beta a is within [0, 2].
    value_heads: a multiple of `heads`, each group of them sharing one q and k; None is `heads`.

    Raises ValueError for a size that is none, or options that the rule does not have.
    """

    hidden_size: int = 128
    heads: int = 4
    key_dim: int = 32
    value_dim: int = 32
    conv_width: int = 4
    lam_offset: float = 0.9
    norm_eps: float = 1e-5
    chunk_size: int = 32
    rule: Rule = "q-delta"
    lam: float | None = None
    decay: bool | None = None
    norm_compensation: bool = False
    allow_neg_eigval: bool = False
    value_heads: int | None = None

    def __post_init__(self):
        if self.rule not in RULES:
            raise ValueError(f"rule is {self.rule!r}; expected one of {', '.join(map(repr, RULES))}.")
        for name in ("hidden_size", "heads", "key_dim", "value_dim", "conv_width", "chunk_size"):
            require_count(name, getattr(self, name), 1)
        if self.value_heads is not None and (self.value_heads < 1 or self.value_heads % self.heads):
            raise ValueError(f"value_heads is {self.value_heads}; expected a multiple of heads = {self.heads}.")
        if self.lam is not None:
            require("lam", self.lam, 0, 2)
        if self.rule != "q-delta" and (self.lam is not None or self.norm_compensation):
            name = "lam" if self.lam is not None else "norm_compensation"
            raise ValueError(f"{name} is {getattr(self, name)}; expected none with rule {self.rule!r}, only 'q-delta'.")
        if self.allow_neg_eigval and not self.erases:
            raise ValueError(f"allow_neg_eigval is True; expected False with rule {self.rule!r}, which has no beta.")
        if self.norm_compensation and self.key_dim < 2:
            raise ValueError("key_dim is 1; expected at least 2 with norm_compensation.")
        if self.rule in ("gated-deltanet", "deltanet") and self.decay not in (None, self.rule in _DECAYING):
            other = "deltanet" if self.rule == "gated-deltanet" else "gated-deltanet"
            raise ValueError(f"decay is {self.decay} with rule {self.rule!r}; expected rule {other!r} for that.")

    @property
    def groups(self) -> int:
        """How many value heads share one q and k."""
        return self.memories // self.heads

    @property
    def memories(self) -> int:
        """How many memories, one to each value head."""
        return self.heads if self.value_heads is None else self.value_heads

    @property
    def decays(self) -> bool:
        """Whether the layer has a decay gate."""
        return self.rule in _DECAYING if self.decay is None else self.decay

    @property
    def erases(self) -> bool:
        """Whether it is a delta rule, with a write strength beta; linear attention writes every value as it is."""
        return self.rule != "linear-attention"

    @property
    def learns_lam(self) -> bool:
        """Whether the query feedback is a gate of its own."""
        return self.rule == "q-delta" and self.lam is None


@dataclass(frozen=True)
class ModelConfig:
    """The sizes of the model; `layer` holds those of its token mixers and the rule."""

    layer: LayerConfig = field(default_factory=LayerConfig)
    layers: int = 3
    mlp_size: int = 320
    vocabulary: int = 256

    def __post_init__(self):
        for name in ("layers", "mlp_size", "vocabulary"):
            require_count(name, getattr(self, name), 1)


def ablation(base: LayerConfig) -> Mapping[str, LayerConfig]:
    """Return the paper's ablation as configs, by name, with its baselines before and our variant at the end.

    `base` gives the sizes. Source: Q-Delta (arXiv 2606.08804), its ablation table at 340M; the last one is ours.
    """
    plain = replace(base, rule="q-delta", lam=None, decay=None, norm_compensation=False)
    return MappingProxyType(
        {
            "linear-attention": replace(plain, rule="linear-attention", allow_neg_eigval=False),
            "deltanet": replace(plain, rule="deltanet"),
            "gated-deltanet": replace(plain, rule="gated-deltanet"),
            "q-delta": plain,
            "q-delta, lam = 0.2": replace(plain, lam=0.2),
            "q-delta, lam = 0.5": replace(plain, lam=0.5),
            "q-delta, lam = 0.8": replace(plain, lam=0.8),
            "q-delta, lam = 1": replace(plain, lam=1.0),
            "q-delta, no decay": replace(plain, decay=False),
            "q-delta, norm-compensated": replace(plain, norm_compensation=True),
        }
    )


def _paper(hidden_size: int, key_dim: int, mlp_size: int) -> ModelConfig:
    layer = LayerConfig(hidden_size, 6, key_dim, 2 * key_dim, norm_eps=1e-6, chunk_size=64)
    return ModelConfig(layer, layers=21, mlp_size=mlp_size, vocabulary=32000)


# The two models of the paper, as in the configs that its authors released: 21 layers of 6 heads, values twice as wide
# as keys, SwiGLU of 8/3 of the width rounded up to a multiple of 256, embedding and head apart.
PAPER: Mapping[str, ModelConfig] = MappingProxyType({"340M": _paper(1024, 128, 2816), "1.3B": _paper(2048, 256, 5632)})
