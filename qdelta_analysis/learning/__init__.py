"""Learning: the Q-Delta layer, a small language model over bytes, its corpus and its training loop."""

from .corpus import Corpus, load_corpus
from .layer import RULES, GatedRMSNorm, LayerConfig, QDeltaLayer, Rule, RuleInputs, ShortConvolution
from .model import ByteLanguageModel, ModelConfig
from .training import RunResult, TrainingConfig, evaluate, train

__all__ = [
    "RULES",
    "ByteLanguageModel",
    "Corpus",
    "GatedRMSNorm",
    "LayerConfig",
    "ModelConfig",
    "QDeltaLayer",
    "Rule",
    "RuleInputs",
    "RunResult",
    "ShortConvolution",
    "TrainingConfig",
    "evaluate",
    "load_corpus",
    "train",
]
