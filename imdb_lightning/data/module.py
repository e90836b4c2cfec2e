"""The reviews as Lightning wants them: from a source, split and encoded, to batches."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from torch.utils.data import DataLoader

from . import sources, synthetic, text
from .batches import ByLength, DeviceLoader, EncodedReviews, LengthBuckets, padding
from .cache import Encoded, load_or_build
from .sources import DataError, Reviews


log = logging.getLogger(__name__)


class ReviewData(lightning.LightningDataModule):
    """Train, val and test reviews in length-bucketed batches; `data` is the group of that name.

    val is `val_size` reviews drawn from the official train split, the same number of each label;
    train is the rest, or with `refit` all of them; test the official test split. The vocabulary
    comes from train, with `unsupervised` also from the reviews without labels, or it is that of
    `tokenizer`, the JSON of an earlier one. `for_pretraining` has those without labels in train
    too. A `teacher` tells how probably each of some texts is positive: those without labels are
    then in train with the labels that it finds likelier, and `told_N` has its probabilities. After
    `setup`, `facts` says what the reviews are, for metrics.json. Raises DataError in `setup`.
    """

    def __init__(
        self,
        data: Mapping[str, Any],
        seed: int,
        tokenizer: str | None = None,
        for_pretraining: bool = False,
        teacher: Callable[[list[str]], np.ndarray] | None = None,
    ) -> None:
        super().__init__()
        self.data = data
        self.seed = seed
        self.given = tokenizer
        self.for_pretraining = for_pretraining
        self.teacher = teacher
        self.told_N: np.ndarray | None = None  # by row of the unlabelled reviews, float32
        self.splits: dict[str, EncodedReviews] = {}
        self.tokenizer = ""
        self.facts: dict[str, Any] = {}
        self.begun = (0, 0)  # an epoch of training, from 0, and how many of its batches are done

    def setup(self, stage: str | None = None) -> None:
        if self.splits:
            return
        data = self.data
        options = {
            name: data[name]
            for name in (
                *("vocab_size", "max_length", "truncation", "val_size", "seed"),
                *("refit", "unsupervised"),
            )
        }
        unsupervised = data["unsupervised"]
        if data["name"] == "synthetic":
            grammar = {name: data[name] for name in ("train_size", "test_size", "distance")}
            source = {"source": "synthetic", **grammar}
        else:
            copy = sources.find(data["path"], unsupervised)
            source = {"source": str(copy), "fingerprint": sources.fingerprint(copy)}
            if unsupervised:
                source["unsupervised"] = sources.fingerprint(copy, (sources.UNSUPERVISED,))

        def read() -> Mapping[str, Reviews]:
            if data["name"] == "synthetic":
                train_size = data["train_size"] + data["val_size"]
                return synthetic.corpus(
                    train_size,
                    data["test_size"],
                    data["distance"],
                    data["max_length"],
                    data["seed"],
                    unsupervised,
                )
            log.info("reading the reviews of %s", copy)
            return sources.load(copy, unsupervised)

        def build() -> Encoded:
            started = time.perf_counter()
            encoded = encode(read(), tokenizer=self.given, **options)
            count = sum(map(len, encoded.splits.values()))
            seconds = time.perf_counter() - started
            log.info("read and encoded %s reviews in %.1f s", f"{count:,}", seconds)
            return encoded

        if data["cache_dir"] is None:
            encoded = build()
        else:
            content = {k: v for k, v in source.items() if k != "source"} or source
            key = {**content, **options, "dataset": data["name"], "code": code_version()}
            if self.given is not None:
                key["tokenizer"] = hashlib.sha256(self.given.encode()).hexdigest()
            encoded = load_or_build(Path(data["cache_dir"]).expanduser(), key, build)
        self.splits = for_pretraining(encoded.splits) if self.for_pretraining else encoded.splits
        if self.teacher is not None:
            self.told_N = self.teacher(read()["unsupervised"].texts)
            self.splits = taught(encoded.splits, self.told_N)
        self.tokenizer = encoded.tokenizer
        self.facts = {**source, **encoded.facts}

    def train_dataloader(self) -> DataLoader | DeviceLoader:
        train = self.splits["train"]
        order = LengthBuckets(train.lengths, self.data["batch_size"], self.seed)
        order.begun = self.begun
        return self._loader(train, order)

    def val_dataloader(self) -> DataLoader | DeviceLoader:
        return self._loader(self.splits["val"])

    def test_dataloader(self) -> DataLoader | DeviceLoader:
        return self._loader(self.splits["test"])

    def padding(self) -> float:
        """Fraction 0..1 of the positions of the first training epoch that are padding."""
        lengths = self.splits["train"].lengths
        return padding(lengths, LengthBuckets(lengths, self.data["batch_size"], self.seed))

    def _loader(
        self, reviews: EncodedReviews, order: LengthBuckets | ByLength | None = None
    ) -> DataLoader | DeviceLoader:
        workers = self.data["num_workers"]
        sampler = order or ByLength(reviews.lengths, self.data["batch_size"])
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        if workers == 0 and DeviceLoader.fits(reviews, device):
            return DeviceLoader(reviews, sampler, device)
        return Loader(
            reviews,
            batch_sampler=sampler,
            collate_fn=as_it_is,
            num_workers=workers,
            persistent_workers=workers > 0,
            # Not the fork server: its workers do not see that the run is gone, after a kill -9.
            multiprocessing_context="spawn" if workers else None,
        )


class Loader(DataLoader):
    """Takes from PyTorch's random numbers what each pass takes without workers: one number.

    With workers that stay, PyTorch itself takes one for all passes, and a run would have other
    bits, and others again where it goes on in a new process.
    """

    def __iter__(self) -> Any:
        if self._iterator is not None:
            torch.empty((), dtype=torch.int64).random_()
        return super().__iter__()


def as_it_is(batch: object) -> object:
    """`EncodedReviews` gives whole batches: there is nothing to collate."""
    return batch


def encode(
    official: Mapping[str, Reviews],
    vocab_size: int,
    max_length: int,
    truncation: str,
    val_size: int,
    seed: int,
    refit: bool,
    unsupervised: bool,
    tokenizer: str | None = None,
) -> Encoded:
    """Split, count duplicates, build the vocabulary, and encode. Raises DataError."""
    train_rows, val_rows = hold_out(official["train"].labels, val_size, seed)
    if refit:
        train_rows = np.arange(len(official["train"].labels))
    parts = {
        "train": (official["train"], train_rows),
        "val": (official["train"], val_rows),
        "test": (official["test"], np.arange(len(official["test"].labels))),
    }
    if unsupervised:
        rows = np.arange(len(official["unsupervised"].labels))
        parts["unsupervised"] = (official["unsupervised"], rows)
    texts = {name: [reviews.texts[i] for i in rows] for name, (reviews, rows) in parts.items()}
    if tokenizer is not None:
        words = text.Tokenizer(text.loads(tokenizer), max_length, truncation)
    else:
        read = chain(texts["train"], texts.get("unsupervised", ()))
        words = text.Tokenizer.train(read, vocab_size, max_length, truncation)
    splits = {}
    for name, (reviews, rows) in parts.items():
        tokens, offsets = words.encode(texts[name])
        splits[name] = EncodedReviews(tokens, offsets, reviews.labels[rows], rows)
    facts = {
        "reviews": {name: len(rows) for name, (_, rows) in parts.items()},
        "words": words.words.get_vocab_size() - 1,
        "duplicates": duplicates(texts),
    }
    return Encoded(splits, words.json(), facts)


def for_pretraining(splits: Mapping[str, EncodedReviews]) -> dict[str, EncodedReviews]:
    """Train and unsupervised together as "train"."""
    more = splits.get("unsupervised")
    if more is None:
        return {**splits}
    return {**splits, "train": together(splits["train"], more, more.labels)}


def taught(splits: Mapping[str, EncodedReviews], told_N: np.ndarray) -> dict[str, EncodedReviews]:
    """Train and unsupervised together as "train": label 1 where the probability is above 1/2."""
    labels_N = (told_N > 0.5).astype(np.int64)
    return {**splits, "train": together(splits["train"], splits["unsupervised"], labels_N)}


def together(
    train: EncodedReviews, unlabelled: EncodedReviews, labels_N: np.ndarray
) -> EncodedReviews:
    """Both, those without labels with these labels and, in the place of row n, index -1 - n."""
    return EncodedReviews(
        np.concatenate([train.tokens, unlabelled.tokens]),
        np.concatenate([train.offsets, train.offsets[-1] + unlabelled.offsets[1:]]),
        np.concatenate([train.labels, labels_N]),
        np.concatenate([train.index, -1 - unlabelled.index]),
    )


def hold_out(labels: np.ndarray, val_size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of train and of val, ascending: each label's share of val is its share of the whole.

    Raises DataError where a split would lack a label.
    """
    random = np.random.default_rng(seed)
    rows_of = [random.permutation(np.flatnonzero(labels == label)) for label in (0, 1)]
    negative = round(val_size * len(rows_of[0]) / len(labels))
    counts = (negative, val_size - negative)
    for rows, count, name in zip(rows_of, counts, ("negative", "positive"), strict=True):
        if not 0 < count < len(rows):
            raise DataError(
                f"data.val_size={val_size}: val and train would not both have {name} reviews, of "
                f"which there are {len(rows)} in {len(labels)}; take another val_size"
            )
    val = [rows[:count] for rows, count in zip(rows_of, counts, strict=True)]
    train = [rows[count:] for rows, count in zip(rows_of, counts, strict=True)]
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(val))


def duplicates(texts: Mapping[str, list[str]]) -> dict[str, int]:
    """How many reviews of each split repeat, to the letter, one of the same or an earlier split."""
    counts = {}
    names = list(texts)
    for position, name in enumerate(names):
        counts[name] = len(texts[name]) - len(set(texts[name]))
        for earlier in names[:position]:
            seen = set(texts[earlier])
            counts[f"{name} in {earlier}"] = sum(review in seen for review in texts[name])
    return counts


def code_version() -> str:
    """Changes with the code that makes encoded reviews, so that no cache outlives it."""
    content = hashlib.sha256()
    for module in (sources, synthetic, text):
        content.update(Path(str(module.__file__)).read_bytes())
    content.update(Path(__file__).read_bytes())
    content.update(text.tokenizers.__version__.encode())
    return content.hexdigest()
