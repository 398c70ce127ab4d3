"""Q-Delta's linear attention as operations on tensors; `qdelta_rule` is the one to call."""

from .chunkwise import chunk_qdelta_rule
from .diagnostics import Diagnostics, chunk_qdelta_diagnostics
from .operation import qdelta_rule
from .recurrent import recurrent_qdelta_rule
from .reference import qdelta_rule_reference

__all__ = [
    "Diagnostics",
    "chunk_qdelta_diagnostics",
    "chunk_qdelta_rule",
    "qdelta_rule",
    "qdelta_rule_reference",
    "recurrent_qdelta_rule",
]
