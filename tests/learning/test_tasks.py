"""The tasks: solvable by looking, seeded, apart from their tests, and measured rightly."""

from __future__ import annotations

import hashlib
import itertools
import random
import re
import uuid

import pytest
import torch
from torch import nn

from qdelta_analysis.learning.corpus import read_text, split_text
from qdelta_analysis.learning.tasks import (
    IGNORED,
    MQAR,
    NEEDLES,
    Examples,
    LanguageModelling,
    NeedleInHaystack,
    StateTracking,
    measure,
    standard_library,
)

SMALL = {
    "mqar": MQAR(rows=16),
    "mqar, full": MQAR(length=48, pairs=(16,), keys=16, values=3, tested=(48,), rows=16),
    "pass-key": NeedleInHaystack("pass-key", rows=8),
    "number": NeedleInHaystack("number", rows=8),
    "uuid": NeedleInHaystack("uuid", rows=8),
    "parity": StateTracking("parity", rows=16),
    "s3": StateTracking("s3", rows=16),
    "prose": LanguageModelling(held_out=2000),
}


class Sees(nn.Module):
    """Answers by a function of the tokens: logits that are 1 at the answer."""

    def __init__(self, vocabulary, answer):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        self.vocabulary, self.answer = vocabulary, answer

    def forward(self, tokens):
        return 100.0 * nn.functional.one_hot(self.answer(tokens), self.vocabulary)


def look_up(keys: int):
    def answer(tokens):
        said = torch.zeros_like(tokens)
        for row, out in zip(tokens.tolist(), said, strict=True):
            known = {}
            for t, token in enumerate(row):
                out[t] = known.get(token, 0)
                if token < keys and token not in known:
                    known[token] = row[t + 1]
        return said

    return answer


@pytest.mark.parametrize("name", SMALL)
def test_a_batch_depends_on_seed_and_step_alone(name):
    task = SMALL[name]
    first, again = (task.examples(4, seed=1, step=7) for _ in range(2))
    assert torch.equal(first.tokens, again.tokens)
    assert torch.equal(first.targets, again.targets)
    for seed, step in ((1, 8), (2, 7)):
        other = task.examples(4, seed=seed, step=step)
        assert other.tokens.shape != first.tokens.shape or not torch.equal(other.tokens, first.tokens)
    assert int(first.tokens.min()) >= 0
    assert int(first.tokens.max()) < task.vocabulary
    assert int(first.targets.max()) < task.vocabulary


@pytest.mark.parametrize("name", ["mqar", "mqar, full"])
def test_mqar_is_solved_by_looking_the_key_up_and_asks_for_every_key_once(name):
    task = SMALL[name]
    scores = task.scores(Sees(task.vocabulary, look_up(task.keys)))
    assert {s.metric: s.value for s in scores if s.metric != "nats"} == {"accuracy": 1.0, "exact": 1.0}
    assert len(scores) == 3 * len(task.tested) * len(task.pairs)
    for step in range(5):
        e = task.examples(8, 0, step)
        for tokens, targets in zip(e.tokens.tolist(), e.targets.tolist(), strict=True):
            queries = [k for k, v in zip(tokens, targets, strict=True) if v != IGNORED]
            pairs = len(queries)
            assert pairs in task.pairs
            assert sorted(queries) == sorted(tokens[: 2 * pairs : 2])
            assert len(set(queries)) == pairs
            assert all(task.keys <= v < task.keys + task.values for v in tokens[1 : 2 * pairs : 2])
            fillers = [t for t, v in zip(tokens, targets, strict=True) if v == IGNORED][2 * pairs :]
            assert all(t >= task.keys + task.values for t in fillers)


def test_mqar_asks_soon_after_mostly():
    e = MQAR(length=256, pairs=(4,), power=0.01).draw(2000, 256, 4, torch.Generator().manual_seed(0))
    slots = (e.targets != IGNORED).nonzero()[:, 1] - 8 + 1
    assert slots.min() >= 1
    weights = torch.arange(1, 249, dtype=torch.float64) ** -0.99
    # The first of four draws without replacement is the law itself; all four lie a little further out.
    law = float(weights[:16].sum() / weights.sum())
    assert 0.75 * law < float((slots <= 16).double().mean()) < law
    order = (e.targets != IGNORED).nonzero()[:, 1].view(2000, 4)
    asked_first = e.tokens.gather(1, order[:, :1])
    place = (e.tokens[:, :8:2] == asked_first).double().argmax(1)
    assert torch.bincount(place, minlength=4).min() > 430  # each pair is as likely the first to be asked for


@pytest.mark.parametrize("needle", NEEDLES)
@pytest.mark.parametrize("length", [192, 256, 1000])
def test_the_needle_is_in_the_hay_once_and_answers_the_question(needle, length):
    task, rng = NeedleInHaystack(needle), random.Random(3)
    depths = []
    for _ in range(60):
        text, answer = task.row(length, rng, held_out=True)
        assert len(text) + len(answer) == length + 1
        name = re.search(rb"\nWhat is the ([a-z -]+)\? The \1 is $", text).group(1)
        fact = b"\nThe %b is %b.\n" % (name, answer)
        assert text.count(fact) == 1
        assert text.count(answer) == 1
        depths.append(text.index(fact) / (text.rindex(b"\nWhat is the") - len(fact)))
    assert min(depths) < 0.2
    assert max(depths) > 0.8


def test_the_answers_are_what_they_are_called():
    answers = {n: NeedleInHaystack(n).row(300, random.Random(1), held_out=False)[1].decode() for n in NEEDLES}
    assert re.fullmatch(r"\d{5}", answers["pass-key"])
    assert re.fullmatch(r"\d{7}", answers["number"])
    assert uuid.UUID(answers["uuid"]).version == 4


@pytest.mark.parametrize("needle", ["number", "uuid"])
@pytest.mark.parametrize("held_out", [False, True])
def test_the_hay_is_real_text_of_its_part(needle, held_out):
    part = split_text(read_text())[held_out]
    text, answer = NeedleInHaystack(needle).row(600, random.Random(5), held_out=held_out)
    hay = re.sub(rb"\nThe [a-z ]+ is %b\.\n" % answer, b"", text)
    assert re.sub(rb"\nWhat is [^\n]*$", b"", hay) in part


def test_the_pass_key_s_hay_is_one_sentence_again_and_again():
    seen = set()
    for seed in range(20):
        text, answer = NeedleInHaystack().row(400, random.Random(seed), held_out=True)
        hay = text.replace(b"\nThe pass key is %b.\n" % answer, b"")
        sentence = hay[: hay.index(b". ") + 2]
        assert len(hay) > len(sentence) * 2
        assert (sentence * 30).startswith(hay[: hay.index(b"\nWhat")])
        seen.add(sentence)
    assert len(seen) > 3


@pytest.mark.parametrize("needle", NEEDLES)
def test_the_targets_are_the_answer(needle):
    e = NeedleInHaystack(needle).examples(3, 0, 0)
    for tokens, targets in zip(e.tokens, e.targets, strict=True):
        asked = targets != IGNORED
        answer = bytes(targets[asked].tolist())
        text = bytes(tokens.tolist())
        assert text.count(answer) == 1  # the fact; of the answer itself the last byte is only asked for
        assert text.endswith(b" is " + answer[:-1])
        assert asked.nonzero()[:, 0].tolist() == list(range(len(tokens) - len(answer), len(tokens)))


@pytest.mark.parametrize("group", ["parity", "s3"])
def test_states_are_products_of_matrices(group):
    task = StateTracking(group)
    if group == "parity":
        matrices = [torch.eye(2), torch.eye(2).flip(0)]
    else:
        matrices = [torch.eye(3)[list(p)].T for p in itertools.permutations(range(3))]  # e_i -> e_{p(i)}
    e = task.examples(4, 0, 0)
    for tokens, targets in zip(e.tokens.tolist(), e.targets.tolist(), strict=True):
        state = torch.eye(len(matrices[0]))
        for x, expected in zip(tokens, targets, strict=True):
            state = matrices[x] @ state
            assert torch.equal(state, matrices[expected])
    assert task.vocabulary == len(matrices)


def test_windows_are_of_the_training_part_and_ask_for_the_next_byte():
    training = split_text(read_text())[0]
    e = LanguageModelling(length=100).examples(5, 0, 0)
    for tokens, targets in zip(e.tokens.tolist(), e.targets.tolist(), strict=True):
        assert bytes(tokens + targets[-1:]) in training
        assert tokens[1:] == targets[:-1]


def test_language_modelling_is_scored_in_bits_per_byte():
    task = LanguageModelling(tested=(64,), held_out=500)
    (score,) = task.scores(Sees(256, lambda tokens: torch.zeros_like(tokens)).requires_grad_(False))
    assert score.metric == "bits per byte"
    assert score.value > 100  # certain of what is never there


def test_measure_counts_targets_and_rows():
    tokens = torch.tensor([[1, 2, 3], [0, 1, 2]])
    targets = torch.tensor([[1, IGNORED, 3], [0, 2, IGNORED]])
    scores = measure(Sees(4, lambda x: x), Examples(tokens, targets), "all", batch=1)
    assert {s.metric: s.value for s in scores} == {"accuracy": 0.75, "exact": 0.5, "nats": 25.0}


def test_shares_make_up_the_batch():
    e = MQAR().examples(7, 0, 0)
    parts = [e.share(rank, 3) for rank in range(3)]
    assert sum(p.asked for p in parts) == e.asked
    assert sorted(torch.cat([p.tokens for p in parts]).tolist()) == sorted(e.tokens.tolist())


def test_the_standard_library_is_split_by_module(tmp_path):
    for name in ("ast", "bisect", "cmd", "dis", "enum", "glob", "heapq", "io", "json/decoder", "tests/test_io"):
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"# {name}")
    held_out = [n for n in ("ast", "bisect", "cmd", "dis", "enum", "glob", "heapq", "io", "json") if _first(n) < 26]
    if not held_out:  # then a module is added that is
        name = next(f"m{i}" for i in range(1000) if _first(f"m{i}") < 26)
        (tmp_path / f"{name}.py").write_text(f"# {name}")
        held_out = [name]
    corpus = standard_library(tmp_path)
    training, rest = (bytes(part.tolist()).decode() for part in (corpus.training, corpus.held_out))
    assert "# json/decoder" in training + rest
    assert "test_io" not in training + rest
    for name in held_out:
        assert f"# {name}" in rest
        assert f"# {name}\n" not in training + "\n"
    with pytest.raises(FileNotFoundError, match="has 0 modules; expected a library's sources"):
        standard_library(tmp_path / "nothing")


def _first(name: str) -> int:
    return hashlib.sha256(name.encode()).digest()[0]


@pytest.mark.usefixtures("as_users_call")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MQAR(keys=0), "keys is 0; expected a whole number of at least 1"),
        (lambda: MQAR(pairs=(80,), length=300, tested=(300,)), "pairs is 80; expected a whole number from 1 to 64"),
        (lambda: MQAR(length=40), "the shortest row has 40 tokens; expected at least 48"),
        (lambda: MQAR(pairs=()), "pairs is \\(\\).*expected at least one"),
        (lambda: NeedleInHaystack("haystack"), "needle is 'haystack'; expected one of 'pass-key', 'number', 'uuid'"),
        (lambda: NeedleInHaystack(length=100), "length is 100; expected a whole number of at least 192"),
        (lambda: StateTracking("s5"), "group is 's5'; expected one of 'parity', 's3'"),
        (lambda: StateTracking(tested=(0,)), "tested is 0; expected a whole number of at least 1"),
        (lambda: LanguageModelling("poems"), "text is 'poems'; expected one of 'prose', 'standard library'"),
        (lambda: LanguageModelling(tested=(63,)), "expected even numbers"),
        (lambda: LanguageModelling(length=10**7).examples(1, 0, 0), "expected more than a window, 10000000"),
        (lambda: Examples(torch.zeros(2, 3), torch.zeros(2, 4)), "expected \\[B, T\\] for both"),
        (lambda: Examples(torch.zeros(1, 1), torch.full((1, 1), IGNORED)), "targets are all IGNORED"),
    ],
)
def test_bad_settings_are_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()
