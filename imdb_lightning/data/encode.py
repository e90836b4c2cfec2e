"""From the official splits to encoded reviews: split, vocabulary, token ids."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

import numpy as np

from . import text
from .batches import EncodedReviews
from .cache import Encoded
from .sources import UNLABELLED, Reviews
from .split import stratified_holdout


def encode(
    official: Mapping[str, Reviews],
    vocab_size: int,
    max_length: int,
    truncation: str,
    val_size: int,
    seed: int,
    train_on_val: bool,
    use_unlabelled: bool,
    tokenizer_json: str | None = None,
) -> Encoded:
    """Hold out val, count duplicates, build the vocabulary, and encode. Raises DataError.

    `tokenizer_json` is an earlier vocabulary, to use it instead.
    """
    train_rows, val_rows = stratified_holdout(official["train"].labels, val_size, seed)
    if train_on_val:
        train_rows = np.arange(len(official["train"].labels))
    parts = {
        "train": (official["train"], train_rows),
        "val": (official["train"], val_rows),
        "test": (official["test"], np.arange(len(official["test"].labels))),
    }
    if use_unlabelled:
        rows = np.arange(len(official[UNLABELLED].labels))
        parts[UNLABELLED] = (official[UNLABELLED], rows)
    texts = {name: [reviews.texts[i] for i in rows] for name, (reviews, rows) in parts.items()}
    if tokenizer_json is not None:
        tokenizer = text.Tokenizer(text.loads(tokenizer_json), max_length, truncation)
    else:
        read = chain(texts["train"], texts.get(UNLABELLED, ()))
        tokenizer = text.Tokenizer.train(read, vocab_size, max_length, truncation)
    splits = {}
    for name, (reviews, rows) in parts.items():
        tokens, offsets = tokenizer.encode(texts[name])
        splits[name] = EncodedReviews(tokens, offsets, reviews.labels[rows], rows)
    metadata = {
        "reviews": {name: len(rows) for name, (_, rows) in parts.items()},
        "vocab_size": tokenizer.tokenizer.get_vocab_size() - 1,
        "duplicates": duplicates(texts),
    }
    return Encoded(splits, tokenizer.json(), metadata)


def with_unlabelled(splits: Mapping[str, EncodedReviews]) -> dict[str, EncodedReviews]:
    """The unlabelled reviews appended to "train", for a pretraining."""
    more = splits.get(UNLABELLED)
    if more is None:
        return {**splits}
    return {**splits, "train": concat(splits["train"], more, more.labels)}


def with_pseudo_labels(
    splits: Mapping[str, EncodedReviews], soft_labels_N: np.ndarray
) -> dict[str, EncodedReviews]:
    """The unlabelled reviews appended to "train": label 1 if P(positive) is above 1/2."""
    labels_N = (soft_labels_N > 0.5).astype(np.int64)
    return {**splits, "train": concat(splits["train"], splits[UNLABELLED], labels_N)}


def concat(
    train: EncodedReviews, unlabelled: EncodedReviews, labels_N: np.ndarray
) -> EncodedReviews:
    """Both, the unlabelled ones with these labels and, instead of row n, the index -1 - n."""
    return EncodedReviews(
        np.concatenate([train.tokens, unlabelled.tokens]),
        np.concatenate([train.offsets, train.offsets[-1] + unlabelled.offsets[1:]]),
        np.concatenate([train.labels, labels_N]),
        np.concatenate([train.index, -1 - unlabelled.index]),
    )


def duplicates(texts: Mapping[str, list[str]]) -> dict[str, int]:
    """How many reviews of each split occur verbatim in the same or an earlier split."""
    counts = {}
    names = list(texts)
    for position, name in enumerate(names):
        counts[name] = len(texts[name]) - len(set(texts[name]))
        for earlier in names[:position]:
            seen = set(texts[earlier])
            counts[f"{name} in {earlier}"] = sum(review in seen for review in texts[name])
    return counts
