"""Numbers m 2^e with integer exponents beside them: products and sums that pass through no overflow or underflow."""

from __future__ import annotations

import math
from typing import Any

# Below all exponents: nothing is aligned to a zero.
_LOWEST = -(1 << 20)


class Scaled:
    """m 2^e elementwise, |m| in [1/2, 1) or 0; m a NumPy array or torch tensor, whose gradients pass, e integers."""

    __slots__ = ("e", "m", "xp")

    def __init__(self, xp: Any, m: Any, e: Any = 0):
        own = exponent(xp, m)
        self.xp, self.m = xp, shifted(xp, m, -own)
        self.e = own + e

    def value(self) -> Any:
        """Return the numbers themselves, rounded to the dtype."""
        return shifted(self.xp, self.m, self.e)

    def __mul__(self, other: Scaled) -> Scaled:
        return Scaled(self.xp, self.m * other.m, self.e + other.e)

    def __truediv__(self, other: Scaled) -> Scaled:
        return Scaled(self.xp, self.m / other.m, self.e - other.e)

    def __neg__(self) -> Scaled:
        return Scaled(self.xp, -self.m, self.e)

    def __abs__(self) -> Scaled:
        return Scaled(self.xp, abs(self.m), self.e)

    def __add__(self, other: Scaled) -> Scaled:
        a, b, e = self._aligned(other)
        return Scaled(self.xp, a + b, e)

    def __sub__(self, other: Scaled) -> Scaled:
        return self + -other

    def hypot(self, other: Scaled) -> Scaled:
        """Return sqrt(self^2 + other^2)."""
        a, b, e = self._aligned(other)
        return Scaled(self.xp, hypot(self.xp, a, b), e)

    def _aligned(self, other: Scaled) -> tuple[Any, Any, Any]:
        # A zero keeps its own exponent, in which its gradient is told.
        xp, lowest = self.xp, self.xp.full_like(self.e + other.e, _LOWEST)
        a, b = (xp.where(x.m == 0, lowest, x.e) for x in (self, other))
        e = xp.where((self.m == 0) & (other.m == 0), xp.maximum(self.e, other.e), xp.maximum(a, b))
        return shifted(self.xp, self.m, self.e - e), shifted(self.xp, other.m, other.e - e), e


def exponent(xp: Any, x: Any) -> Any:
    """Return the integer e with 2^(e - 1) <= |x| < 2^e; 0 for 0 and for what is not finite."""
    return xp.frexp(x.detach() if hasattr(x, "detach") else x)[1]


def shifted(xp: Any, x: Any, e: Any) -> Any:
    """Return x 2^e for integers e of any size, rounded once: in two steps, for 2^e alone may not be a float."""
    info = xp.finfo(x.dtype)
    least, most = (math.frexp(float(y))[1] for y in (info.smallest_normal * info.eps, info.max))
    e = xp.clip(e, min=2 * least, max=2 * most - 8)
    half = e >> 1
    one = xp.ones_like(x)
    return x * xp.ldexp(one, half) * xp.ldexp(one, e - half)


def ratio(xp: Any, x: Any, of: Any) -> Any:
    """Return x / of, 0 where both are 0."""
    return x / xp.where((x == 0) & (of == 0), xp.ones_like(of), of)


def root(xp: Any, x: Any) -> Any:
    """Return sqrt(x), whose gradient at 0 is 0 here."""
    positive = x > 0
    return xp.where(positive, xp.sqrt(xp.where(positive, x, xp.ones_like(x))), xp.zeros_like(x))


def hypot(xp: Any, a: Any, b: Any) -> Any:
    """Return sqrt(a^2 + b^2), for arrays or `Scaled`; its gradient at 0 is 0 here."""
    if isinstance(a, Scaled):
        return a.hypot(b)
    nothing = (a == 0) & (b == 0)
    return xp.where(nothing, xp.zeros_like(a), xp.hypot(xp.where(nothing, xp.ones_like(a), a), b))
