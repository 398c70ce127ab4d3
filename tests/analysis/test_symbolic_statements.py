"""What the claims state is true of dense matrices: with every hypothesis, and not without one."""

import dataclasses
from functools import cache

import numpy as np
import pytest
import sympy as sp

from qdelta_analysis.symbolic import CLAIMS, Claim, claims
from qdelta_analysis.symbolic.dense import Tokens
from qdelta_analysis.symbolic.notation import DECAY, PLANE

from ..helpers import cases

CLAIM = claims()
STATED = [(name, i) for name in CLAIMS for i in range(len(CLAIM[name].conclusions))]
# Where a proof uses a hypothesis without which the relation happens to be true as well, on no draw false.
SPARED = {("G2", 1, PLANE), ("G3", 3, DECAY), ("G3", 6, PLANE)}
TRIED = [("G2", 0), ("G2", 1), *(("G3", i) for i in range(8)), ("G5", 0), *(("G6", i) for i in range(4))]
TRIED += [("G7", i) for i in range(3)]
EACH = [(name, i, h) for name, i in TRIED for h in CLAIM[name].conclusions[i].given if (name, i, h) not in SPARED]
EACH = [each for each in EACH if each[0] != "G7" or each[2] != PLANE]  # one dimension is never worse


def draw(make: np.random.Generator, wild: bool) -> Tokens:
    """Draw tokens of any kind: each quantity from its usual range, or from beyond, or at an end of it."""
    beyond = lambda: make.random() < (0.25 if wild else 0.02)
    d, T, V = int(make.choice([1, 2, 2, 3, 5])), int(make.integers(2, 6)), int(make.integers(1, 4))

    def gate(low: float, high: float, wide: tuple[float, float]) -> np.ndarray:
        ends = [(wide[0], low), (high, wide[1]), wide][make.integers(3)] if beyond() else (low, high)
        return 1.0 * make.choice(ends, T) if make.random() < 0.4 else make.uniform(*ends, T)

    def directions() -> np.ndarray:
        found = make.normal(size=(T, d))
        found /= np.linalg.norm(found, axis=-1, keepdims=True)
        long = 2.5 if beyond() else 1.0
        return found * (1.0 if make.random() < 0.6 else make.uniform(0, long, (T, 1)))

    k, q = directions(), directions()
    kind = make.random()
    if kind < 0.4:  # parallel, opposite
        q = (1 if kind < 0.2 else -1) * k * make.choice([1.0, 0.5])
    high = 2.0 if make.random() < 0.3 else 1.0
    beta, lam, alpha = gate(0, high, (-40, 3)), gate(0, high, (-3, 3)), gate(0, 1, (-1, 1.5)) * make.choice([1.0, 0.4])
    v = make.normal(size=(T, V))
    S = make.normal(size=(V, d)) * make.choice([1.0, 1e-3, 1e3])
    return Tokens(k, q, v, beta, lam, alpha, S, numbers(make, wild, Tokens(k, q, v, beta, lam, alpha, S)))


def numbers(make: np.random.Generator, wild: bool, t: Tokens) -> dict:
    """The numbers that claims name: close to what they bound, or too small for it."""
    low = 0.2 if wild else 0.02
    over = lambda x: float(x) * (make.uniform(0.5, 1) if make.random() < low else make.choice([1, 1, 1.2]))
    factor = np.abs(1 - t.beta * np.vecdot(t.k, t.x))[1:]
    drift = np.linalg.norm(t.before[1:] - t.after[:-1], axis=-1)
    size, decay = over(np.max(t.lam)), over(np.max(t.alpha))
    rate = decay * np.sqrt(1 + size**2)
    least = np.linalg.svd(t.steps, compute_uv=False)[:, 0]
    T = len(t.k)
    follows = np.full((T, T), 1 / T) if make.random() < 0.7 else np.eye(T)
    return {
        "z": make.normal() * 2,
        "rho": over(factor.max()),
        "r": over(drift.max()),
        "L": size,
        "a_max": decay,
        "gamma": over(rate),
        "b": over(np.max(t.beta * np.linalg.norm(t.v, axis=-1))),
        "part": make.uniform(0, 3) * (1 if make.random() < 0.7 else -1),
        "written": make.uniform(0, 2),
        "delta": over(np.min(np.abs(t.alpha) / np.maximum(least, 1e-9))) * make.choice([1, 1, 1.5]),
        "follows": follows,
        "n": int(make.integers(1, 5)),
        "isotropic": False,
        "mu_off": 0.0 if make.random() < 0.7 else make.uniform(0, 1),
        "top_off": 0.0 if make.random() < 0.7 else make.uniform(0, 1),
    }


def isotropic(make: np.random.Generator) -> Tokens:
    """All pairs of a rotated frame, both signs: the second moments of uniform directions, exactly; or half of it."""
    d = int(make.choice([1, 2, 3, 4]))
    frame = np.linalg.qr(make.normal(size=(d, d)))[0]
    cos = make.uniform(-1, 1)
    short = make.random() < 0.3
    pairs = [(i, j, s) for i in range(d) for j in range(d) if i != j or d == 1 for s in (1, -1)]
    pairs = pairs[: max(1, len(pairs) // 2)] if short else pairs
    k = np.array([frame[i] for i, _, _ in pairs])
    n = np.array([s * frame[j] for _, j, s in pairs])
    q = cos * k + np.sqrt(1 - cos**2) * n
    T, gates = len(k), [make.uniform(0, 1.2), make.uniform(0, 1.5), make.uniform(0.5, 1)]
    if make.random() < 0.3:  # no mixed direction
        q, gates[1] = -k, 1.0
    beta, lam, alpha = (np.full(T, x) for x in gates)
    S = make.normal(size=(1, d))
    follows = np.full((T, T), 1 / T) if make.random() < 0.6 else np.eye(T)
    more = {"isotropic": (not short and d > 1) or d == 1, "follows": follows, "n": int(make.integers(1, 5))}
    return Tokens(k, q, S, beta, lam, alpha, S, more)


def at_equalities(tokens: Tokens, claim: Claim, given, make) -> Tokens:
    """Put in what a hypothesis sets equal: lam = 0, unit vectors, an angle."""
    names = {str(h.lhs): h for h in given}
    values = lambda h: np.broadcast_to(claim.value(h.rhs, tokens), tokens.beta.shape).astype(float)
    for name, field in ((r"\beta", "beta"), (r"\lambda", "lam")):
        if name in names:
            tokens = dataclasses.replace(tokens, **{field: values(names[name])})
    for name, field in ((r"\|k\|", "k"), (r"\|q\|", "q")):
        if name in names:
            x = getattr(tokens, field) + 0.0
            size = np.linalg.norm(x, axis=-1, keepdims=True)
            x = np.where(size > 1e-9, x / np.where(size > 1e-9, size, 1), np.eye(tokens.d)[0])
            tokens = dataclasses.replace(tokens, **{field: x})
    if "c" in names and tokens.d > 1:
        cos = np.clip(values(names["c"]), -1, 1)[:, None]
        k = tokens.k / np.maximum(np.linalg.norm(tokens.k, axis=-1, keepdims=True), 1e-300)
        other = make.normal(size=k.shape)
        other -= np.sum(other * k, axis=-1, keepdims=True) * k
        other /= np.linalg.norm(other, axis=-1, keepdims=True)
        size = np.linalg.norm(tokens.q, axis=-1, keepdims=True)
        tokens = dataclasses.replace(tokens, q=size * (cos * k + np.sqrt(1 - cos**2) * other))
    return tokens


@cache
def drawn(at: int, frame: bool, wild: bool) -> Tokens:
    """The tokens of this number, the same for all claims."""
    make = np.random.default_rng([at, frame, wild])
    return isotropic(make) if frame else draw(make, wild)


def pool(name: str, index: int, amount: int, wild: bool):
    """Tokens for a claim, with what it sets equal mostly put in."""
    make = np.random.default_rng([int(name[1:]), index])
    claim, given = CLAIM[name], CLAIM[name].conclusions[index].given
    for at in range(amount):
        equal = [h for h in given if isinstance(h, sp.Eq) and make.random() < (0.9 if wild else 1)]
        yield at_equalities(drawn(at, name == "G10", wild), claim, equal, make)


@pytest.mark.cases
@pytest.mark.parametrize(("name", "index"), STATED)
def test_a_statement_is_true_of_dense_matrices_that_meet_its_hypotheses(name, index):
    claim, conclusion = CLAIM[name], CLAIM[name].conclusions[index]
    met = 0
    for tokens in pool(name, index, cases(300), wild=False):
        if all(claim.meets(tokens, h) for h in conclusion.given):
            met += 1
            assert claim.holds(tokens, conclusion), tokens
    assert met >= cases(300) // 20


@pytest.mark.cases
@pytest.mark.parametrize(("name", "index", "hypothesis"), EACH)
def test_a_statement_fails_somewhere_without_each_of_its_hypotheses(name, index, hypothesis):
    claim, conclusion = CLAIM[name], CLAIM[name].conclusions[index]
    others = [h for h in conclusion.given if h != hypothesis]
    found = 0
    for tokens in pool(name, index, cases(2000), wild=True):
        if not claim.meets(tokens, hypothesis) and all(claim.meets(tokens, h) for h in others):
            found += 1
            if not claim.holds(tokens, conclusion):
                return
    pytest.fail(f"{hypothesis} is not needed for {conclusion.relation}, or no draw shows it ({found} without it)")
