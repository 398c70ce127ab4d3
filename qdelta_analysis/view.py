"""What the explorer shows: one head's memory under chosen gates, as pure functions of the settings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
import torch

from qdelta_kernels import chunk_qdelta_diagnostics, qdelta_rule, recurrent_qdelta_rule

from .generators import GENERATORS
from .guarantees import Facts
from .inputs import QDeltaInputs
from .threads import one_thread

TRAINED = "trained model"
SOURCES = (TRAINED, *GENERATORS)
# The two-token cycle lives in a plane: a small memory shows it better.
_SIZES = {"two-token cycle": {"T": 64, "K": 8, "V": 8}}
_SIZE = {"T": 256, "K": 32, "V": 32}
_STRIDE = 64
# Past this norm float32, which the browser draws with, is about to overflow.
_LARGEST = 1e30


@dataclass(frozen=True)
class Gate:
    """One gate's setting: a number that replaces its values, or that scales them (alpha: scales g = log alpha)."""

    value: float
    scales: bool = False


@dataclass(frozen=True)
class Settings:
    """Everything that the explorer's controls say; `cos` counts for the cone alone."""

    source: str = TRAINED
    layer: int = 0
    head: int = 2  # of the trained heads the one in which most steps can expand the memory
    lam: Gate = Gate(1.0, scales=True)
    beta: Gate = Gate(1.0, scales=True)
    alpha: Gate = Gate(1.0, scales=True)
    cos: float = 0.5

    def inputs(self) -> QDeltaInputs:
        """Return the tokens of one head under these gates, float64.

        Raises ValueError for a source, layer or head that is not there, and for gates outside their range.
        """
        if self.source == TRAINED:
            x = _trained(self.layer, self.head)
            return self._replaced(x)
        if self.source not in GENERATORS:
            raise ValueError(f"source is {self.source!r}; expected one of {', '.join(SOURCES)}.")
        return GENERATORS[self.source](**self._options()).to(torch.float64)

    def code(self) -> str:
        """Return the Python that makes the same inputs and traces them."""
        if self.source == TRAINED:
            lines = ["from qdelta_analysis import load_trained, trace", ""]
            lines += [f"inputs = load_trained()[{self.layer}].heads({self.head})"]
            for name, gate in (("lam", self.lam), ("beta", self.beta), ("alpha", self.alpha)):
                if not gate.scales:
                    lines.append(f"inputs = inputs.with_{name}({gate.value!r})")
                elif gate.value != 1 and name == "alpha":
                    lines.append(f"inputs = inputs.with_alpha(inputs.alpha**{gate.value!r})")
                elif gate.value != 1:
                    lines.append(f"inputs = inputs.with_{name}({gate.value!r} * inputs.{name})")
        else:
            function = GENERATORS[self.source].__name__
            options = ", ".join(f"{name}={value!r}" for name, value in self._options().items())
            lines = ["from qdelta_analysis import generators, trace", "", f"inputs = generators.{function}({options})"]
        return "\n".join([*lines, "dataset = trace(inputs)", ""])

    def _replaced(self, x: QDeltaInputs) -> QDeltaInputs:
        lam, beta, alpha = self.lam, self.beta, self.alpha
        x = x.with_lam(lam.value * x.lam if lam.scales else lam.value)
        x = x.with_beta(beta.value * x.beta if beta.scales else beta.value)
        return replace(x, g=alpha.value * x.g) if alpha.scales else x.with_alpha(alpha.value)

    def _options(self) -> dict[str, float]:
        options = {**_SIZES.get(self.source, _SIZE), "lam": self.lam.value, "alpha": self.alpha.value}
        if self.source != "two-token cycle":  # there beta = 1 by definition
            options["beta"] = self.beta.value
        return options | ({"cos": self.cos} if self.source == "cone" else {})


@lru_cache(maxsize=16)
def _trained(layer: int, head: int) -> QDeltaInputs:
    from .data import load_trained

    layers = load_trained()
    if not 0 <= layer < len(layers):
        raise ValueError(f"layer is {layer}; expected 0 to {len(layers) - 1}.")
    if not 0 <= head < layers[layer].H:
        raise ValueError(f"head is {head}; expected 0 to {layers[layer].H - 1}.")
    return layers[layer].heads(head).to(torch.float64)


@dataclass(frozen=True, repr=False)
class View:
    """One head's memory through time, ready to be drawn: arrays over T tokens, S in the paper's layout [V, K].

    T ends before the memory's norm passes 1e30, if it does; `asked` is the number of tokens asked for.
    """

    asked: int
    k: np.ndarray  # [T, K]
    update: np.ndarray  # [T, V]: u_t in S_t = alpha_t S_{t-1} + u_t k_t^T
    alpha: np.ndarray  # [T]
    beta: np.ndarray
    lam: np.ndarray
    cos: np.ndarray  # of the angle between q and k
    beta_alignment: np.ndarray
    operator_norm: np.ndarray
    error_before: np.ndarray
    error_after: np.ndarray
    state_norm: np.ndarray
    anchors: np.ndarray  # [ceil(T / stride), V, K]: the state that enters tokens 0, stride, 2 stride, ...
    stride: int
    text: str  # the t-th character is token t; empty where tokens are no text
    facts: Facts  # about all the tokens asked for: what the guarantees read

    @property
    def T(self) -> int:
        """Tokens shown."""
        return len(self.alpha)

    @cached_property
    def labels(self) -> list[str] | None:
        """The tokens' text, or None."""
        return list(self.text[: self.T]) or None

    def state(self, token: int) -> np.ndarray:
        """Return S after a token, [V, K], float64, from the anchor before it."""
        first = token // self.stride
        S = self.anchors[first]
        for t in range(first * self.stride, token + 1):
            S = self.alpha[t] * S + np.outer(self.update[t], self.k[t])
        return S

    def singular_values(self, token: int) -> np.ndarray:
        """Return the singular values of S after a token, falling."""
        return np.linalg.svd(self.state(token), compute_uv=False)

    def eigenvalues(self, token: int) -> tuple[float, float]:
        """Return the transition's two distinct eigenvalues: alpha (d - 1 times) and alpha (1 - beta a)."""
        alpha = float(self.alpha[token])
        return alpha, alpha * (1 - float(self.beta_alignment[token]))


@one_thread()
def view(inputs: QDeltaInputs) -> View:
    """Follow one sequence and one head. Raises ValueError where inputs hold more of either."""
    if (inputs.B, inputs.H) != (1, 1):
        raise ValueError(f"inputs have B = {inputs.B} and {inputs.H} heads; expected one sequence and one head.")
    at = range(_STRIDE - 1, inputs.T - 1, _STRIDE)
    found = chunk_qdelta_diagnostics(**inputs.arguments(), at=at, keep_updates=True, chunk_size=_STRIDE)
    assert found.updates is not None
    facts = Facts(inputs)
    gates, geometry = facts.gates, facts.geometry
    norm = found.state_norm[0, :, 0].numpy()
    beyond = ~(norm < _LARGEST)
    T = max(1, int(beyond.argmax())) if beyond.any() else inputs.T
    start = inputs.initial_state
    start = found.states.new_zeros(1, 1, *found.states.shape[2:]) if start is None else start[:, None]
    anchors = torch.cat([start, found.states], dim=1)[0, :, 0].mT.numpy()
    per_token = {
        "alpha": gates.alpha,
        "beta": gates.beta,
        "lam": gates.lam,
        "cos": inputs.transition().cos,
        "beta_alignment": gates.beta * geometry.alignment,
        "operator_norm": gates.alpha * geometry.norm,
        "error_before": found.error_before,
        "error_after": found.error_after,
        "state_norm": found.state_norm,
    }
    return View(
        asked=inputs.T,
        k=inputs.k[0, :T, 0].numpy(),
        update=found.updates[0, :T, 0].numpy(),
        **{name: x[0, :T, 0].numpy() for name, x in per_token.items()},
        anchors=anchors[: -(-T // _STRIDE)],
        stride=_STRIDE,
        text=inputs.metadata.get("text", ""),
        facts=facts,
    )


@one_thread()
def outputs(inputs: QDeltaInputs) -> torch.Tensor:
    """Return o_t = K^-0.5 S_t q_t by the chunk form, [B, T, H, V]."""
    return qdelta_rule(**inputs.arguments())[0]


@one_thread()
def gated_deltanet_outputs(inputs: QDeltaInputs) -> torch.Tensor:
    """Return the outputs without query feedback, by the token loop: another code path than `outputs` takes."""
    return recurrent_qdelta_rule(**{**inputs.arguments(), "lam": None})[0]
