"""Where a sweep's tokens come from: functions of c = cos(q, k), d, N and the like that return one memory's inputs.

d is the width of keys and values, N how many tokens there are and so how many pairs are written.
"""

from __future__ import annotations

from collections.abc import Callable

from .. import generators
from ..inputs import QDeltaInputs

Source = Callable[..., QDeltaInputs]


def cone(c: float = 0.0, d: int = 64, N: int = 256, seed: int = 0) -> QDeltaInputs:
    """Unit keys uniform on the sphere, queries at the angle cos(q, k) = c to them."""
    return generators.cone(T=N, K=d, V=d, cos=c, seed=seed)


def isotropic(d: int = 64, N: int = 256, seed: int = 0) -> QDeltaInputs:
    """Unit queries and keys uniform on the sphere, independent of each other."""
    return generators.isotropic(T=N, K=d, V=d, seed=seed)


def repeated_keys(distinct: int = 16, d: int = 64, N: int = 256, seed: int = 0) -> QDeltaInputs:
    """Write to a few distinct keys again and again, and ask with them."""
    return generators.repeated_keys(T=N, K=d, V=d, distinct=distinct, seed=seed)


def two_token_cycle(lam: float = 1.0, d: int = 64, N: int = 64, seed: int = 0) -> QDeltaInputs:
    """The cycle along which the memory grows fastest; its queries depend on lam."""
    return generators.two_token_cycle(T=N, K=d, V=d, lam=lam, seed=seed)


def trained(layer: int = 0, head: int = 0, N: int = 1024) -> QDeltaInputs:
    """One head of the shipped trained model on its first N tokens, with its own gates where the sweep sets none."""
    from ..data import load_trained

    layers = load_trained()
    if not 0 <= layer < len(layers) or not 0 <= head < layers[0].H or not 1 <= N <= layers[0].T:
        raise ValueError(
            f"layer, head, N are {layer}, {head}, {N}; expected layer < {len(layers)}, head < {layers[0].H}, "
            f"1 <= N <= {layers[0].T}."
        )
    return layers[layer].heads(head).tokens(0, N)


SOURCES: dict[str, Source] = {
    "cone": cone,
    "isotropic": isotropic,
    "repeated keys": repeated_keys,
    "two-token cycle": two_token_cycle,
    "trained": trained,
}
