"""The tokenizer against examples worked by hand.

pytest tests/data/test_text.py
"""

from __future__ import annotations

import numpy as np
import pytest

from imdb_lightning.data.text import PADDING, START, UNKNOWN, Tokenizer


CORPUS = ["The cat, the CAT... the dog!", "A cat; a bird"]
# the 3, cat 3, a 2, bird 1, dog 1: by frequency, ties in alphabetical order
IDS = {"cat": 3, "the": 4, "a": 5, "bird": 6, "dog": 7}


def tokenizer(vocab_size: int = 20, max_length: int = 10, truncation: str = "head") -> Tokenizer:
    return Tokenizer.train(CORPUS, vocab_size, max_length, truncation)


def encode(text: str, **options: object) -> list[int]:
    return tokenizer(**options).encode([text])[0].tolist()  # type: ignore[arg-type]


def test_ids_are_by_frequency_after_padding_start_and_unknown() -> None:
    assert (PADDING, START, UNKNOWN) == (0, 1, 2)
    assert encode("the cat a dog bird") == [1, 4, 3, 5, 7, 6]


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("THE Cat", [1, 4, 3]),
        ("the-cat/the_cat", [1, 4, 3, 4, 3]),
        ("  the\t cat\n\u00a0the ", [1, 4, 3, 4]),
        ("the<br /><br />cat", [1, 4, 2, 2, 3]),
        ("cat's", [1, 3, 2]),
        ("(the) \u201ccat\u201d \u2014 $a\u2026", [1, 4, 3, 5]),
        ("", [1]),
        (" \n\t ", [1]),
        ("?!", [1]),
        ("zebra", [1, 2]),
        ("\u732b \U0001f63a cat", [1, 2, 3]),
        ("[PAD] [START] [UNK] cat", [1, 2, 2, 2, 3]),
        ("a\x00cat", [1, 2]),
    ],
)
def test_encoding_by_hand(text: str, ids: list[int]) -> None:
    assert encode(text) == ids


def test_vocab_size_counts_start_and_unknown_but_not_padding() -> None:
    words = tokenizer(vocab_size=4)  # start, unknown, cat, the
    assert words.tokenizer.get_vocab_size() == 5
    assert words.encode(["the cat a"])[0].tolist() == [1, 4, 3, 2]


@pytest.mark.parametrize(
    ("truncation", "max_length", "ids"),
    [
        ("head", 3, [1, 3, 4]),
        ("tail", 3, [1, 6, 7]),
        ("head_tail", 4, [1, 3, 6, 7]),
        ("head_tail", 5, [1, 3, 4, 6, 7]),
        ("head_tail", 6, [1, 3, 4, 5, 6, 7]),
        ("head", 6, [1, 3, 4, 5, 6, 7]),
        ("head", 7, [1, 3, 4, 5, 6, 7]),
        ("head", 2, [1, 3]),
        ("tail", 2, [1, 7]),
        ("head_tail", 2, [1, 7]),
    ],
)
def test_truncation_by_hand(truncation: str, max_length: int, ids: list[int]) -> None:
    found = encode("cat the a bird dog", truncation=truncation, max_length=max_length)
    assert found == ids


def test_offsets_delimit_the_reviews() -> None:
    tokens, offsets = tokenizer().encode(["the", "", "a cat"])
    assert tokens.tolist() == [1, 4, 1, 1, 5, 3]
    assert offsets.tolist() == [0, 2, 3, 6]
    assert (str(tokens.dtype), str(offsets.dtype)) == ("int32", "int64")


@pytest.mark.parametrize("truncation", ["head", "tail", "head_tail"])
def test_a_reloaded_tokenizer_encodes_alike(truncation: str) -> None:
    before = tokenizer(truncation=truncation, max_length=4)
    after = Tokenizer.from_json(before.json(), 4, truncation)
    texts = ["the cat sat on a dog", "Bird!", "[START] cat"]
    for mine, expected in zip(after.encode(texts), before.encode(texts), strict=True):
        assert mine.tolist() == expected.tolist()


LATIN = [chr(code) for code in range(256)]
TEXTS = [
    "",
    " ",
    *(f"a{letter}Cat{letter * 3}É {letter}" for letter in LATIN),
    "".join(LATIN) * 2,
    "[PAD] [START] [UNK] cat[PAD]",
    "naïve Éclair straße ŒUVRE İstanbul ΣΑΣ a\u0301 «cat» “cat” a\u2028cat \U0001f600cat",
    *("".join(random) for random in np.random.default_rng(0).choice([*LATIN, "’"], (50, 80))),
]


@pytest.mark.parametrize("max_length", [1, 2, 3, 9, 200])
@pytest.mark.parametrize("truncation", ["head", "tail", "head_tail"])
def test_the_latin_1_fast_path_has_the_ids_of_the_library(
    truncation: str, max_length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = Tokenizer.train(TEXTS, 150, max_length, truncation)
    library = Tokenizer.train(TEXTS, 150, max_length, truncation)
    monkeypatch.setattr(library.latin, "bytes", lambda text: None)
    for ours, theirs in zip(mine.encode(TEXTS), library.encode(TEXTS), strict=True):
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize(
    "content",
    [
        tokenizer().json().replace('{"type":"Lowercase"}', '{"type":"NFC"}'),
        tokenizer().json().replace('"cat":3', '"cat":30'),
        tokenizer().json().replace('"[UNK]":2', '"[UNK ]":2'),
        tokenizer().json()[:100],
        "[" * 100_000,
        "[]",
    ],
    ids=["other rules", "a gap", "no unknown", "cut", "deep", "a list"],
)
def test_a_tokenizer_of_another_kind_is_refused(content: str) -> None:
    assert content != tokenizer().json()
    with pytest.raises(ValueError, match="not a tokenizer"):
        Tokenizer.from_json(content, 4, "head")


def test_a_review_of_a_megabyte_is_encoded() -> None:
    assert encode("the cat " * 131_072, max_length=5) == [1, 4, 3, 4, 3]
