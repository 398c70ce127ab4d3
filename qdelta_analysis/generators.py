"""Inputs by rule, seeded: how the recurrence behaves on tokens whose geometry is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, normalize

from .checks import require, require_count, require_room, require_seed
from .inputs import QDeltaInputs


def isotropic(
    T: int = 256, K: int = 32, V: int = 32, H: int = 1, *, beta=0.5, lam=0.5, alpha=1.0, seed: int = 0
) -> QDeltaInputs:
    """Draw q and k uniformly from the unit sphere in R^K, independently of each other; unit values."""
    draw = _Draw(T, K, V, H, seed)
    return _assemble("isotropic", draw.unit(K), draw.unit(K), draw.unit(V), beta, lam, alpha, seed=seed)


def cone(
    T: int = 256, K: int = 32, V: int = 32, H: int = 1, *, cos=0.5, beta=0.5, lam=0.5, alpha=1.0, seed: int = 0
) -> QDeltaInputs:
    """Draw k uniformly from the unit sphere and q at a fixed angle to it: cos(q, k) = cos, else uniform.

    q = cos k + sqrt(1 - cos^2) n with n uniform among the unit vectors orthogonal to k; K >= 2.
    """
    require("cos", cos, -1, 1)
    require_count("K", K, 2)
    draw = _Draw(T, K, V, H, seed)
    k, n = draw.unit(K), draw.unit(K)
    n = normalize(n - (n * k).sum(-1, keepdim=True) * k, dim=-1)
    q = normalize(cos * k + math.sqrt(1 - cos * cos) * n, dim=-1)
    return _assemble("cone", q, k, draw.unit(V), beta, lam, alpha, seed=seed, cos=cos)


def two_token_cycle(
    T: int = 64, K: int = 32, V: int = 32, H: int = 1, *, lam=1.0, alpha=1.0, seed: int = 0
) -> QDeltaInputs:
    """Alternate the two tokens along which the error contracts perfectly and the memory grows all the same.

        k1 = e1, q1 = e2;    q2 = (q1 - L k1) / sqrt(1 + L^2), k2 orthogonal to q2, q1 parallel to q2 - L k2

    With beta = 1 both have beta a = 1, the best contraction of the mixed error there is, yet the product of the
    two transitions has spectral radius alpha^2 (1 + L^2), L = lam. The vectors lie in the plane of the first two
    axes, K >= 2; they are float64, because rounding is amplified as the memory is. Source: this project's theory
    (claim G8: over all such tokens the joint spectral radius is alpha sqrt(1 + L^2)).
    """
    require_count("K", K, 2)
    require("lam", lam, 0, 2)
    draw = _Draw(T, K, V, H, seed)
    L = float(lam)
    r = math.hypot(1, L)
    plane = torch.zeros(2, 2, K, dtype=torch.float64)
    q, k = plane.unbind()
    q[0, 1], k[0, 0] = 1, 1
    q[1, 0], q[1, 1] = -L / r, 1 / r
    k[1, 0], k[1, 1] = -1 / r, -L / r
    q, k = (x[torch.arange(T) % 2].view(1, T, 1, K).expand(1, T, H, K) for x in (q, k))
    return _assemble("two-token cycle", q, k, draw.unit(V).double(), 1.0, lam, alpha, seed=seed)


def repeated_keys(
    T: int = 256, K: int = 32, V: int = 32, H: int = 1, *, distinct=16, beta=0.5, lam=0.5, alpha=1.0, seed: int = 0
) -> QDeltaInputs:
    """Write to a few keys again and again, and read with one of the same keys: overwriting and interference.

    Each token's k and q are drawn independently from `distinct` unit vectors that are uniform on the sphere.
    """
    require_count("distinct", distinct, 1)
    draw = _Draw(T, K, V, H, seed)
    require_room(f"{distinct} keys of width {K}", 8 * distinct * K)
    keys = normalize(torch.randn(distinct, K, generator=draw.random), dim=-1)
    q, k = (keys[torch.randint(distinct, (1, T, H), generator=draw.random)] for _ in range(2))
    return _assemble("repeated keys", q, k, draw.unit(V), beta, lam, alpha, seed=seed, distinct=distinct)


def random_gates(
    T: int = 512,
    K: int = 128,
    V: int = 64,
    H: int = 1,
    *,
    lam: float | Sequence[float] | np.ndarray = 0.289,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> QDeltaInputs:
    """Draw gates too, about as a trained layer has them: beta = sigmoid(N(0, 1)), g = logsigmoid(N(4, 1)).

    q and k are uniform on the unit sphere, independently of each other, values normal; lam is a number, or one for
    each head. Drawn on the device itself, so that a million tokens take no time; another device draws others. Gates
    are float32 where q, k and v have fewer bits. Raises ValueError for another number of lam.
    """
    if len(np.atleast_1d(lam)) not in (1, H):
        raise ValueError(f"lam has {len(np.atleast_1d(lam))} values; expected one, or one for each of {H} heads.")
    draw = _Draw(T, K, V, H, seed, device, torch.float64 if dtype == torch.float64 else torch.float32)
    q, k, v = draw.unit(K).to(dtype), draw.unit(K).to(dtype), draw.normal(V).to(dtype)
    beta, g = draw.normal(1)[..., 0].sigmoid(), logsigmoid(draw.normal(1)[..., 0] + 4)
    gate = torch.as_tensor(lam, dtype=beta.dtype, device=device).expand_as(beta)
    metadata = {"source": "random gates", "settings": f"seed={seed}"}
    return QDeltaInputs(q=q, k=k, v=v, g=g, beta=beta, lam=gate, metadata=metadata)


GENERATORS: dict[str, Callable[..., QDeltaInputs]] = {
    "isotropic": isotropic,
    "cone": cone,
    "two-token cycle": two_token_cycle,
    "repeated keys": repeated_keys,
}


class _Draw:
    """Draws from one seed."""

    def __init__(
        self,
        T: int,
        K: int,
        V: int,
        H: int,
        seed: int,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ):
        for name, size in {"T": T, "K": K, "V": V, "H": H}.items():
            require_count(name, size, 1)
        # q, k and v as they are drawn, made unit vectors and put in place.
        require_room(f"T, K, V, H = {T}, {K}, {V}, {H}", 3 * dtype.itemsize * T * H * (2 * K + V))
        self.T, self.H, self.dtype = T, H, dtype
        self.random = torch.Generator(device).manual_seed(require_seed(seed))

    def normal(self, width: int) -> Tensor:
        """Standard normal numbers: [1, T, H, width]."""
        size = (1, self.T, self.H, width)
        return torch.randn(size, generator=self.random, dtype=self.dtype, device=self.random.device)

    def unit(self, width: int) -> Tensor:
        """Unit vectors, uniform on the sphere: [1, T, H, width]."""
        return normalize(self.normal(width), dim=-1)


def _assemble(name: str, q: Tensor, k: Tensor, v: Tensor, beta, lam, alpha, **settings) -> QDeltaInputs:
    settings = {**settings, "beta": beta, "lam": lam, "alpha": alpha}
    require("alpha", alpha, math.ulp(0.0), 1)
    require("beta", beta, 0, 2)
    require("lam", lam, 0, 2)
    gate = torch.ones(v.shape[:3], dtype=v.dtype)
    return QDeltaInputs(
        q=q,
        k=k,
        v=v,
        g=math.log(alpha) * gate,
        beta=beta * gate,
        lam=lam * gate,
        metadata={"source": name, "settings": ", ".join(f"{key}={value}" for key, value in settings.items())},
    )
