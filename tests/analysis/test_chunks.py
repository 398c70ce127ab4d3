"""The chunk's matrices against the token-by-token definition, and how far the released form is from it."""

import numpy as np
import pytest
import torch

from qdelta_analysis import QDeltaInputs, chunks, generators, load_trained
from qdelta_analysis.plots import chunk_figure, deviation_figure, token_deviation_figure
from qdelta_kernels import chunk_qdelta_rule, qdelta_rule_reference
from tests.helpers import relative_error, tokens


def drawn(**options) -> QDeltaInputs:
    x = tokens(**options)
    return QDeltaInputs(*x[:6], initial_state=x.state)


@pytest.mark.parametrize(
    "options", [{"T": 1}, {"T": 63}, {"T": 100, "B": 2, "HV": 6}, {"T": 70, "K": 3, "V": 9}], ids=str
)
def test_the_matrices_are_what_the_equations_say(options):
    x = drawn(**options)
    start, C = x.T // 3, max(1, x.T // 2)
    found = chunks.chunk_matrices(x, start, C)
    assert found.inverse.shape == (x.B, x.H, C, C)
    assert found.i.values.tolist() == found.j.values.tolist() == list(range(start, start + C))
    groups = x.H // x.q.shape[2]
    for b in range(x.B):
        for h in range(x.H):
            q, k = (y[b, start : start + C, h // groups].numpy() for y in (x.q, x.k))
            g, beta, lam = (y[b, start : start + C, h].numpy() for y in (x.g, x.beta, x.lam))
            D, L, A = np.zeros((C, C)), np.zeros((C, C)), np.zeros((C, C))
            for i in range(C):
                for j in range(i + 1):
                    D[i, j] = np.exp(g[j + 1 : i + 1].sum())
                    A[i, j] = D[i, j] * (q[i] @ k[j])
                    if i > j:
                        L[i, j] = beta[i] * D[i, j] * ((k[i] + lam[i] * q[i]) @ k[j])
            m = found.isel(batch=b, head=h)
            for name, exact in {"decay": D, "erase": L, "inverse": np.linalg.inv(np.eye(C) + L), "readout": A}.items():
                np.testing.assert_allclose(m[name], exact, atol=1e-13, err_msg=name)


@pytest.mark.parametrize("start", [0, 37])
def test_they_compute_the_chunk(start):
    x = drawn(T=100, HV=4)
    C = 50
    chunk, m = x.tokens(start, start + C), chunks.chunk_matrices(x, start, C)
    t, S = chunk.transition(), chunk.initial_state.mT  # [B, T, H, .] and [B, H, V, K]
    q, X, v = (y.transpose(1, 2) for y in (t.q, t.x, chunk.v))
    beta, G = (y.transpose(1, 2)[..., None] for y in (chunk.beta, chunk.g.cumsum(1)))
    T, A = torch.as_tensor(m.inverse.values), torch.as_tensor(m.readout.values)
    U = T @ (beta * v - beta * G.exp() * (X @ S.mT))
    O = G.exp() * (q @ S.mT) + A @ U
    exact, _ = qdelta_rule_reference(**chunk.arguments(), scale=1.0)
    torch.testing.assert_close(O.transpose(1, 2), exact, rtol=0, atol=1e-12)


def test_a_chunk_of_trained_tokens_keeps_their_metadata_and_is_float64():
    x = load_trained()[1]
    found = chunks.chunk_matrices(x, 960)
    assert found.attrs["text"] == x.metadata["text"]
    assert all(m.dtype == np.float64 for m in found.values())


def test_deviations_are_those_of_the_two_forms_against_the_definition():
    x = drawn(T=100, HV=4)
    lams, sizes = [0.0, 0.3, 2.0], [1, 7, 64, 1000]
    found = chunks.chunk_deviation(x, lams, sizes)
    assert found.deviation.dims == ("form", "lam", "chunk_size")
    for lam in lams:
        replaced = x.with_lam(lam).arguments()
        exact, _ = qdelta_rule_reference(**replaced)
        for C in sizes:
            for form in ("recurrence", "released"):
                o, _ = chunk_qdelta_rule(**replaced, chunk_size=C, intra=form)
                one = found.sel(form=form, lam=lam, chunk_size=C)
                np.testing.assert_allclose(one.deviation, relative_error(o, exact), atol=1e-14)
                size = lambda x: torch.linalg.vector_norm(x, dim=(0, 2, 3))
                np.testing.assert_allclose(one.by_token, size(o - exact) / size(exact), atol=1e-13)


def test_the_released_form_is_the_recurrence_only_without_feedback_or_at_chunks_of_one():
    found = chunks.chunk_deviation(drawn(T=100), [0, 0.5, 1], [1, 16, 64]).deviation
    released = found.sel(form="released")
    assert found.sel(form="recurrence").max() < 1e-14
    assert max(released.sel(lam=0).max(), released.sel(chunk_size=1).max()) < 1e-14
    assert released[1:, 1:].min() > 1e-3


@pytest.mark.parametrize("seed", [0, 1])
def test_it_departs_by_the_published_amounts(seed):
    """T = 512, K = 128, V = 64, C = 64; several heads, so that draws differ by less than a tenth."""
    x = generators.random_gates(512, 128, 64, 4, seed=seed)
    found = chunks.chunk_deviation(x, [0.1, 0.289, 0.5, 1], 64).deviation.sel(form="released", chunk_size=64)
    np.testing.assert_allclose(found, [0.024, 0.070, 0.12, 0.24], rtol=0.08)


@pytest.mark.parametrize("size", [1e-300, 1e-170, 1e170, 1e300])
def test_deviations_do_not_depend_on_the_size_of_the_values(size):
    x = generators.isotropic(T=16, K=4, V=4).to(torch.float64)
    scaled = QDeltaInputs(x.q, x.k, size * x.v, x.g, x.beta, x.lam)
    one, other = (chunks.chunk_deviation(y, [0.5, 1], [1, 5, 16]) for y in (x, scaled))
    for name in one:
        np.testing.assert_allclose(other[name], one[name], rtol=1e-9, atol=1e-14, err_msg=name)
    assert one.deviation[1, :, 1:].min() > 0.1


def test_beyond_its_range_a_deviation_is_not_known():
    x = generators.isotropic(T=1600, K=4, V=4, beta=1.8, lam=1.8)
    found = chunks.chunk_deviation(x, 1.8, 64)
    assert found.deviation.isnull().all()
    assert (found.by_token.sel(form="recurrence")[..., :1000] < 1e-6).all()
    assert found.by_token[..., -1].isnull().all()


def test_what_a_reset_forgot_is_not_found_however_large_the_keys():
    x = drawn(T=6)
    reset = QDeltaInputs(x.q, 1e160 * x.k, x.v, torch.full_like(x.g, -torch.inf), x.beta, x.lam)
    assert not chunks.chunk_matrices(reset, 0, 6).erase.any()


def test_outputs_that_vanish_deviate_by_nothing():
    x = drawn(T=10)
    x = QDeltaInputs(x.q, x.k, torch.zeros_like(x.v), x.g, x.beta, x.lam)
    found = chunks.chunk_deviation(x, 0.5, 4)
    assert not found.deviation.any()
    assert not found.by_token.any()


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda x: chunks.chunk_matrices(x, 0, 0), "C is 0; expected a whole number from 1 to 10"),
        (lambda x: chunks.chunk_matrices(x, 0, 11), "C is 11; expected a whole number from 1 to 10"),
        (lambda x: chunks.chunk_matrices(x, 7, 4), "start is 7; expected a whole number from 0 to 6"),
        (lambda x: chunks.chunk_matrices(x, -1, 4), "start is -1; expected a whole number from 0 to 6"),
        (lambda x: chunks.chunk_deviation(x, [0.1, 2.5], 4), r"lams has values in \[0.1, 2.5\]; expected values in"),
        (lambda x: chunks.chunk_deviation(x, 0.1, [4, 0]), "chunk_sizes is 0; expected a whole number of at least 1"),
        (lambda x: chunks.chunk_deviation(x, 0.1, 2.5), "chunk_sizes is 2.5; expected a whole number"),
    ],
)
def test_what_is_refused(call, sentence, as_users_call):
    with pytest.raises(ValueError, match=sentence):
        call(drawn(T=10))


def test_random_gates_are_drawn_as_they_say():
    x = generators.random_gates(4000, 16, 3, 3, lam=[0, 0.5, 1], seed=3)
    assert (x.T, x.K, x.V, x.H) == (4000, 16, 3, 3)
    assert [x.lam[..., h].unique().tolist() for h in range(3)] == [[0], [0.5], [1]]
    for unit in (x.q, x.k):
        torch.testing.assert_close(unit.norm(dim=-1), torch.ones(1, 4000, 3))
    logit = x.beta.logit()
    assert abs(logit.mean()) < 0.05
    assert abs(logit.std() - 1) < 0.05
    logit = x.alpha.double().logit()  # g = logsigmoid(y) means alpha = sigmoid(y)
    assert abs(logit.mean() - 4) < 0.05
    assert abs((x.q * x.k).sum(-1).mean()) < 0.01
    assert torch.equal(generators.random_gates(4000, 16, 3, 3, seed=3).q, x.q)
    assert not torch.equal(generators.random_gates(4000, 16, 3, 3, seed=4).q, x.q)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_random_gates_have_float32_at_least(dtype):
    x = generators.random_gates(5, 4, 3, 2, dtype=dtype)
    assert {x.q.dtype, x.k.dtype, x.v.dtype} == {dtype}
    assert {x.g.dtype, x.beta.dtype, x.lam.dtype} == {torch.promote_types(dtype, torch.float32)}


def test_random_gates_want_one_lam_or_one_for_each_head(as_users_call):
    with pytest.raises(ValueError, match="lam has 3 values; expected one, or one for each of 2 heads"):
        generators.random_gates(5, H=2, lam=[0, 0.1, 0.2])


def test_the_pictures_show_these_numbers():
    m = chunks.chunk_matrices(drawn(T=20), 4, 8).isel(batch=0, head=1)
    figure = chunk_figure(m)
    for trace, name in zip(figure.data, ("decay", "erase", "inverse", "readout"), strict=True):
        np.testing.assert_array_equal(trace.z, m[name])
        colors = figure.layout[trace.coloraxis]
        assert colors.cmin == -colors.cmax
    found = chunks.chunk_deviation(drawn(T=50), [0, 0.5, 1], [1, 4, 16])
    drawn_lines = {(trace.name, trace.xaxis): trace.y for trace in deviation_figure(found).data}
    released = found.deviation.sel(form="released")
    np.testing.assert_allclose(drawn_lines["λ = 0.5", "x"], released.sel(lam=0.5))
    np.testing.assert_allclose(drawn_lines["C = 16", "x2"], released.sel(chunk_size=16))
    one = found.sel(lam=0.5, chunk_size=16)
    lines = token_deviation_figure(one)
    np.testing.assert_allclose(lines.data[0].y, one.by_token.sel(form="released").clip(min=1e-17))
    assert f"{float(one.deviation.sel(form='released')):.2g}" in lines.layout.annotations[0].text
