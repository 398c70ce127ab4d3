"""Canvases that show memories S_t [V, K] at any token, smoothly.

A memory obeys S_t = alpha_t S_{t-1} + u_t k_t^T, so Python sends the factors once and the browser
recomputes any state itself, from the nearest anchor before it: moving through time costs no kernel time.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import anywidget
import numpy as np
import numpy.typing as npt
import traitlets
from jaxtyping import Float32

from ..plots.theme import DIVERGING
from .parts import Whole, static

__all__ = ["StateScrubber"]

# How far a block's last state may lie from the next anchor, relative to the largest entry: generous for
# single precision, far below what a transposed or mismatched array gives.
_CONTINUITY = 1e-3


class StateScrubber(Whole, anywidget.AnyWidget):
    """Show memories S_t = alpha_t S_{t-1} + u_t k_t^T [V, K] as heat maps that play and scrub on one clock.

    Call `load` for each recording, or `load_side_by_side` for several; `token`, `playing`, `speed`, `limit`,
    `colors_span`, `title` and `colors` may be set and observed at any time. `token` (0-based) shows the state after
    that token and is reported back every `report_interval` milliseconds while it moves, and always where it stops.
    `limit` fixes the colour range to [-limit, limit], the same for all memories; None takes the largest |S_t| of all
    of them: of the whole recording, so that colours keep their meaning through time, or, where `colors_span` is
    "token", of the token that is shown. `speed` is in tokens per second. Cells beyond the range take the end colour,
    NaN is gray, and a line below the maps counts both.

    Raises traitlets.TraitError where a value set is outside its range.
    """

    _esm = static("scrubber.js")
    _css = static("scrubber.css")

    recording = traitlets.Dict(help="What load() sent, whole: one message, one frame.").tag(sync=True)
    token = traitlets.Int(0, min=0, help="Show the state after this token (0-based).").tag(sync=True)
    playing = traitlets.Bool(False, help="Whether time runs.").tag(sync=True)
    speed = traitlets.Float(20.0, help="Tokens per second while playing.").tag(sync=True)
    report_interval = traitlets.Int(125, min=0, help="Milliseconds between reports of a moving token.").tag(sync=True)
    limit = traitlets.Float(None, allow_none=True, help="Colour range; None: the largest there is.").tag(sync=True)
    colors_span = traitlets.Enum(("recording", "token"), "recording", help="Where limit None looks.").tag(sync=True)
    title = traitlets.Unicode("", help="One line above the maps.").tag(sync=True)
    colors = traitlets.List(traitlets.Unicode(), list(DIVERGING), help="#rrggbb from low to high.").tag(sync=True)

    def load(
        self,
        k: npt.ArrayLike,
        u: npt.ArrayLike,
        alpha: npt.ArrayLike,
        anchors: npt.ArrayLike,
        stride: int,
        labels: Iterable[str] | None = None,
    ) -> None:
        """Show the recording with factors k [T, K], u [T, V], alpha [T] and anchors [ceil(T/stride), V, K].

        `anchors[i]` is the state entering token i * stride, in the paper's layout; `labels` names the tokens.
        Raises ValueError for a wrong shape, a value that is not finite, or anchors that the factors do not
        lead to.
        """
        given = {"k": k, "u": u, "alpha": alpha, "anchors": anchors, "stride": stride}
        self._publish([_checked("", given)], labels)

    def load_side_by_side(self, memories: Mapping[str, Mapping[str, Any]], labels: Iterable[str] | None = None) -> None:
        """Show several memories, each under its name and with `load`'s k, u, alpha, anchors and stride.

        All have the same V and K. One that has fewer tokens than the longest stays at its last state, and says so;
        `labels` names the tokens of the longest. Raises ValueError as `load` does, and for no memory or other shapes.
        """
        found = [_checked(name, given) for name, given in memories.items()]
        if not found:
            raise ValueError("memories are none; expected at least one, under its name.")
        for memory in found:
            shapes = [f"[{m['values']}, {m['keys']}]" for m in (found[0], memory)]
            if shapes[0] != shapes[1]:
                raise ValueError(
                    f"memories must have one shape, got {shapes[0]} and, in {memory['name']!r}, {shapes[1]}."
                )
        self._publish(found, labels)

    def _publish(self, memories: list[dict[str, Any]], labels: Iterable[str] | None) -> None:
        tokens, peak = (max(memory[name] for memory in memories) for name in ("tokens", "peak"))
        shape = {name: memories[0][name] for name in ("values", "keys")}
        names = _labels(labels, tokens)
        with self.hold_sync():
            self.recording = {"tokens": tokens, "peak": peak, **shape, "labels": names, "memories": memories}
            self.token = min(self.token, tokens - 1)

    @traitlets.validate("token")
    def _clamp_token(self, proposal: dict[str, Any]) -> int:
        # A view may still report a token of the previous, longer recording.
        tokens = self.recording.get("tokens")
        return proposal["value"] if tokens is None else min(proposal["value"], tokens - 1)

    @traitlets.validate("speed", "limit")
    def _check_positive(self, proposal: dict[str, Any]) -> float | None:
        name, value = proposal["trait"].name, proposal["value"]
        if value is not None and not (np.isfinite(value) and value > 0):
            raise traitlets.TraitError(f"{name} must be positive and finite, got {value!r}.")
        return value

    @traitlets.validate("colors")
    def _check_colors(self, proposal: dict[str, Any]) -> list[str]:
        colors = proposal["value"]
        if len(colors) < 2:
            raise traitlets.TraitError(f"colors must name at least two colours, got {len(colors)}.")
        for color in colors:
            if len(color) != 7 or color[0] != "#" or not set(color[1:].lower()) <= set("0123456789abcdef"):
                raise traitlets.TraitError(f"colors must be written #rrggbb, got {color!r}.")
        return colors


def _checked(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the browser needs of one memory; raise ValueError, with the memory's name, for what is no memory."""
    of = f" of {name!r}" if name else ""
    if set(given) != {"k", "u", "alpha", "anchors", "stride"}:
        raise ValueError(f"memory {name!r} has {sorted(given)}; expected k, u, alpha, anchors and stride.")
    keys = _real(f"k{of}", given["k"], "T K")
    tokens = len(keys)
    if tokens == 0 or keys.shape[1] == 0:
        raise ValueError(f"k{of} must have at least one token and one key dimension, got shape {keys.shape}.")
    values = _real(f"u{of}", given["u"], "T V", T=tokens)
    if values.shape[1] == 0:
        raise ValueError(f"u{of} must have at least one value dimension, got shape {values.shape}.")
    decay = _real(f"alpha{of}", given["alpha"], "T", T=tokens)
    stride = given["stride"]
    if isinstance(stride, bool) or not isinstance(stride, int | np.integer) or stride < 1:
        raise ValueError(f"stride{of} must be a whole number of at least 1, got {stride!r}.")
    sizes = {"ceil(T/stride)": -(-tokens // int(stride)), "V": values.shape[1], "K": keys.shape[1]}
    starts = _real(f"anchors{of}", given["anchors"], "ceil(T/stride) V K", **sizes)
    return {
        "name": name,
        "tokens": tokens,
        "values": values.shape[1],
        "keys": keys.shape[1],
        "stride": int(stride),
        "peak": _sweep(keys, values, decay, starts, int(stride), of),
        "k": keys.tobytes(),
        "u": values.tobytes(),
        "alpha": decay.tobytes(),
        "anchors": starts.tobytes(),
    }


def _real(name: str, value: npt.ArrayLike, axes: str, **sizes: int) -> npt.NDArray[np.float32]:
    """Return `value` as finite float32 with the named axes, those in `sizes` of that length."""
    expected = "[" + ", ".join(f"{axis}={sizes[axis]}" if axis in sizes else axis for axis in axes.split()) + "]"
    try:
        array = np.asarray(value)
        if np.iscomplexobj(array):
            raise TypeError
        with np.errstate(over="ignore"):
            array = np.ascontiguousarray(array, dtype="<f4")
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{name} must be a real array {expected}, got {type(value).__name__}.") from None
    lengths = [sizes.get(axis) for axis in axes.split()]
    if array.ndim != len(lengths) or any(
        want not in (None, got) for want, got in zip(lengths, array.shape, strict=True)
    ):
        raise ValueError(f"{name} must have shape {expected}, got {list(array.shape)}.")
    finite = np.isfinite(array)
    if not finite.all():
        first = tuple(int(i) for i in np.argwhere(~finite)[0])
        raise ValueError(
            f"{name} must be finite in float32, got {array[first]} at index {list(first)} "
            f"({finite.size - np.count_nonzero(finite)} such values)."
        )
    return array


def _labels(labels: Iterable[str] | None, tokens: int) -> list[str] | None:
    """Return the labels as a list of one string for each token."""
    if labels is None:
        return None
    names = list(labels)
    if len(names) != tokens:
        raise ValueError(f"labels must name each of the {tokens} tokens, got {len(names)}.")
    for i, name in enumerate(names):
        if not isinstance(name, str):
            raise ValueError(f"labels must be strings, got {type(name).__name__} at index {i}.")
    return names


def _sweep(
    k: Float32[np.ndarray, "T K"],
    u: Float32[np.ndarray, "T V"],
    alpha: Float32[np.ndarray, " T"],
    anchors: Float32[np.ndarray, "N V K"],
    stride: int,
    of: str = "",
) -> float:
    """Return the largest |S_t|; raise ValueError where a block does not lead to the next anchor.

    All blocks advance together, so the Python loop runs `stride` times and not T times.
    """
    blocks, tokens = len(anchors), len(k)

    def split(array: npt.NDArray[np.float32], fill: float) -> npt.NDArray[np.float32]:
        tail = np.full((blocks * stride - tokens, *array.shape[1:]), fill, np.float32)
        return np.concatenate([array, tail]).reshape(blocks, stride, *array.shape[1:])

    # Past the last token the state stands still: alpha = 1 and u = 0.
    k_blocks, u_blocks, decay = split(k, 0.0), split(u, 0.0), split(alpha, 1.0)[..., None, None]
    state, write = anchors.copy(), np.empty_like(anchors)
    peak = 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        for i in range(min(stride, tokens)):
            state *= decay[:, i]
            state += np.multiply(u_blocks[:, i, :, None], k_blocks[:, i, None, :], out=write)
            peak = float(np.maximum(peak, np.maximum(state.max(), -state.min())))
        gaps = np.abs(state[:-1] - anchors[1:]).max(axis=(1, 2))
    if not np.isfinite(peak):
        raise ValueError(f"k, u, alpha and anchors{of} must give a finite memory, got one that overflows float32.")
    # Anchors themselves count, so that a wrong one is measured against its own size too.
    scale = max(peak, float(np.abs(anchors).max()))
    if (gaps > _CONTINUITY * scale).any():
        block = int(np.argmax(gaps > _CONTINUITY * scale)) + 1
        raise ValueError(
            f"anchors{of} must be [V, K] states that alpha S + u k^T leads to, got anchors[{block}], "
            f"{gaps[block - 1]:.3g} away from the state that k, u and alpha give at token {block * stride}."
        )
    return peak
