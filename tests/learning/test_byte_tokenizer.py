"""Token b is byte b of the text in UTF-8, whatever the text; the padding token is never read out of it."""

import random

import pytest
import torch
from transformers import AutoTokenizer

from qdelta_analysis.learning import byte_tokenizer
from tests.helpers import cases

LETTERS = [chr(code) for code in range(0x100, 0x180)]  # byte-level tokenizers write bytes with some of these
TEXTS = [
    "Ā", "aĀ Ā\x00", "\x00", "\x00\x00Ā", "", " ", "  two  spaces ", "a , b . do n't", "\r\n\t", "e\u0301é", "Ġ", "Ċ",
    "क्षि", "👩‍👩‍👧", "\ufeffx", "\uffff", "\U0010ffff", "[PAD]<pad></s>", "".join(map(chr, range(256))),
    "".join(LETTERS),
]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    """The tokenizer, and itself out of a folder."""
    folder = tmp_path_factory.mktemp("tokenizer")
    made = byte_tokenizer()
    made.save_pretrained(folder)
    return made, AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_a_text_is_its_bytes_and_back(tokenizers, text):
    for tokenizer in tokenizers:
        ids = tokenizer(text)["input_ids"]
        assert ids == tokenizer.encode(text) == list(text.encode())
        assert tokenizer.decode(ids) == text
        assert tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text)) == ids


@pytest.mark.cases
def test_any_text_is_its_bytes_and_back(tokenizers):
    rng = random.Random(0)
    planes = [range(0x80), range(0x100, 0x180), range(0x80, 0xD800), range(0xE000, 0x110000)]
    for _ in range(cases(300)):
        text = "".join(chr(rng.choice(rng.choice(planes))) for _ in range(rng.randrange(20)))
        for tokenizer in tokenizers:
            ids = tokenizer(text)["input_ids"]
            assert ids == list(text.encode()), ascii(text)
            assert tokenizer.decode(ids) == text


def test_every_byte_is_a_token_that_is_no_other(tokenizers):
    for tokenizer in tokenizers:
        assert tokenizer.pad_token_id == 0
        for byte in range(256):
            as_text = bytes([byte]).decode(errors="replace")
            assert tokenizer.decode([byte]) == as_text
            assert tokenizer.convert_tokens_to_ids(tokenizer.convert_ids_to_tokens(byte)) == byte


def test_padding_is_marked_and_bytes_of_the_text_are_not(tokenizers):
    texts = ["Ā", "", "\x00ab", "Ā\x00Ā"]
    for tokenizer in tokenizers:
        batch = tokenizer(texts, padding=True, return_tensors="pt")
        for text, ids, mask in zip(texts, batch["input_ids"], batch["attention_mask"], strict=True):
            assert ids[mask.bool()].tolist() == list(text.encode())
            assert mask.tolist() == sorted(mask.tolist())  # padding on the left
            assert not ids[~mask.bool()].any()
        empty = tokenizer("", return_tensors="pt")["input_ids"]
        assert (empty.shape, empty.dtype) == ((1, 0), torch.int64)
        assert tokenizer(["Ā", "b"], is_split_into_words=True)["input_ids"] == [196, 128, 98]
        assert tokenizer("a", "Ā")["input_ids"] == [97, 196, 128]
