import numpy as np
import pytest
import torch
import traitlets

from qdelta_analysis.widgets.scrubber import StateScrubber


def recording(tokens=130, values=5, keys=7, stride=64, seed=0):
    """Return load()'s arguments, whose memory starts at a state that is not zero, and every state."""
    random = np.random.default_rng(seed)
    k, u = random.normal(size=(tokens, keys)), random.normal(size=(tokens, values))
    alpha = random.uniform(0.9, 1, tokens)
    states = np.empty((tokens + 1, values, keys))
    states[0] = random.normal(size=(values, keys))
    for t in range(tokens):
        states[t + 1] = alpha[t] * states[t] + np.outer(u[t], k[t])
    return {"k": k, "u": u, "alpha": alpha, "anchors": states[:-1:stride], "stride": stride}, states[1:]


@pytest.mark.parametrize(("tokens", "stride"), [(1, 64), (63, 64), (64, 64), (65, 64), (130, 1), (130, 7), (100, 200)])
def test_load_sends_the_factors_and_the_largest_entry(tokens: int, stride: int):
    given, states = recording(tokens, stride=stride)
    scrubber = StateScrubber()
    scrubber.load(**given)
    sent = scrubber.recording
    (memory,) = sent["memories"]
    assert (sent["tokens"], sent["values"], sent["keys"], memory["stride"]) == (tokens, 5, 7, stride)
    assert sent["peak"] == pytest.approx(np.abs(states).max(), rel=1e-5)
    assert sent["labels"] is None
    for name in ("k", "u", "alpha", "anchors"):
        array = np.frombuffer(memory[name], "<f4").reshape(given[name].shape)
        np.testing.assert_array_equal(array, given[name].astype(np.float32))


def test_load_takes_torch_tensors_and_labels():
    given, _ = recording()
    tensors = {name: torch.as_tensor(value) for name, value in given.items() if name != "stride"}
    scrubber = StateScrubber()
    scrubber.load(**tensors, stride=64, labels=(chr(65 + i % 26) for i in range(130)))
    assert scrubber.recording["labels"][:3] == ["A", "B", "C"]


def test_memories_side_by_side_share_the_clock_and_the_colours():
    (long, states), (short, other) = recording(130), recording(70, stride=16, seed=1)
    scrubber = StateScrubber()
    scrubber.load_side_by_side({"λ = 0": long, "λ = 1": short}, labels=["a"] * 130)
    sent = scrubber.recording
    assert sent["tokens"] == 130
    assert [(m["name"], m["tokens"], m["stride"]) for m in sent["memories"]] == [("λ = 0", 130, 64), ("λ = 1", 70, 16)]
    assert sent["peak"] == pytest.approx(max(np.abs(states).max(), np.abs(other).max()), rel=1e-5)
    scrubber.token = 129
    assert scrubber.token == 129


@pytest.mark.parametrize(
    ("memories", "sentence"),
    [
        ({}, r"memories are none; expected at least one"),
        ({"a": recording()[0], "b": recording(keys=6)[0]}, r"one shape, got \[5, 7\] and, in 'b', \[5, 6\]\."),
        ({"a": recording()[0] | {"k": np.ones(3)}}, r"k of 'a' must have shape \[T, K\], got \[3\]\."),
        ({"a": {"k": np.ones((3, 2))}}, r"memory 'a' has \['k'\]; expected k, u, alpha, anchors and stride\."),
    ],
)
def test_what_cannot_stand_side_by_side_is_refused(memories: dict, sentence: str):
    scrubber = StateScrubber()
    with pytest.raises(ValueError, match=sentence):
        scrubber.load_side_by_side(memories)
    assert scrubber.recording == {}


def test_a_shorter_recording_pulls_the_token_back():
    scrubber = StateScrubber()
    scrubber.load(**recording(130)[0])
    scrubber.token = 129
    scrubber.load(**recording(65)[0])
    assert scrubber.token == 64
    scrubber.token = 1000
    assert scrubber.token == 64


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"k": np.ones(130)}, r"k must have shape \[T, K\], got \[130\]\."),
        ({"k": np.ones((0, 7))}, r"k must have at least one token and one key dimension, got shape \(0, 7\)\."),
        ({"k": "abc"}, r"k must be a real array \[T, K\], got str\."),
        ({"k": np.ones((130, 7), complex)}, r"k must be a real array \[T, K\], got ndarray\."),
        ({"u": np.ones((129, 5))}, r"u must have shape \[T=130, V\], got \[129, 5\]\."),
        ({"u": np.ones((130, 0))}, r"u must have at least one value dimension, got shape \(130, 0\)\."),
        ({"u": np.full((130, 5), 1e39)}, r"u must be finite in float32, got inf at index \[0, 0\] \(650 such"),
        ({"alpha": np.ones((130, 1))}, r"alpha must have shape \[T=130\], got \[130, 1\]\."),
        (
            {"alpha": np.where(np.arange(130) == 8, np.nan, 1)},
            r"alpha must be finite in float32, got nan at index \[8\]",
        ),
        ({"stride": 0}, r"stride must be a whole number of at least 1, got 0\."),
        ({"stride": 6.5}, r"stride must be a whole number of at least 1, got 6\.5\."),
        ({"stride": 32}, r"anchors must have shape \[ceil\(T/stride\)=5, V=5, K=7\], got \[3, 5, 7\]\."),
        ({"labels": ["a"] * 129}, r"labels must name each of the 130 tokens, got 129\."),
        ({"labels": [0] * 130}, r"labels must be strings, got int at index 0\."),
        ({"alpha": np.full(130, 1e30)}, r"must give a finite memory, got one that overflows float32\."),
    ],
)
@pytest.mark.usefixtures("as_users_call")
def test_wrong_input_is_one_sentence(change: dict, sentence: str):
    scrubber = StateScrubber()
    with pytest.raises(ValueError, match=sentence):
        scrubber.load(**recording()[0] | change)
    assert scrubber.recording == {}


def test_anchors_in_the_kernels_layout_are_refused():
    given, _ = recording(values=7, keys=7)
    given["anchors"] = given["anchors"].swapaxes(1, 2)
    with pytest.raises(ValueError, match=r"anchors must be \[V, K\] states .* got anchors\[1\], .* at token 64\."):
        StateScrubber().load(**given)


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("limit", 0, "limit must be positive and finite, got 0.0"),
        ("limit", float("nan"), "limit must be positive and finite, got nan"),
        ("speed", -1, "speed must be positive and finite, got -1.0"),
        ("speed", float("inf"), "speed must be positive and finite, got inf"),
        ("colors", ["#000000"], "colors must name at least two colours, got 1"),
        ("colors", ["#000000", "white"], "colors must be written #rrggbb, got 'white'"),
    ],
)
def test_settings_outside_their_range_are_refused(name: str, value: object, sentence: str):
    scrubber = StateScrubber()
    with pytest.raises(traitlets.TraitError, match=sentence):
        setattr(scrubber, name, value)


def test_the_colours_diverge_from_a_neutral_middle():
    colors = StateScrubber().colors
    assert len(colors) % 2 == 1
    assert (colors[0], colors[len(colors) // 2], colors[-1]) == ("#053061", "#f7f7f7", "#67001f")
