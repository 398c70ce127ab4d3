"""What a figure was made from: parameters, versions, commit, and a fingerprint of everything that it draws."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .extras import from_extra
from .fingerprints import data_hash, fingerprint
from .strict import plain

with from_extra("lab"):
    import plotly.graph_objects as go

_PACKAGES = ("qdelta", "torch", "numpy", "plotly", "kaleido")


def provenance(figure: go.Figure, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters, versions, the toolkit's commit, the data's hash and the drawing's fingerprint, for JSON.

    Raises TypeError for a parameter that JSON cannot hold, ValueError for two names that are one text.
    """
    return {
        "parameters": plain(parameters),
        "versions": {"python": platform.python_version(), **_versions()},
        "commit": commit(),
        "data_sha256": data_hash(figure),
        "drawing": fingerprint(figure),
    }


def commit() -> str | None:
    """Return the commit of the checkout that this code runs from, with "+changes" if it was edited; None outside."""
    here = Path(__file__).resolve().parent
    git = lambda *words: subprocess.run(["git", "-C", str(here), *words], capture_output=True, text=True, check=True)
    try:
        tracked = git("ls-files", "--", Path(__file__).name).stdout.strip()
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "*.py").stdout.strip()
        head = git("rev-parse", "HEAD").stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return (head + "+changes" if changed else head) if tracked else None


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
