"""Inputs out of real models: what their delta-rule layers feed to the recurrence, and runs with query feedback."""

from .effects import lam_effect
from .patching import patch
from .recording import CaptureMismatchError, capture, record
from .sites import find_layers

__all__ = ["CaptureMismatchError", "capture", "find_layers", "lam_effect", "patch", "record"]
