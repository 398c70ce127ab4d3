"""Influence against the responses of a dense token loop to unit values, and against the whole matrix in closed form."""

import numpy as np
import pytest
import torch

from qdelta_analysis import QDeltaInputs, generators, influence
from qdelta_kernels import chunk_qdelta_rule, qdelta_rule_reference
from tests.helpers import relative_error, tokens


def inputs_of(**options) -> QDeltaInputs:
    x = tokens(**options)
    return QDeltaInputs(*x[:6], initial_state=x.state)


def responses(inputs: QDeltaInputs) -> dict[str, np.ndarray]:
    """Every readout of a dense float64 token loop whose value at token j is the unit vector e_j: [B, H, T, T]."""
    groups = inputs.H // inputs.q.shape[2]
    q, k = (x.double().repeat_interleave(groups, dim=2).numpy() for x in (inputs.q, inputs.k))
    g, beta, lam = (x.double().numpy() for x in (inputs.g, inputs.beta, inputs.lam))
    S = np.zeros((inputs.B, inputs.H, inputs.T, inputs.K))
    found = {name: [] for name in influence.TARGETS}
    for t in range(inputs.T):
        S = np.exp(g[:, t])[..., None, None] * S
        found["v_hat"].append(np.einsum("bhvk,bhk->bhv", S, k[:, t]))
        found["o_hat"].append(np.einsum("bhvk,bhk->bhv", S, q[:, t]))
        x = k[:, t] + lam[:, t, :, None] * q[:, t]
        u = -np.einsum("bhvk,bhk->bhv", S, x)
        u[:, :, t] += 1
        S = S + beta[:, t, :, None, None] * u[..., None] * k[:, t, :, None, :]
        found["o"].append(np.einsum("bhvk,bhk->bhv", S, q[:, t]))
    return {name: np.stack(rows, axis=2) for name, rows in found.items()}


CASES = {
    "one token": {"T": 1},
    "odd": {"T": 63},
    "a chunk and a bit": {"T": 100, "B": 2, "HV": 4},
    "grouped, narrow": {"T": 131, "H": 1, "HV": 3, "K": 3},
    "wider than long": {"T": 20, "K": 40},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_to_the_responses_to_unit_values(case, dtype):
    inputs = inputs_of(**CASES[case]).to(dtype)
    found, oracle = influence.exact(inputs), responses(inputs)
    assert found.o.dims == ("batch", "head", "time", "source")
    assert found.o.dtype == str(dtype).removeprefix("torch.")
    for name, exact in oracle.items():
        assert relative_error(found[name].values, exact) < (1e-5 if dtype == torch.float32 else 1e-13), name


@pytest.mark.parametrize("lam", [0.0, 1.0, 2.0])
def test_the_definition_responds_linearly_at_every_lam(lam):
    """A finite change of one value moves the reference's outputs by exactly its column, whatever the memory holds."""
    inputs = inputs_of(T=77, HV=4).with_lam(lam)
    M = influence.exact(inputs).o.values
    base, _ = qdelta_rule_reference(**inputs.arguments(), scale=1.0)
    for j in (0, 40, 76):
        v = inputs.v.clone()
        v[:, j] += (step := torch.randn(inputs.V, dtype=torch.float64))
        moved, _ = qdelta_rule_reference(**(inputs.arguments() | {"v": v}), scale=1.0)
        expected = torch.as_tensor(M[:, :, :, j]).transpose(1, 2)[..., None] * step
        assert relative_error(moved - base, expected) < 1e-12


def test_the_closed_form_of_the_whole_matrix():
    inputs = inputs_of(T=90, B=1, H=1)
    q, k = inputs.q[0, :, 0], inputs.k[0, :, 0]
    g, beta, lam = (x[0, :, 0] for x in (inputs.g, inputs.beta, inputs.lam))
    G = g.cumsum(0)
    D = (G[:, None] - G).tril().exp().tril()
    L = (beta[:, None] * D * ((k + lam[:, None] * q) @ k.T)).tril(-1)
    written = torch.linalg.inv(torch.eye(90, dtype=torch.float64) + L) * beta
    closed = {
        "o": (D * (q @ k.T)) @ written,
        "o_hat": (D * (q @ k.T)).tril(-1) @ written,
        "v_hat": (D * (k @ k.T)).tril(-1) @ written,
    }
    rough = {name: A @ torch.diag(beta) for name, A in {"o": D * (q @ k.T), "v_hat": (D * (k @ k.T)).tril(-1)}.items()}
    found, heuristic = influence.exact(inputs), influence.heuristic(inputs)
    for name, M in closed.items():
        assert relative_error(found[name].values[0, 0], M) < 1e-13
    for name, M in rough.items():
        assert relative_error(heuristic[name].values[0, 0], M) < 1e-13
        assert relative_error(heuristic[name].values[0, 0], closed[name]) > 0.1


def test_the_heuristic_is_exact_where_nothing_is_erased():
    """Orthonormal keys and lam = 0: every alpha S x vanishes, and only there may the heuristic be believed."""
    k = torch.eye(12, dtype=torch.float64).view(1, 12, 1, 12)
    x = tokens(T=12, H=1, K=12)
    inputs = QDeltaInputs(x.q, k, x.v, x.g, x.beta, None)
    assert relative_error(influence.heuristic(inputs).o.values, influence.exact(inputs).o.values) < 1e-14
    mixed = inputs.with_lam(1.0)
    assert relative_error(influence.heuristic(mixed).o.values, influence.exact(mixed).o.values) > 0.1


BLOCKS = [
    (slice(150, 199), slice(0, 199)),
    (slice(0, 199), slice(3, 9)),
    (slice(70, 131), slice(64, 128)),
    (slice(190, 195), slice(2, 6)),
    (slice(2, 6), slice(190, 195)),
    (slice(5, 5), slice(0, 4)),
    (slice(-3, None), slice(None, 150)),
]


@pytest.mark.parametrize("block", BLOCKS, ids=str)
@pytest.mark.parametrize("function", [influence.exact, influence.heuristic])
def test_a_block_is_that_part_of_the_matrix(block, function):
    inputs = inputs_of(T=199, HV=4, K=5)
    rows, columns = block
    whole, part = function(inputs), function(inputs, rows, columns)
    for name in influence.TARGETS:
        expected = whole[name].values[:, :, rows, columns]
        np.testing.assert_allclose(part[name], expected, atol=1e-14)
    assert part.time.values.tolist() == list(range(199))[rows]
    assert part.source.values.tolist() == list(range(199))[columns]


def test_row_and_column_are_those_of_the_matrix():
    inputs = inputs_of(T=150, B=2)
    whole = influence.exact(inputs)
    for t in (0, 64, 149):
        row, column = influence.row(inputs, t), influence.column(inputs, t)
        assert row.o.dims == ("batch", "head", "source")
        assert (int(row.time), int(column.source)) == (t, t)
        for name in influence.TARGETS:
            np.testing.assert_allclose(row[name], whole[name].sel(time=t, source=slice(0, t)), atol=1e-14)
            np.testing.assert_allclose(column[name], whole[name].sel(source=t, time=slice(t, None)), atol=1e-14)


def test_places_may_be_numpy_s_or_torch_s():
    x = inputs_of(T=9)
    assert int(influence.row(x, torch.tensor(3)).time) == int(influence.row(x, np.int64(3)).time) == 3
    part = influence.exact(x, slice(np.int64(2), torch.tensor(4)), slice(9, None))
    assert (part.time.values.tolist(), part.sizes["source"]) == ([2, 3], 0)


def test_a_row_of_a_long_sequence_is_the_gradient_in_the_values():
    """30,000 tokens: the matrix would have 9e8 numbers a head."""
    x = tokens(T=30_000, H=1, K=8, V=1, dtype=torch.float32)
    inputs = QDeltaInputs(*x[:6])
    v = inputs.v.clone().requires_grad_()
    o, _ = chunk_qdelta_rule(inputs.q, inputs.k, v, inputs.g, inputs.beta, inputs.lam, scale=1.0)
    o[0, 25_000, 0, 0].backward()
    row = influence.row(inputs, 25_000, of=["o"])
    assert relative_error(row.o.values[0, 0], v.grad[0, :25_001, 0, 0]) < 1e-5


@pytest.mark.parametrize("rows", [None, slice(40, 90), slice(130, 133)])
def test_the_initial_state_reaches_the_readouts_through_its_covectors(rows):
    inputs = inputs_of(T=133, HV=4, K=6)
    found = influence.initial(inputs, rows)
    assert found.o.dims == ("batch", "head", "time", "key")
    silent = inputs.arguments() | {"v": torch.zeros_like(inputs.v)}
    o, _ = qdelta_rule_reference(**silent, scale=1.0)
    share = torch.einsum("bhtk,bhkv->bthv", torch.as_tensor(found.o.values), inputs.initial_state)
    assert relative_error(share, o[:, rows or slice(None)]) < 1e-12


@pytest.mark.parametrize(
    "inputs",
    [
        inputs_of(T=100, HV=4, B=2),
        generators.repeated_keys(T=200, lam=1.0, beta=1.0).to(torch.float64),
        generators.two_token_cycle(T=12),
        inputs_of(T=0),
        inputs_of(T=70).with_beta(0.0),
    ],
    ids=["random", "repeated keys", "growing memory", "no token", "no write"],
)
def test_the_check_against_the_token_loop(inputs):
    errors = influence.check(inputs)
    for name in influence.TARGETS:
        assert (errors[name] < 1e-12).all()


@pytest.mark.parametrize("size", [1e-170, 1e170])
def test_the_check_does_not_depend_on_the_size_of_the_values(size, monkeypatch):
    x = inputs_of(T=50)
    scaled = QDeltaInputs(x.q, x.k, size * x.v, x.g, x.beta, x.lam, size * x.initial_state)
    assert (influence.check(scaled).to_array() < 1e-12).all()
    monkeypatch.setattr(influence, "exact", influence.heuristic)
    wrong = influence.check(scaled)
    for name, error in influence.check(x).items():
        np.testing.assert_allclose(wrong[name], error, rtol=1e-9)


@pytest.mark.parametrize("function", [influence.exact, influence.heuristic])
def test_nothing_reaches_across_a_reset_however_large_the_keys(function):
    x = inputs_of(T=6, B=1, H=1).to(torch.float32)
    reset = QDeltaInputs(x.q, 1e20 * x.k, x.v, torch.full_like(x.g, -torch.inf), x.beta, x.lam)
    found = function(reset)
    assert not found.v_hat.any()
    assert not found.o_hat.any()
    np.testing.assert_allclose(found.o[0, 0], np.eye(6) * (x.beta * 1e20 * (x.q * x.k).sum(-1)).numpy()[0], rtol=1e-5)


def test_the_check_can_fail(monkeypatch):
    monkeypatch.setattr(influence, "exact", influence.heuristic)
    assert (influence.check(inputs_of(T=50)).o > 0.01).all()


def test_a_dataset_says_what_it_is():
    inputs = generators.cone(T=9, seed=4)
    assert influence.exact(inputs).attrs["influence"] == "exact"
    assert influence.heuristic(inputs).attrs["influence"] == "heuristic: the erase term is dropped"
    assert "seed=4" in influence.exact(inputs).attrs["settings"]
    assert list(influence.exact(inputs, of=["v_hat"])) == ["v_hat"]


SOME = generators.isotropic(T=10)
BAD = {
    "row": (lambda: influence.row(SOME, 10), "i is 10; expected a token from 0 to T - 1 = 9"),
    "column": (lambda: influence.column(SOME, -1), "j is -1; expected a token from 0 to T - 1 = 9"),
    "half a token": (lambda: influence.row(SOME, 1.5), "i is 1.5; expected a token"),
    "a truth for a token": (lambda: influence.row(SOME, True), "i is True; expected a token from 0 to T - 1 = 9"),
    "rows beyond": (
        lambda: influence.exact(SOME, slice(99, 120)),
        r"rows is slice\(99, 120, None\); expected .* T = 10",
    ),
    "columns beyond": (
        lambda: influence.heuristic(SOME, None, slice(-11, 3)),
        "columns is slice.*; expected .* -T = -10",
    ),
    "letters": (lambda: influence.initial(SOME, slice("a", "b")), r"rows is slice\('a', 'b', None\); expected a slice"),
    "half a row": (lambda: influence.exact(SOME, slice(0.5, 3)), r"rows is slice\(0.5, 3, None\); expected a slice"),
    "backwards": (
        lambda: influence.exact(SOME, slice(5, 2)),
        "rows is slice.*; expected .* from one place to a later one",
    ),
    "step": (lambda: influence.exact(SOME, slice(0, 9, 2)), "rows is slice.*; expected a slice of tokens, with step 1"),
    "list": (lambda: influence.exact(SOME, None, [1, 2]), r"columns is \[1, 2\]; expected a slice of tokens"),
    "of": (lambda: influence.exact(SOME, of=["k"]), r"of is \['k'\]; expected some of o, v_hat, o_hat"),
    "no list": (lambda: influence.exact(SOME, of="o"), "of is 'o'; expected some of"),
    "none": (lambda: influence.initial(SOME, of=[]), r"of is \[\]; expected some of"),
    "too large": (lambda: influence.exact(SOME, most_bytes=1000), "10 x 10 numbers a head, .* expected at most .* GiB"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case, as_users_call):
    call, message = BAD[case]
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert str(error.value).count(".\n") == 0
