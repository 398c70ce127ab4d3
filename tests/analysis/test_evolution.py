"""Memories side by side, against the definition run token by token in float64, and how they are drawn."""

import numpy as np
import pytest
import torch

from qdelta_analysis import QDeltaInputs, evolution, generators, load_trained
from qdelta_analysis.plots import evolution_figure, evolution_ranges, evolution_traces, strip_figure
from qdelta_analysis.widgets import MemoryEvolution
from qdelta_kernels import qdelta_rule_reference

INPUTS = generators.random_gates(T=70, K=6, V=5).to(torch.float64)


def states(inputs: QDeltaInputs) -> np.ndarray:
    """Return S after every token, [T, V, K], each by the definition from the one before."""
    found, state = [], inputs.initial_state
    for t in range(inputs.T):
        token = {name: getattr(inputs, name)[:, t : t + 1] for name in ("q", "k", "v", "g", "beta", "lam")}
        _, state = qdelta_rule_reference(**token, initial_state=state, output_final_state=True)
        assert state is not None
        found.append(state[0, 0].mT.numpy())
    return np.stack(found)


@pytest.mark.parametrize("start", [0, 30])
def test_each_memory_is_the_recurrence(start):
    inputs = INPUTS.tokens(start)  # from token 30 on with a memory to begin with
    memories = evolution.rules(inputs) | evolution.feedbacks(inputs, [0.0, 0.7])
    evolved = evolution.evolve(memories, snapshots=[0, 20, inputs.T - 1])
    assert list(evolved.memory.values) == ["DeltaNet", "Gated DeltaNet", "Q-Delta", "λ = 0", "λ = 0.7"]
    q, k = inputs.q[0, :, 0].numpy(), inputs.k[0, :, 0].numpy()
    for name, x in memories.items():
        S, at = states(x), evolved.sel(memory=name)
        first = np.zeros(S[:1].shape) if x.initial_state is None else x.initial_state[0].mT.numpy()
        before = x.alpha[0, :, 0].numpy()[:, None, None] * np.concatenate([first, S[:-1]])
        v_hat, o_hat = (np.einsum("tvk,tk->tv", before, y) for y in (k, q))
        size = np.linalg.norm(before, axis=(1, 2))
        norms = [np.linalg.norm(y, axis=1) for y in (v_hat, o_hat, k, q)]
        with np.errstate(invalid="ignore"):
            energies = [np.nan_to_num((n / (size * m)) ** 2) for n, m in ((norms[0], norms[2]), (norms[1], norms[3]))]
            angle = np.degrees(np.arccos((v_hat * o_hat).sum(1) / (norms[0] * norms[1])))
        np.testing.assert_allclose(at.state, S[[0, 20, -1]], atol=1e-10)
        np.testing.assert_allclose(at.key_energy, energies[0], atol=1e-9)
        np.testing.assert_allclose(at.query_energy, energies[1], atol=1e-9)
        np.testing.assert_allclose(at.angle[2:], angle[2:], atol=1e-4)
        assert ((at.key_energy >= 0) & (at.key_energy <= 1 + 1e-12)).all()
        sigma = np.linalg.svd(S[20], compute_uv=False)
        np.testing.assert_allclose(at.singular_values.sel(snapshot=20), sigma, atol=1e-10)
        p = sigma[sigma > 1e-14] / sigma.sum()
        assert float(at.effective_rank.sel(snapshot=20)) == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-9)


def test_the_rules_are_what_their_names_say():
    found = evolution.rules(INPUTS)
    assert (found["DeltaNet"].lam == 0).all()
    assert (found["DeltaNet"].alpha == 1).all()
    assert (found["Gated DeltaNet"].lam == 0).all()
    assert torch.equal(found["Gated DeltaNet"].g, INPUTS.g)
    assert found["Q-Delta"] is INPUTS


def test_feedbacks_replace_or_scale_and_keep_their_names_apart():
    assert list(evolution.feedbacks(INPUTS, [0.5, 0.5, 1])) == ["λ = 0.5", "λ = 0.5′", "λ = 1"]
    close = [0.1234567, 0.1234568, 0.1234568, 0.30000000000000004]
    names = ["λ = 0.1234567", "λ = 0.1234568", "λ = 0.1234568′", "λ = 0.3"]
    assert list(evolution.feedbacks(INPUTS, close)) == names
    (found,) = evolution.feedbacks(INPUTS, [0.5], scaled=True).values()
    assert torch.equal(found.lam, 0.5 * INPUTS.lam)
    with pytest.raises(ValueError, match=r"lam has values in \[3, 3\]"):
        evolution.feedbacks(INPUTS, [3.0])


def test_a_shorter_memory_ends_in_gaps():
    evolved = evolution.evolve({"long": INPUTS, "short": INPUTS.tokens(0, 40)}, snapshots=7)
    assert evolved.snapshot.values.tolist() == [9, 19, 29, 39, 49, 59, 69]
    short = evolved.sel(memory="short")
    assert int(short.state_norm.notnull().sum()) == 40
    assert int(short.effective_rank.notnull().sum()) == 4
    assert int(short.key_energy_mean.notnull().sum()) == 40
    np.testing.assert_allclose(short.state_norm[:40], evolved.sel(memory="long").state_norm[:40], rtol=1e-12)
    figure = evolution_figure(evolved, 50)
    assert len(figure.data) == 2 * 13


@pytest.mark.parametrize(
    ("memories", "sentence"),
    [
        ({}, r"memories are none; expected at least one"),
        ({"a": generators.random_gates(T=8, K=4, V=4, H=2)}, r"'a' has B = 1, 2 heads, K = 4 and V = 4; expected one"),
        (
            {"a": INPUTS, "b": generators.random_gates(T=8, K=4, V=5)},
            r"'b' has .* K = 4 .*; expected .* K = 6 and V = 5",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused(memories, sentence):
    with pytest.raises(ValueError, match=sentence):
        evolution.evolve(memories)


def scaled(x: QDeltaInputs, size: float, state: torch.Tensor, **changed) -> QDeltaInputs:
    arguments = x.arguments() | {"v": size * x.v, "initial_state": size * state.to(x.v)} | changed
    return QDeltaInputs(**arguments)


@pytest.mark.parametrize(
    ("dtype", "sizes"), [(torch.float32, [1e-30, 1e-20, 1e20, 1e30]), (torch.float64, [1e-300, 1e-170, 1e170, 1e300])]
)
def test_energies_do_not_depend_on_the_size_of_the_memory(dtype, sizes):
    x = generators.isotropic(T=9, K=4, V=4).to(dtype)
    state = torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    memories = {str(size): scaled(x, size, state) for size in [1, *sizes]}
    evolved = evolution.evolve(memories)
    np.testing.assert_allclose(evolved.key_energy[0, :3], [0.3210, 0.2515, 0.0919], atol=5e-5)
    for name in ("key_energy", "query_energy", "key_energy_mean"):
        np.testing.assert_allclose(evolved[name], evolved[name][:1].values.repeat(5, 0), rtol=1e-4, err_msg=name)


def test_energies_of_the_smallest_and_largest_keys():
    x = generators.isotropic(T=9, K=4, V=4).with_lam(0.0)
    state = torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    small, large = (scaled(x, 1, state, k=size * x.k) for size in (1e-23, 1e20))
    evolved = evolution.evolve({"small": small, "large": large})
    np.testing.assert_allclose(evolved.key_energy[:, 0], 0.32099, atol=5e-5)
    assert (evolved.key_energy.sel(memory="small") > 0.1).all()
    assert evolved.key_energy.sel(memory="large")[2:].isnull().all()  # the memory has left float32


def test_an_energy_is_no_more_than_all_of_it():
    for seed in range(8):
        x = generators.repeated_keys(T=64, K=3, V=1, distinct=1, beta=1.0, lam=0.0, seed=seed)
        assert float(evolution.evolve({"a": x}).key_energy.max()) <= 1


def test_running_means_of_what_is_nearly_out_of_range():
    x = generators.isotropic(T=70, K=4, V=4)
    large = evolution.evolve({"a": scaled(x, 1e38, torch.zeros(1, 1, 4, 4))})
    assert np.isfinite(large.key_retrieval_mean).all()
    assert large.key_retrieval_mean.dtype == np.float32


@pytest.mark.parametrize("count", [np.int64(4), np.array(4), torch.tensor(4)], ids=["number", "array", "tensor"])
def test_a_count_of_snapshots_may_be_numpy_s_or_torch_s(count):
    evolved = evolution.evolve({"a": INPUTS.tokens(0, 8)}, count)
    assert evolved.snapshot.values.tolist() == [1, 3, 5, 7]
    for tokens in ([count], np.array([4]), torch.tensor([4]), range(4, 5)):
        assert evolution.evolve({"a": INPUTS}, tokens).snapshot.values.tolist() == [4]


@pytest.mark.parametrize("snapshots", [0, True, 2.0, torch.tensor(2.0), np.array(True), [70], [-1], [1.5]])
@pytest.mark.usefixtures("as_users_call")
def test_what_is_no_snapshot_is_refused(snapshots):
    with pytest.raises(ValueError, match=r"^snapshots is .*; expected"):
        evolution.evolve({"a": INPUTS}, snapshots)


def test_long_series_keep_the_extremes_of_every_stretch():
    inputs = generators.random_gates(T=20_001, K=4, V=4)
    evolved = evolution.evolve({"a": inputs}, snapshots=8)
    series = evolved.key_retrieval[0].values
    drawn = evolution_traces(evolved, 0)["key_retrieval 0"]
    assert len(drawn["x"]) <= 10_000 < len(series)
    np.testing.assert_array_equal(drawn["y"], series[drawn["x"]])
    edges = np.linspace(0, len(series), 5001).astype(int)
    low, high = (f.reduceat(series, edges[:-1]) for f in (np.minimum, np.maximum))
    where = np.searchsorted(edges, drawn["x"], side="right") - 1
    for stretch in range(0, 5000, 7):
        kept = drawn["y"][where == stretch]
        assert (kept.min(), kept.max()) == (low[stretch], high[stretch])


def test_every_value_lies_in_its_panel():
    cycle = generators.two_token_cycle(T=64, lam=1.0)
    evolved = evolution.evolve(evolution.rules(cycle))
    layout = evolution_ranges(evolved)
    assert layout["yaxis3.type"] == "log"  # the memory grows 2^32-fold
    low, high = layout["yaxis3.range"]
    norm = evolved.state_norm.values
    assert 10**low <= norm[norm > 0].min()
    assert norm.max() <= 10**high


def test_a_strip_shows_every_cell_once_under_its_value_key_and_token():
    tokens = [5, 40, 69]
    evolved = evolution.evolve(evolution.rules(INPUTS), snapshots=tokens)
    (heat,) = strip_figure(evolved, tokens).data
    cells = np.asarray(heat.customdata)[~np.isnan(heat.z)]
    values = np.asarray(heat.z)[~np.isnan(heat.z)]
    assert len(values) == evolved.state.size
    for m in range(3):
        for token in tokens:
            S = evolved.state[m].sel(snapshot=token).values
            of = cells[:, 2] == token
            mine = values[of].reshape(3, *S.shape)[m]
            np.testing.assert_array_equal(mine, S)


def test_the_widget_follows_its_controls():
    widget = MemoryEvolution(head=2, token=100)
    assert list(widget.views) == ["λ = 0", "λ = 0.5", "λ = 1"]
    assert [m["name"] for m in widget.scrubber.recording["memories"]] == list(widget.views)
    widget._sliders[1].value = 0.25
    widget._head.value = 1
    x = load_trained()[0].heads(1).to(torch.float64).with_lam(0.25)
    np.testing.assert_allclose(widget.views["λ = 0.25"].state(100), states(x.tokens(0, 101))[100], atol=1e-10)
    assert "at token 100" in widget._numbers.value
    widget._columns.value, widget._layer.value = "rules", 2
    assert list(widget.views) == ["DeltaNet", "Gated DeltaNet", "Q-Delta"]
    # What the rules do not need is hidden, and nothing else.
    assert [control.layout.display for control in widget.children[:3]] == [None, "none", None]
    names: dict = {}
    exec(widget.code(), names)
    np.testing.assert_allclose(names["evolved"].state_norm, widget.dataset.state_norm, rtol=1e-3)
    assert len(widget.figure().data) == 3 * 14
    drawn = widget._panels.figure
    assert [note.text for note in drawn.layout.annotations] == list(widget.views)


def test_the_widget_moves_what_it_drew():
    widget = MemoryEvolution(INPUTS, lam=[0.0, 1.0])
    assert (widget._layer.layout.display, widget._head.layout.display) == ("none", "none")
    widget._sliders[0].value = 0.3
    widget.scrubber.token = 11
    fresh = evolution_figure(widget.dataset, 11, stretches=256)
    drawn = widget._panels.figure
    for old, new in zip(drawn.data, fresh.data, strict=True):
        np.testing.assert_array_equal(old.y, new.y)
    assert [s.x0 for s in drawn.layout.shapes] == [s.x0 for s in fresh.layout.shapes]
    assert [a.text for a in drawn.layout.annotations] == ["λ = 0.3", "λ = 1"]
    assert drawn.layout.yaxis3.range == fresh.layout.yaxis3.range


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"lam": []}, r"lam has 0 values; expected one to 4"),
        ({"lam": [0.0] * 5}, r"lam has 5 values; expected one to 4"),
        ({"head": 4}, r"head is 4; expected a whole number from 0 to 3"),
        ({"layer": 9}, r"layer is 9; expected a whole number from 0 to"),
        ({"token": 1024}, r"token is 1024; expected a whole number from 0 to 1023"),
        ({"compare": "both"}, r"compare is 'both'; expected 'lam' or 'rules'"),
        ({"lam": [2.5]}, r"lam has values in \[2.5, 2.5\]"),
        ({"lam": 0.5}, r"lam is 0.5; expected a list of one to 4 numbers"),
        ({"lam": None}, r"lam is None; expected a list of one to 4 numbers"),
        ({"lam": ["half"]}, r"lam is \['half'\]; expected numbers from 0 to 2"),
        ({"inputs": []}, r"inputs is \[\]; expected QDeltaInputs, or a list of them"),
        ({"inputs": [3]}, r"inputs is \[3\]; expected QDeltaInputs, or a list of them"),
        ({"inputs": 3}, r"inputs is 3; expected QDeltaInputs, or a list of them"),
        ({"token": -1}, r"token is -1; expected a whole number from 0 to 1023"),
    ],
)
@pytest.mark.usefixtures("as_users_call")
def test_the_widget_refuses_what_is_not_there(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        MemoryEvolution(**options)


def test_an_export_says_what_is_shown():
    lam = (0.1234567, 0.1234568)
    widget = MemoryEvolution(lam=lam, head=1, layer=2, token=5)
    made_with = widget.children[-1]._parameters()
    assert list(widget.views) == ["λ = 0.1234567", "λ = 0.1234568"] == made_with["memories"]
    held = {"layer": 2, "head": 1, "token": 5, "compare": "lam", "lam": list(lam), "scaled": False}
    assert held.items() <= made_with.items()
    widget._mode.value, widget._head.value = "× learned", 3
    made_with = widget.children[-1]._parameters()
    assert {"head": 3, "scaled": True}.items() <= made_with.items()
    widget._columns.value = "rules"
    made_with = widget.children[-1]._parameters()
    assert made_with["compare"] == "rules"
    assert "lam" not in made_with


def test_a_memory_that_outgrows_what_is_drawn_ends_there():
    widget = MemoryEvolution(generators.two_token_cycle(T=256, lam=1.0), compare="rules", token=255)
    tokens = {m["name"]: m["tokens"] for m in widget.scrubber.recording["memories"]}
    assert tokens["DeltaNet"] == 256
    end = tokens["Q-Delta"]
    assert 190 < end < 210  # 2^(end / 2) passes 1e30
    norm = widget.dataset.state_norm.sel(memory="Q-Delta").values
    assert np.isfinite(norm[:end]).all()
    assert np.isnan(norm[end:]).all()
    assert widget.token == 255
    assert len(widget.figure().data) == 3 * 14


def test_a_feedback_out_of_range_is_said_and_changes_nothing():
    widget = MemoryEvolution(INPUTS.with_lam(1.5), lam=[1.0])
    widget._mode.value = "× learned"
    before = widget.views
    assert list(before) == ["λ × 1"]
    widget._sliders[0].value = 1.5
    assert "lam has values in [2.25, 2.25]" in widget._problem.value
    assert widget.views is before
    widget._sliders[0].value = 0.5
    assert widget._problem.value == ""
    assert list(widget.views) == ["λ × 0.5"]
