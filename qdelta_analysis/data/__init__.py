"""The shipped trained model, its trace and its text; README.md says how they were made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qdelta_analysis.inputs import QDeltaInputs
    from qdelta_analysis.learning import LanguageModel

FOLDER = Path(__file__).parent
CORPUS = FOLDER / "pydoc_topics.txt.xz"
CORPUS_SHA256 = "71f2ff5d99bdc1f9c48c5c2353ad138201c5ca1c377e0226857ef8fa89b8bcee"
MODEL = FOLDER / "model.safetensors"
TEXT = FOLDER / "trained_text.txt"
RESULTS = FOLDER / "results.json"


def load_trained() -> tuple[QDeltaInputs, ...]:
    """Return what each layer of the shipped Q-Delta model fed to the recurrence on 1024 held-out bytes.

    One QDeltaInputs per layer, B = 1, T = 1024, H = HV = 4, K = V = 32, float32. q and k are unit vectors to
    float32's precision; q, k and v were stored in float16, the gates in float32. `metadata` names the layer,
    the rule, the seed and the command, and holds the text: its t-th character is token t.
    """
    from qdelta_analysis.learning.files import load_trace

    return tuple(load_trace(path) for path in sorted(FOLDER.glob("trained_layer*.safetensors")))


def load_model() -> LanguageModel:
    """Return the shipped model, whose float16 file holds its weights exactly."""
    from qdelta_analysis.learning.files import load_weights

    return load_weights(MODEL)


def load_results() -> dict[str, Any]:
    """Return the nine training runs behind the shipped model and what they were measured to reach."""
    return json.loads(RESULTS.read_text())
