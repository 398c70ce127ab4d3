"""The proofs: every claim is derived, every false one refused, and the formulas hold in numbers."""

import copy
import dataclasses
import math
import re
from functools import cache

import numpy as np
import pytest
import sympy as sp
import torch
from torch.nn.functional import normalize

from qdelta_analysis import Transition, generators, products
from qdelta_analysis.symbolic import (
    CLAIMS,
    Claim,
    Conclusion,
    Derivation,
    Fact,
    ProofError,
    check,
    chunks,
    claims,
    closed_forms,
    eigenvalues_function,
    joint_spectral_radius_of_a_box,
    norm_envelope_function,
    operator_norm_function,
    prove,
    prove_all,
    released_difference,
)
from qdelta_analysis.symbolic.notation import L, a, across, along, beta, c, d, dot, kappa, lam, t, tex, z
from qdelta_kernels import chunk_qdelta_rule, qdelta_rule_reference

from ..helpers import tokens
from .test_transition import DEGENERATE


@pytest.mark.parametrize("claim", CLAIMS)
def test_each_claim_is_proved_and_each_of_its_relations_is_a_step(claim):
    proof = prove(claim)
    assert proof.claim == claim
    assert proof.title
    assert proof.dimension
    stated = [step.relation for step in proof.steps if step.states]
    assert len(stated) == len(claims()[claim].conclusions)
    assert all(tex(c.relation) in proof.statement for c in claims()[claim].conclusions)
    # What is only cited stays the smaller part.
    assert 2 * len(proof.cited) < len(proof.steps)


def test_the_claims_are_g1_to_g14_and_are_proved_the_same_again():
    assert tuple(f"G{i}" for i in range(1, 15)) == CLAIMS
    assert prove_all() == {claim: finished(claim).proof() for claim in CLAIMS}
    assert prove("G3") is prove("G3")


def test_no_claim_rests_on_itself():
    used = {
        claim: {step.reason.split()[1].rstrip(":") for step in prove(claim).steps if step.kind == "claim"}
        for claim in CLAIMS
    }
    order = {claim: i for i, claim in enumerate(CLAIMS)}
    assert all(order[other] < order[claim] for claim, others in used.items() for other in others)
    assert used["G8"] == {"G7"}
    assert used["G14"] == {"G3", "G7"}


def test_proofs_read_as_mathematics():
    for proof in (*prove_all().values(), joint_spectral_radius_of_a_box(), released_difference()):
        latex, html = proof.to_latex(), proof._repr_html_()
        assert proof._repr_latex_() == latex
        assert latex.count(r"\item") == html.count("<li>") == len(proof.steps)
        for text in (proof.title, proof.statement, *proof.hypotheses, *(step.reason for step in proof.steps)):
            words = text.split("$")
            assert len(words) % 2 == 1
            assert not re.search(r"[%_&#\\^{}<>]", "".join(words[::2])), text
            assert text[0] == text[0].upper() or text in proof.hypotheses
        for step in proof.steps:
            assert step.latex.count("{") == step.latex.count("}")
            assert "$" not in step.latex
        assert html.count("<") == html.count(">")


def test_formulas_are_written_as_one_writes_them():
    room = Derivation(nothing(2 - beta > 0)).room(2 - beta, positive=True)
    assert tex(sp.Abs(beta * a - 1)) == r"\left|{1 - \beta a}\right|"
    assert tex(2 * beta * a - 1 + beta**2) == r"2 \beta a - 1 + \beta^{2}"
    assert tex(1 + lam**2 + 2 * lam * c - lam / c) == r"1 + 2 \lambda c + \lambda^{2} - \frac{\lambda}{c}"
    assert tex(beta * room**2) == r"\beta {\left(2 - \beta\right)}^{2}"
    assert tex(beta / room) == r"\frac{\beta}{2 - \beta}"
    assert r"$0 \le \beta \le 1$" in prove("G6").statement
    proof = prove("G12")
    assert proof.vouched in proof._repr_html_()


def test_a_name_that_is_no_claim():
    with pytest.raises(ValueError, match="claim is 'G15'; expected one of G1, G2"):
        prove("G15")


def nothing(*hypotheses, relation=sp.true):
    """A claim for trying the engine."""
    return Claim("G0", "Nothing", "<0>", (Conclusion(relation, tuple(hypotheses)),), "any dimension")


BESIDE = {"Beside G8": joint_spectral_radius_of_a_box, "Beside G12": released_difference}


# Each formula, wrong in one place; the proofs of the claims named must not go through.
PERTURBED = {
    "transition": (
        lambda f: lambda k, x, *rest: f(k, x + k, *rest),
        ("G1", "G3", "G4", "G8", "G9", "G10", "G11", "G12", "G13"),
    ),
    "eigenvalues": (lambda f: lambda alpha, beta, a: f(alpha, beta, 2 * a), ("G1", "G2")),
    "spectral_radius": (lambda f: lambda *x: f(*x) + 1, ("G2",)),
    "singular_product": (lambda f: lambda beta, a: f(beta, a) + beta, ("G3", "G13")),
    "singular_square_sum": (lambda f: lambda beta, a, kk, xx: f(beta, a, 1, xx), ("G3", "G13")),
    "sides": (lambda f: lambda beta, kappa, *x: f(beta, 1, *x), ("G3",)),
    "operator_norm": (lambda f: lambda alpha, beta, *x: f(alpha, beta / 2, *x), ("G3", "G7", "G14")),
    "error_factor": (lambda f: lambda beta, a: f(beta, a) ** 2 + beta, ("G2", "G4", "G8")),
    "tracking_bound": (lambda f: lambda rho, drift, e0, t: f(rho, drift, e0, t + 1), ("G5",)),
    "alignment": (lambda f: lambda lam, c, *size: f(lam, c, *size) + lam, ("G6", "Beside G8")),
    "norm_envelope": (lambda f: lambda alpha, lam: f(alpha, lam / 2), ("G7", "G8", "G9", "G12")),
    "largest_norm": (lambda f: lambda alpha, beta, *rest: f(alpha, beta / 2, *rest), ("G7", "G14")),
    "worst_cosine": (lambda f: lambda beta, lam: -f(beta, lam), ("G7", "Beside G8")),
    "aligned_norm": (lambda f: lambda alpha, beta, lam: f(alpha, beta, lam / 2), ("Beside G8",)),
    "cycle_tokens": (lambda f: lambda L: f(L)[::-1] and (f(L)[0], f(2 * L)[1]), ("G8", "G9", "G12")),
    "memory_bound": (lambda f: lambda gamma, write, s0, t: f(gamma, 2 * write, s0, t), ("G9", "G14")),
    "mean_square_growth": (lambda f: lambda alpha, beta, lam, c, d: f(alpha, beta, lam, c, d - 1), ("G10",)),
    "critical_beta": (lambda f: lambda lam, c: f(lam, -c), ("G10",)),
    "excitation_bound": (lambda f: lambda alpha, beta, mu, top: f(alpha, beta, 2 * mu, top), ("G11",)),
    "erase_entry": (lambda f: lambda *x: -f(*x), ("G12", "Beside G12")),
    "reduced_norm": (lambda f: lambda alpha, beta, kk: f(alpha, beta, 2 * kk), ("G13",)),
    "compensated_decay": (lambda f: lambda alpha, largest: f(alpha, largest**2), ("G14",)),
    "compensation_price": (lambda f: lambda beta, lam: 2 * f(beta, lam), ("G14",)),
}


@pytest.mark.parametrize(("formula", "claim"), [(f, claim) for f, (_, claims) in PERTURBED.items() for claim in claims])
def test_a_wrong_formula_has_no_proof(formula, claim, monkeypatch):
    monkeypatch.setattr(closed_forms, formula, PERTURBED[formula][0](getattr(closed_forms, formula)))
    with pytest.raises(ProofError) as error:
        BESIDE[claim].__wrapped__() if claim in BESIDE else prove.__wrapped__(claim)
    assert error.value.claim == claim
    assert error.value.step in str(error.value)
    assert error.value.residual != 0


def test_every_formula_is_perturbed_and_every_claim_affected():
    formulas = {name for name, f in vars(closed_forms).items() if getattr(f, "__module__", "") == closed_forms.__name__}
    assert formulas == set(PERTURBED)
    assert {claim for _, claims in PERTURBED.values() for claim in claims} == {*CLAIMS, *BESIDE}


def cycle_radius():
    (k1, q1), (k2, q2) = closed_forms.cycle_tokens(L)
    x1, x2 = k1 + L * q1, k2 + L * q2
    check(sp.Matrix([dot(k1, x1) - 1, dot(k2, x2) - 1]), "beta a = 1, inside (0, 2), at both tokens")
    product = closed_forms.transition(k1, x1, 1) * closed_forms.transition(k2, x2, 1)
    return sp.sqrt(product.trace())


NORM = closed_forms.operator_norm(1, beta, kappa, along, across)
SQUARES = closed_forms.operator_norm(1, beta, kappa, along, across) ** 2
TWO = chunks.Tokens.symbols(2)
FALSE = {
    "||A|| <= 1": lambda: sp.Le(NORM, 1),
    "||A|| <= alpha sqrt(1 + lam^2) without unit vectors": lambda: sp.Le(NORM, closed_forms.norm_envelope(1, lam)),
    "||A|| = rho(A)": lambda: sp.Eq(NORM, closed_forms.spectral_radius(1, beta, kappa * along)),
    "||A|| <= alpha sqrt(1 + lam^2 beta / 2)": lambda: sp.Le(
        closed_forms.largest_norm(1, sp.S.Half, lam), sp.sqrt(1 + lam**2 / 4)
    ),
    "JSR <= 1 when beta a is in (0, 2)": lambda: sp.Le(cycle_radius(), 1),
    "the released form equals the recurrence": lambda: (
        sp.Matrix.vstack(*chunks.chunk(TWO, released=True)) - sp.Matrix.vstack(*chunks.recurrence(TWO))
    ),
    "s+^2 + s-^2 without ||k||^2": lambda: (
        SQUARES
        + (NORM - closed_forms.sides(beta, kappa, along, across)[0]) ** 2
        - closed_forms.singular_square_sum(beta, kappa * along, 1, along**2 + across**2)
    ),
    "doubled gates keep beta a at most 2": lambda: sp.Ge(2 - beta * closed_forms.alignment(lam, c), 0),
    "mean-square growth is at most 1 for beta <= 1": lambda: sp.Le(
        closed_forms.mean_square_growth(1, beta, lam, c, d), 1
    ),
    "the chunk inverse stays below 1": lambda: sp.Le(chunks.inverse(TWO.erase())[1, 0], 1),
    "the memory bound is constant in t": lambda: (
        closed_forms.memory_bound(z, 1, 0, t + 1) - closed_forms.memory_bound(z, 1, 0, t)
    ),
    "compensation costs nothing": lambda: sp.Le(closed_forms.compensation_price(sp.S.Half, lam), 0),
}


@pytest.mark.parametrize("name", FALSE)
def test_a_false_claim_is_refused_with_a_point_where_it_fails(name):
    statement = FALSE[name]()
    with pytest.raises(ProofError, match="leaves") as error:
        check(statement, name)
    point = error.value.witness
    assert point
    # The point does refute the claim, by substitution alone.
    if isinstance(statement, sp.core.relational.Relational) and not isinstance(statement, sp.Eq):
        assert statement.subs(point) == sp.false
    else:
        sides = statement.lhs - statement.rhs if isinstance(statement, sp.Eq) else statement
        assert max(abs(complex(x)) for x in sp.Matrix([sides]).subs(point)) > 1e-6


def test_check_accepts_what_is_true():
    check(sp.sqrt(2) * sp.sqrt(3) - sp.sqrt(6), "a number")
    check(sp.Matrix([[(lam + 1) ** 2 - lam**2 - 2 * lam - 1, 0]]), "a matrix")
    check(sp.Eq(sp.sin(z) ** 2 + sp.cos(z) ** 2, 1), "an equation")
    check(sp.Ge(z**2 - 2 * z + 1, 0), "a square, seen after factoring")
    check(sp.Gt(kappa + 1, 0), "a strict inequality")


def test_what_is_true_but_not_seen_is_refused_without_a_witness():
    with pytest.raises(ProofError, match="no point at which it fails was found") as error:
        check(sp.Ge(z**4 - z + 1, 0), "a quartic", claim="G0")
    assert error.value.witness is None
    assert (error.value.claim, error.value.step) == ("G0", "a quartic")
    with pytest.raises(ProofError, match="false at every point"):
        check(sp.Gt(1, 2), "numbers")


def test_a_derivation_takes_no_unproved_step():
    p = Derivation(nothing(beta <= 1, beta >= 0))
    for wrong in (
        lambda: p.equal(a, a + 1, "no identity"),
        lambda: p.at_least(a, 0, a, "no sign is known"),
        lambda: p.at_least(1 - beta, 0, p.room(1 - beta) ** 2, "the certificate is another expression"),
        lambda: p.at_least(beta, 0, beta, "may be zero", strict=True),
        lambda: p.at_least(1, lam, p.room(1 - lam), "no hypothesis says so"),
        lambda: p.equal(a / lam, a / lam, "a division by what may be zero"),
        lambda: p.let(sp.Symbol("1"), sp.Integer(0), "a number is no name"),
        lambda: p.equal(0, 1, "zero is one"),
        lambda: p.by(Fact.PLANE, sp.Eq(a, 1), "without two dimensions"),
        lambda: p.uses(claims()["G7"], 2, "without what it needs"),
        lambda: p.chain(beta, 1, 0, reason="downwards"),
    ):
        with pytest.raises(ProofError):
            wrong()
    assert p.steps == []
    p.at_least(2, beta, 1 + p.room(1 - beta), "a hypothesis", strict=True)
    p.by(Fact.TRIANGLE, sp.Le(a, c))
    assert [step.kind for step in p.steps] == ["inequality", "fact"]
    assert p.steps[0].latex == r"2 - \beta = 1 + {\left(1 - \beta\right)} > 0"
    assert p.steps[0].given == (r"$\beta \le 1$",)


@pytest.mark.parametrize("expr", [-1 - lam**2, 1 - beta * 2, beta - 2, lam])
def test_room_is_given_only_where_a_hypothesis_says_so_and_refused_with_a_rational_point(expr):
    p = Derivation(nothing(beta >= 0, beta <= 1))
    with pytest.raises(ProofError) as error:
        p.room(expr)
    point = error.value.witness
    assert point is not None
    assert expr.subs(point) < 0
    assert all(value.is_rational for value in point.values())
    assert 0 <= point.get(beta, 0) <= 1


def test_what_is_shown_is_what_was_compared():
    p = Derivation(nothing())
    with pytest.raises(TypeError):
        p.equal(0, 0, "free text", shown="1", shown_right="2")
    for proof in (*prove_all().values(), joint_spectral_radius_of_a_box(), released_difference()):
        for step in proof.steps:
            # A relation stands in what is shown; the words beside it are no relation.
            assert step.relation is not None
            assert step.latex.startswith(tex(step.relation)) or step.kind == "inequality"
            words = step.reason if step.kind != "fact" else step.reason.split(". ", 1)[-1]
            inline = "".join(words.split("$")[1::2]) if step.kind != "fact" or ". " in step.reason else ""
            assert not re.search(r"=|<|>|\\le\b|\\ge\b", inline), step.reason


def variants(relation):
    """A statement with another relation, constant, sign or exponent, and one that says nothing of it."""
    yield sp.Eq(sp.Symbol(r"\|A\|", real=True), 0)
    if isinstance(relation, sp.Equivalent):
        left, right = sorted(relation.args, key=lambda side: isinstance(side, sp.And))
        yield sp.Equivalent(left.func(left.lhs, left.rhs + 1, evaluate=False), right, evaluate=False)
        return
    other = {sp.Eq: sp.Lt, sp.Le: sp.Lt, sp.Ge: sp.Gt, sp.Lt: sp.Le, sp.Gt: sp.Ge}[relation.func]
    yield other(relation.lhs, relation.rhs, evaluate=False)
    if relation.func is not sp.Eq:
        yield relation.func(relation.rhs, relation.lhs, evaluate=False)
    if relation.lhs.is_commutative and not isinstance(relation.lhs, sp.MatrixExpr):
        for changed in (
            relation.rhs + 1,
            2 * relation.rhs + int(relation.rhs == 0),
            -relation.rhs - int(relation.rhs == 0),
        ):
            yield relation.func(relation.lhs, changed, evaluate=False)


@pytest.mark.parametrize("claim", CLAIMS)
def test_another_statement_has_no_proof(claim):
    proved = prove(claim)
    original = claims()[claim]
    assert proved.statement == original.statement
    p = copy.copy(finished(claim))
    for i, conclusion in enumerate(original.conclusions):
        for other in variants(conclusion.relation):
            # The proof as it is, asked to prove another statement in the end.
            changed = dataclasses.replace(conclusion, relation=other)
            mutated = dataclasses.replace(
                original, conclusions=(*original.conclusions[:i], changed, *original.conclusions[i + 1 :])
            )
            p.claim = mutated
            with pytest.raises(ProofError, match="the statement"):
                p.proof()


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_proof_needs_exactly_the_hypotheses_of_each_relation(claim):
    original = claims()[claim]
    p = copy.copy(finished(claim))
    for i, conclusion in enumerate(original.conclusions):
        fewer = [tuple(h for h in conclusion.given if h != one) for one in conclusion.given]
        for given in (*fewer, (*conclusion.given, sp.Ge(sp.Symbol("m", real=True), 0))):
            changed = dataclasses.replace(conclusion, given=given)
            p.claim = dataclasses.replace(
                original, conclusions=(*original.conclusions[:i], changed, *original.conclusions[i + 1 :])
            )
            with pytest.raises(ProofError, match="stated"):
                p.proof()


@cache
def finished(claim):
    """A second derivation of a claim, with all its steps, before it says what it proved."""
    kept = []
    whole = Derivation.proof
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Derivation, "proof", lambda self: kept.append(self) or whole(self))
        prove.__wrapped__(claim)
    return kept[-1]


@pytest.mark.parametrize("size", [1, 2, 3, 17])
def test_numpy_functions_on_random_inputs(size):
    make = torch.Generator().manual_seed(size)
    k, q = torch.randn(2, 4, 5, size, dtype=torch.float64, generator=make).numpy()
    beta, lam, alpha = (2 * torch.rand(3, 4, 5, dtype=torch.float64, generator=make)).numpy()
    against_transition(k, q, beta, lam, alpha)


@pytest.mark.parametrize("case", DEGENERATE)
def test_numpy_functions_on_degenerate_inputs(case):
    k, q, beta, lam, alpha = DEGENERATE[case]
    against_transition(k.numpy(), q.numpy(), beta, lam, alpha)


def test_numpy_functions_keep_all_digits_next_to_parallel():
    # x is 1e-9 off k with beta a = 2: 4 - 4 beta a + r1^2 would lose half the digits.
    k, q = np.array([1.0, 0.0]), np.array([1.0, 1e-9])
    norm = operator_norm_function()(k, q, 1.0, 1.0)
    assert norm - 1 == pytest.approx(5e-10, rel=1e-6)
    assert eigenvalues_function() is eigenvalues_function()


def against_transition(k, q, beta, lam, alpha):
    t = Transition(k, q, beta, lam, alpha)
    np.testing.assert_allclose(eigenvalues_function()(k, q, beta, lam, alpha), t.eigenvalues(), atol=1e-13)
    np.testing.assert_allclose(operator_norm_function()(k, q, beta, lam, alpha), t.operator_norm(), rtol=1e-13)
    np.testing.assert_allclose(np.broadcast_to(norm_envelope_function()(lam, alpha), k.shape[:-1]), t.norm_envelope())
    assert operator_norm_function()(k, q, beta, lam).shape == k.shape[:-1]
    if k.shape[-1] > 1:
        dense = np.linalg.norm(np.asarray(t.matrix()), 2, axis=(-2, -1))
        np.testing.assert_allclose(operator_norm_function()(k, q, beta, lam, alpha), dense, atol=1e-12)


@pytest.mark.parametrize("released", [False, True])
@pytest.mark.parametrize("C", [1, 2, 4])
def test_the_symbolic_chunk_is_what_the_kernels_compute(C, released):
    x = tokens(T=C, H=1, K=5, V=3, seed=C)
    q, k, v, g, beta, lam, h = (y.double().numpy()[0] for y in x)
    q, k, v, g, beta, lam, h = q[:, 0], k[:, 0], v[:, 0], g[:, 0], beta[:, 0], lam[:, 0], h[0]
    t = chunks.Tokens.symbols(C)
    names = [*t.alpha, *t.beta, *t.lam, *t.v, *t.sk, *t.sq, *t.kk, *t.qk]
    _, O, row = (sp.lambdify(names, y, "numpy") for y in chunks.chunk(t, released))
    for value in range(3):
        s = h[:, value]  # one row of the memory
        # t.kk is symmetric: its symbols repeat, and so do their values.
        numbers = [*np.exp(g), *beta, *lam, *v[:, value], *(k @ s), *(q @ s), *(k @ k.T).ravel(), *(q @ k.T).ravel()]
        options = {"scale": 1.0, "intra": "released", "chunk_size": C} if released else {"scale": 1.0}
        o, state = x.call(chunk_qdelta_rule if released else qdelta_rule_reference, **options)
        np.testing.assert_allclose(O(*numbers)[:, 0], o[0, :, 0, value], atol=1e-13)
        entering, *along = row(*numbers)[:, 0]
        np.testing.assert_allclose(entering * s + np.array(along) @ k, state[0, 0, :, value], atol=1e-13)


def test_the_cycle_proved_is_the_cycle_generated():
    inputs = generators.two_token_cycle(T=2, K=2, lam=0.5)
    proved = closed_forms.cycle_tokens(sp.Rational(1, 2))
    for at, (k, q) in enumerate(proved):
        np.testing.assert_allclose(inputs.k[0, at, 0], np.array(k, dtype=float)[:, 0], atol=1e-15)
        np.testing.assert_allclose(inputs.q[0, at, 0], np.array(q, dtype=float)[:, 0], atol=1e-15)


def test_the_norms_proved_are_those_of_the_products():
    beta_, lam_ = np.meshgrid(np.linspace(0, 2, 41), np.linspace(0, 2, 41))
    crossed = lam_ * (beta_ - 1) < 2 - beta_
    proved = {
        name: sp.lambdify((beta, lam), getattr(closed_forms, name)(*x, beta, lam))
        for name, x in {"largest_norm": (1,), "aligned_norm": (1,), "worst_cosine": ()}.items()
    }
    with np.errstate(divide="ignore", invalid="ignore"):
        norm = np.where(crossed, proved["largest_norm"](beta_, lam_), proved["aligned_norm"](beta_, lam_))
        cosine = np.where(crossed, proved["worst_cosine"](beta_, lam_), 1)
    np.testing.assert_allclose(products.worst_growth(beta_, lam_), norm, rtol=1e-14)
    q = np.stack([cosine, np.sqrt(1 - cosine**2)], axis=-1)
    k = np.broadcast_to([1.0, 0.0], q.shape)
    dense = np.linalg.norm(Transition(k, q, beta_, lam_).matrix(), 2, axis=(-2, -1))
    np.testing.assert_allclose(dense, norm, rtol=1e-12)


def test_mean_square_growth_by_sampling():
    inputs = generators.cone(T=1 << 17, K=8, V=1, cos=-0.4, beta=0.8, lam=0.7, alpha=0.9, seed=1)
    A = inputs.transition()
    s = normalize(torch.randn(8, generator=torch.Generator().manual_seed(2)), dim=-1)
    row = A.alpha[..., None] * (s - (A.beta * (A.x @ s))[..., None] * A.k)
    squares = row.square().sum(-1).flatten()
    expected = float(closed_forms.mean_square_growth(0.9, 0.8, 0.7, -0.4, 8))
    assert squares.mean() == pytest.approx(expected, abs=5 * float(squares.std()) / math.sqrt(len(squares)))
    at_boundary = closed_forms.mean_square_growth(1, closed_forms.critical_beta(0.7, -0.4), 0.7, -0.4, 8)
    assert float(at_boundary) == pytest.approx(1, abs=1e-15)


def test_excitation_bound_and_compensated_decay_in_numbers():
    make = torch.Generator().manual_seed(3)
    k, n = torch.randn(2, 40, 3, dtype=torch.float64, generator=make)
    t = Transition(k, n, 0.1, 0.3)
    M = (t.x[:, :, None] * k[:, None, :]).mean(0)
    N = (k.square().sum(-1)[:, None, None] * t.x[:, :, None] * t.x[:, None, :]).mean(0)
    mu, top = float(torch.linalg.eigvalsh((M + M.T) / 2)[0]), float(torch.linalg.eigvalsh(N)[-1])
    growth = torch.linalg.eigvalsh((t.matrix() @ t.matrix().mT).mean(0))[-1]
    assert mu > 0
    assert growth <= float(closed_forms.excitation_bound(1, 0.1, mu, top)) + 1e-12
    alpha = [float(closed_forms.compensated_decay(0.9, sp.Float(float(s), 17))) for s in t.operator_norm()]
    mended = Transition(k, n, 0.1, 0.3, torch.tensor(alpha, dtype=torch.float64))
    np.testing.assert_allclose(mended.operator_norm(), 0.9, rtol=1e-13)
