"""The synthetic corpus keeps its promises: recoverable labels, exact distance, determinism.

pytest tests/data/test_synthetic.py
"""

from __future__ import annotations

import numpy as np
import pytest

from imdb_lightning.data.synthetic import NEGATIVE, POSITIVE, corpus


DISTANCES = [0, 10, 100, 400]


def words(text: str) -> list[str]:
    return text.lower().replace(".", " ").split()


def count(text: str) -> int:
    return sum((w in POSITIVE) - (w in NEGATIVE) for w in words(text))


@pytest.mark.parametrize("distance", DISTANCES)
def test_counting_the_decisive_words_recovers_the_label(distance: int) -> None:
    for reviews in corpus(2_000, 1_000, distance, 600, seed=0).values():
        right = [(count(t) > 0) == label for t, label in zip(*reviews, strict=True)]
        assert np.mean(right) > 0.95


@pytest.mark.parametrize("distance", DISTANCES)
def test_exactly_distance_tokens_follow_the_last_decisive_word(distance: int) -> None:
    for text in corpus(200, 50, distance, 600, seed=1)["train"].texts:
        spoken = words(text)
        decisive = [i for i, word in enumerate(spoken) if word in POSITIVE + NEGATIVE]
        assert len(spoken) - 1 - decisive[-1] == distance


def test_no_other_word_carries_the_label() -> None:
    reviews = corpus(4_000, 2, 10, 600, seed=2)["train"]
    seen: dict[str, list[int]] = {}
    for text, label in zip(*reviews, strict=True):
        for word in set(words(text)) - set(POSITIVE + NEGATIVE):
            seen.setdefault(word, []).append(label)
    for word, labels in seen.items():
        tolerance = 4.5 * 0.5 / np.sqrt(len(labels))  # 4.5 standard errors of a fair coin
        assert abs(np.mean(labels) - 0.5) < tolerance, word


@pytest.mark.parametrize("max_length", [60, 200, 600])
def test_no_review_is_longer_than_the_model_reads(max_length: int) -> None:
    texts = corpus(500, 100, 10, max_length, seed=3)["train"].texts
    lengths = [len(words(text)) + 1 for text in texts]  # with the start token
    assert max(lengths) == max_length


def test_lengths_are_like_imdbs() -> None:
    lengths = [len(words(t)) for t in corpus(5_000, 2, 10, 2_500, seed=4)["train"].texts]
    assert 165 < np.median(lengths) < 185
    assert 220 < np.mean(lengths) < 250
    assert 140 < np.std(lengths) < 240


def test_the_corpus_is_a_pure_function_of_its_arguments() -> None:
    def texts(seed: int) -> list[str]:
        return corpus(50, 10, 5, 100, seed)["train"].texts

    np.random.seed(0)
    first = texts(0)
    np.random.seed(1)
    assert texts(0) == first
    assert texts(1) != first


def test_labels_are_balanced() -> None:
    for reviews in corpus(100, 40, 10, 100, seed=5).values():
        assert reviews.labels.mean() == 0.5


def test_a_distance_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="max_length must be over"):
        corpus(10, 10, 100, 120, seed=0)
