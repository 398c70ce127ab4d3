"""Inputs: what is refused, what the methods keep, what a file holds, and what the generators promise."""

import dataclasses

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from qdelta_analysis import QDeltaInputs, generators
from qdelta_analysis.generators import GENERATORS
from qdelta_kernels import qdelta_rule
from tests.helpers import relative_error, tokens


def inputs(**options) -> QDeltaInputs:
    x = tokens(**options)
    return QDeltaInputs(*x[:6], initial_state=x.state, metadata={"source": "test"})


def same(a: QDeltaInputs, b: QDeltaInputs) -> bool:
    return all(torch.equal(x, b.arguments()[name]) for name, x in a.arguments().items())


def test_fields_cannot_be_set_and_metadata_cannot_be_changed():
    x = inputs()
    with pytest.raises(dataclasses.FrozenInstanceError):
        x.lam = x.beta
    with pytest.raises(TypeError):
        x.metadata["source"] = "other"


def test_missing_gates_are_zero_and_numpy_is_taken():
    x = tokens(T=5)
    from_numpy = QDeltaInputs(x.q.numpy(), x.k.numpy(), x.v.numpy(), None, x.beta.numpy(), None)
    assert torch.equal(from_numpy.lam, torch.zeros_like(x.lam))
    assert torch.equal(from_numpy.alpha, torch.ones_like(x.g))
    assert (from_numpy.B, from_numpy.T, from_numpy.H, from_numpy.K, from_numpy.V) == (1, 5, 2, 8, 6)


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("beta", 2.5, r"beta has values in \[2.5, 2.5\]; expected values in \[0, 2\]."),
        ("lam", -0.1, r"lam has values in \[-0.1, -0.1\]; expected values in \[0, 2\]."),
        ("g", 0.1, r"g has values in \[0.1, 0.1\]; expected values in \[-inf, 0\]."),
        ("g", float("nan"), "g holds nan"),
    ],
)
def test_values_outside_their_range(name, value, sentence, as_users_call):
    x = tokens(T=5)._asdict()
    del x["state"]
    with pytest.raises(ValueError, match=sentence):
        QDeltaInputs(**{**x, name: torch.full_like(x[name], value)})


def test_gates_are_replaced_by_numbers_and_by_arrays(as_users_call):
    x = inputs(T=10)
    assert (x.with_lam(0.3).lam == 0.3).all()
    assert torch.equal(x.with_beta(x.lam).beta, x.lam)
    assert torch.allclose(x.with_alpha(0.9).alpha, torch.tensor(0.9).double())
    assert torch.equal(x.with_lam(0.3).q, x.q)
    with pytest.raises(ValueError, match=r"lam has values in \[3, 3\]"):
        x.with_lam(3)
    with pytest.raises(ValueError, match=r"alpha is as low as 0"):
        x.with_alpha(0)
    with pytest.raises(ValueError, match=r"lam has shape \[7\]; expected one that broadcasts to \[1, 10, 2\]"):
        x.with_lam(torch.ones(7))


def test_norm_compensation_makes_every_step_as_long_as_its_decay():
    x = inputs(T=200, H=2, HV=4)
    t = x.with_norm_compensation().transition()
    assert torch.allclose(torch.linalg.matrix_norm(t.matrix(), 2), x.alpha, rtol=1e-12)
    without = x.with_lam(0.0)
    assert torch.allclose(without.with_norm_compensation().g, without.g, atol=1e-12)


@pytest.mark.parametrize("heads", [2, [3, 0], slice(1, 4)])
def test_chosen_heads_compute_what_they_computed_among_all(heads):
    x = inputs(T=20, H=2, HV=4)
    o, _ = qdelta_rule(**x.arguments())
    chosen = [heads] if isinstance(heads, int) else heads
    assert relative_error(qdelta_rule(**x.heads(heads).arguments())[0], o[:, :, chosen]) <= 1e-14


def test_heads_are_chosen_as_python_chooses():
    x = inputs(T=5, H=2, HV=4)
    for chosen, expected in [
        (-1, [3]),
        (np.int64(2), [2]),
        (np.array([1, 1, 0]), [1, 1, 0]),
        (torch.tensor([2]), [2]),
        ((0, -4), [0, 0]),
        (range(4), [0, 1, 2, 3]),
        (slice(None, None, -2), [3, 1]),
        (slice(2, 99), [2, 3]),
    ]:
        found = x.heads(chosen)
        assert torch.equal(found.v, x.v[:, :, expected])
        assert torch.equal(found.k, x.k[:, :, [h // 2 for h in expected]])
        assert torch.equal(found.initial_state, x.initial_state[:, expected])


@pytest.mark.parametrize(
    "chosen",
    [4, -5, 7, True, 1.0, "1", None, [], [0, 4], [0.5], [True], "01", slice(9, 12), slice(0, 2.5), np.nan, [[0]]],
)
def test_heads_that_are_not_there(chosen, as_users_call):
    with pytest.raises(ValueError, match=r"^heads is .*; expected .*\.$") as found:
        inputs(T=5, H=2, HV=4).heads(chosen)
    assert "\n" not in str(found.value)


def test_no_tokens_are_a_choice_too():
    x = inputs(T=6)
    _, state = qdelta_rule(**x.arguments(), output_final_state=True)
    assert (x.tokens(0, 0).T, x.tokens(6).T, x.tokens(-6).T, x.tokens(-2, -1).T) == (0, 0, 6, 1)
    assert relative_error(x.tokens(6).initial_state, state) <= 1e-12
    assert torch.equal(x.tokens(np.int64(0), np.int64(4)).q, x.q[:, :4])
    assert torch.equal(x.tokens(torch.tensor(0), np.array(4)).q, x.q[:, :4])


@pytest.mark.parametrize("value", [torch.tensor(1j), np.array([1j]), 1j, None, "a", [0.5, None]])
@pytest.mark.parametrize("name", ["lam", "beta", "alpha"])
def test_gates_that_are_no_real_numbers(name, value, as_users_call):
    with pytest.raises(TypeError, match=f"^{name} is of type .*; expected a real number, or an array of them.$"):
        getattr(inputs(), f"with_{name}")(value)


def test_gates_keep_every_digit_of_a_number(as_users_call):
    x = inputs().to(torch.float64)
    assert x.with_lam(0.1).lam[0, 0, 0] == 0.1
    assert x.with_lam(torch.tensor(0.1, dtype=torch.float64)).lam[0, 0, 0] == 0.1
    assert GENERATORS["isotropic"](T=3, seed=np.uint64(2**63)).T == 3


@pytest.mark.parametrize(
    "stretch", [(7,), (99,), (-7,), (0, 7), (0, -7), (4, 2), (-1, 2), (True,), (1.0,), ("1",), (0, 2.5), (None,)]
)
def test_tokens_that_are_not_there(stretch, as_users_call):
    with pytest.raises(ValueError, match=r"^(start|stop) is .*; expected .*\.$"):
        inputs(T=6).tokens(*stretch)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_what_follows_from_the_gates_is_as_precise_as_they_are(dtype):
    x = inputs(T=300, H=2, HV=4)
    x = QDeltaInputs(*(y.to(dtype) for y in (x.q, x.k, x.v)), *(y.float() for y in (x.g, x.beta, x.lam)))
    exact, t = x.to(torch.float64).transition(), x.transition()
    for name in ("operator_norm", "spectral_radius", "singular_values", "matrix"):
        value, reference = getattr(t, name)(), getattr(exact, name)()
        assert value.dtype == torch.float32
        assert relative_error(value, reference) <= 1e-6
    compensated = x.with_norm_compensation().to(torch.float64).transition().operator_norm()
    torch.testing.assert_close(compensated, x.g.double().exp(), rtol=1e-6, atol=0)
    near = x.with_alpha(torch.tensor(1 - 1e-12, dtype=torch.float64))
    assert torch.allclose(near.g.double(), torch.tensor(-1e-12).double(), rtol=1e-4)
    for name, value in {"alpha": x.alpha, "beta": x.with_beta(0.3).beta, "lam": x.with_lam(0.3).lam}.items():
        assert value.dtype == torch.float32, name


def test_chosen_tokens_continue_from_the_memory_before_them():
    x = inputs(T=50)
    o, state = qdelta_rule(**x.arguments(), output_final_state=True)
    tail, end = qdelta_rule(**x.tokens(13).arguments(), output_final_state=True)
    assert relative_error(tail, o[:, 13:]) <= 1e-12
    assert relative_error(end, state) <= 1e-12
    assert relative_error(qdelta_rule(**x.tokens(13, -7).arguments())[0], o[:, 13:-7]) <= 1e-12
    assert x.tokens(0, 5).T == 5


def test_a_file_brings_everything_back(tmp_path):
    x = inputs(T=9)
    x.save(tmp_path / "x.safetensors")
    again = QDeltaInputs.load(tmp_path / "x.safetensors")
    assert same(x, again)
    assert again.metadata == {"source": "test"}
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


def test_what_is_wrong_in_a_file_is_said_with_its_name(tmp_path):
    path, x = tmp_path / "x.safetensors", inputs(T=3)
    metadata = {"format": "qdelta-inputs", "format_version": "1"}
    for name, value, kind, sentence in [
        ("beta", x.beta + 2, ValueError, r"beta has values in \[.*\]; expected values in \[0, 2\]"),
        ("g", x.g.log(), ValueError, "g holds nan"),
        ("q", x.q.to(torch.complex64), TypeError, "q has dtype torch.complex64; expected"),
        ("v", x.v.to(torch.float8_e5m2), TypeError, "v has dtype torch.float8_e5m2; expected"),
        ("lam", x.lam[:, :2], ValueError, r"lam has shape \[1, 2, 2\]; expected"),
    ]:
        save_file({**{n: y.contiguous() for n, y in x.arguments().items()}, name: value.contiguous()}, path, metadata)
        with pytest.raises(kind, match=f"x.safetensors: {sentence}"):
            QDeltaInputs.load(path)


def test_what_is_no_file_of_inputs(tmp_path):
    path = tmp_path / "x.safetensors"
    with pytest.raises(FileNotFoundError, match="is not there; expected a file written by"):
        QDeltaInputs.load(path)
    path.write_bytes(b"not a trace at all, but some words")
    with pytest.raises(ValueError, match="is no safetensors file"):
        QDeltaInputs.load(path)
    save_file({"weight": torch.ones(2)}, path)
    with pytest.raises(ValueError, match=r"holds \['weight'\] in format None None; expected q, k, v, g, beta, lam"):
        QDeltaInputs.load(path)


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path, x = tmp_path / "x.safetensors", inputs(T=9)
    x.save(path)
    before = path.read_bytes()

    def breaks(tensors, file, metadata):
        file.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("safetensors.torch.save_file", breaks)
    with pytest.raises(OSError, match="disk full"):
        x.with_lam(0).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(FileNotFoundError, match="expected a file in a folder that exists"):
        x.save(tmp_path / "nowhere" / "x.safetensors")


@pytest.mark.parametrize("name", GENERATORS)
def test_generators_are_seeded_and_make_unit_vectors(name):
    x, again, other = (GENERATORS[name](T=40, K=6, V=5, H=2, seed=seed) for seed in (1, 1, 2))
    assert same(x.with_metadata(), again) if x.initial_state is not None else torch.equal(x.q, again.q)
    assert torch.equal(x.v, again.v)
    assert not torch.equal(x.v, other.v)
    for unit in (x.q, x.k, x.v):
        assert torch.allclose(unit.norm(dim=-1), torch.ones_like(unit[..., 0]), atol=1e-6)
    assert (x.B, x.T, x.H, x.K, x.V) == (1, 40, 2, 6, 5)
    assert x.metadata["source"] == name


@pytest.mark.parametrize("cos", [-1.0, -0.3, 0.0, 0.7, 1.0])
def test_a_cone_keeps_its_angle(cos):
    x = generators.cone(cos=cos, T=100)
    assert torch.allclose((x.q * x.k).sum(-1), torch.tensor(cos), atol=1e-6)


def test_isotropic_means_uniform():
    x = generators.isotropic(T=20000, K=3)
    for unit in (x.q, x.k):
        covariance = torch.einsum("bthi,bthj->ij", unit, unit) / 20000
        assert torch.allclose(covariance, torch.eye(3) / 3, atol=0.01)


def test_repeated_keys_repeat():
    x = generators.repeated_keys(T=500, distinct=7)
    assert len(x.k.reshape(-1, 32).unique(dim=0)) == 7
    assert len(torch.cat([x.q, x.k]).reshape(-1, 32).unique(dim=0)) == 7


@pytest.mark.parametrize("lam", [0.0, 0.25, 0.5, 1.0, 2.0])
def test_along_the_cycle_the_error_contracts_perfectly_and_the_memory_grows(lam):
    x = generators.two_token_cycle(T=2, K=4, lam=lam)
    t = x.transition()
    np.testing.assert_allclose(t.beta * t.alignment, 1.0, atol=1e-15)
    first, second = t.matrix()[0, :, 0]
    radius = torch.linalg.eigvals(first @ second).abs().max()
    assert float(radius) == pytest.approx(1 + lam**2, rel=1e-12)


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("cone", {"cos": 1.5}, "cos is 1.5; expected a number from -1 to 1"),
        ("cone", {"K": 1}, "K is 1; expected a whole number of at least 2"),
        ("isotropic", {"T": 0}, "T is 0; expected a whole number of at least 1"),
        ("isotropic", {"alpha": 0.0}, "alpha is 0.0; expected a number from"),
        ("isotropic", {"beta": 3.0}, "beta is 3.0; expected a number from 0 to 2"),
        ("isotropic", {"beta": "a"}, "beta is 'a'; expected a number from 0 to 2"),
        ("cone", {"beta": None}, "beta is None; expected a number from 0 to 2"),
        ("repeated keys", {"lam": [1, 2]}, r"lam is \[1, 2\]; expected a number from 0 to 2"),
        ("isotropic", {"beta": np.ones(256)}, "beta is array"),
        ("isotropic", {"lam": 1j}, "lam is 1j; expected a number from 0 to 2"),
        ("repeated keys", {"distinct": 0}, "distinct is 0"),
        ("isotropic", {"V": 2.5}, "V is 2.5; expected a whole number of at least 1"),
        ("two-token cycle", {"H": True}, "H is True; expected a whole number of at least 1"),
        ("two-token cycle", {"lam": 3}, "lam is 3; expected a number from 0 to 2"),
        ("cone", {"seed": 2**64}, "seed is 18446744073709551616; expected a whole number from"),
        ("cone", {"T": 10**400}, "T, K, V, H = 10*, 32, 32, 1 would take about"),
        ("isotropic", {"T": 10**6, "H": 10**6}, r"would take about [\d,]+ GB; expected at most the \d+ GB of memory"),
        ("isotropic", {"K": 10**14}, "would take about"),
        ("repeated keys", {"distinct": 10**15}, "1000000000000000 keys of width 32 would take about"),
    ],
)
def test_bad_settings(name, options, sentence, as_users_call):
    with pytest.raises(ValueError, match=sentence):
        GENERATORS[name](**options)
