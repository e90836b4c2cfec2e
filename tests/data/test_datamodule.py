"""Splits, duplicates, and what Lightning gets from the data module.

pytest tests/data/test_datamodule.py
"""

from __future__ import annotations

from itertools import product
from pathlib import Path

import lightning
import numpy as np
import pytest

from imdb_lightning.data.batches import EncodedReviews
from imdb_lightning.data.datamodule import ReviewDataModule
from imdb_lightning.data.encode import duplicates
from imdb_lightning.data.sources import DataError
from imdb_lightning.data.split import stratified_holdout
from imdb_lightning.model.classifier import Classifier
from imdb_lightning.runtime import process
from tests.conftest import TINY, composed, some_reviews, write_parquet


def labels_with(share: float, count: int = 1000) -> np.ndarray:
    return (np.random.default_rng(1).random(count) < share).astype(np.int64)


@pytest.mark.parametrize(("share", "val_size"), list(product([0.5, 0.1, 0.9], [20, 333, 900])))
def test_splits_are_disjoint_complete_and_stratified(share: float, val_size: int) -> None:
    labels = labels_with(share)
    train, val = stratified_holdout(labels, val_size, seed=0)
    assert len(val) == val_size
    np.testing.assert_array_equal(np.sort(np.concatenate([train, val])), np.arange(len(labels)))
    assert abs(labels[val].sum() - val_size * labels.mean()) <= 1


def test_splits_are_a_function_of_the_seed() -> None:
    labels = labels_with(0.5)
    _, val = stratified_holdout(labels, 100, seed=0)
    np.testing.assert_array_equal(val, stratified_holdout(labels, 100, seed=0)[1])
    assert set(val) != set(stratified_holdout(labels, 100, seed=1)[1])
    assert (
        len(set(val) & set(stratified_holdout(labels, 100, seed=1)[1])) < 30
    )  # 10 expected by chance


@pytest.mark.parametrize(("val_size", "share"), [(1000, 0.5), (1200, 0.5), (1, 0.5), (999, 0.01)])
def test_a_split_without_a_label_is_refused(val_size: int, share: float) -> None:
    with pytest.raises(DataError, match=f"data.val_size={val_size}: .* choose another"):
        stratified_holdout(labels_with(share), val_size, seed=0)


def test_duplicates_are_counted_within_and_across_splits() -> None:
    texts = {"train": ["a", "b", "b", "c"], "val": ["b", "d", "d", "d"], "test": ["a", "d", "e"]}
    assert duplicates(texts) == {
        "train": 1,
        "val": 2,
        "val in train": 1,
        "test": 0,
        "test in train": 1,
        "test in val": 1,
    }


def test_only_train_is_in_the_vocabulary(tmp_path: Path) -> None:
    data = write_parquet(tmp_path / "d", train=some_reviews(40), test=some_reviews(6, offset=40))
    cfg = composed(f"data.path={data}", "data.val_size=10")
    reviews = ReviewDataModule(cfg.data, seed=0)
    reviews.setup()
    vocabulary = reviews.splits["train"].tokens.max() + 1
    for split in ("val", "test"):
        numbers = set(map(str, reviews.splits[split].index + (40 if split == "test" else 0)))
        assert not any(f'"{number}":' in reviews.tokenizer_json for number in numbers)
        assert reviews.splits[split].tokens.max() < vocabulary
    assert reviews.metadata["reviews"] == {"train": 30, "val": 10, "test": 6}
    assert not set(reviews.splits["train"].index) & set(reviews.splits["val"].index)


class Watch(lightning.pytorch.callbacks.Callback):
    """Notes the order of reviews in each training epoch."""

    def __init__(self) -> None:
        self.epochs: list[list[int]] = []

    def on_train_epoch_start(self, *_: object) -> None:
        self.epochs.append([])

    def on_train_batch_start(
        self, trainer: lightning.Trainer, model: object, batch: tuple, batch_idx: int
    ) -> None:
        self.epochs[-1] += batch[3].tolist()


def orders(seed: int, workers: int) -> list[list[int]]:
    """Row numbers in the order in which Lightning hands them out, for three epochs."""
    cfg = composed(*TINY, f"data.num_workers={workers}")
    watch = Watch()
    process.ignore_lightning_warnings()
    trainer = lightning.Trainer(
        max_epochs=3,
        accelerator="cpu",
        callbacks=[watch],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    trainer.fit(
        Classifier.from_config(cfg.model, cfg.optim), datamodule=ReviewDataModule(cfg.data, seed)
    )
    return watch.epochs


@pytest.mark.slow
def test_the_order_is_a_function_of_seed_and_epoch_under_lightning() -> None:
    first = orders(seed=0, workers=0)
    assert orders(seed=0, workers=0) == first
    assert orders(seed=0, workers=1) == first
    assert orders(seed=1, workers=0)[0] != first[0]
    assert first[0] != first[1] != first[2]
    assert sorted(first[0]) == sorted(first[1]) == sorted(first[2])


# Reviews without labels, and all labelled ones


WITH_UNLABELLED = [*TINY, "data.use_unlabelled=true"]


def test_pretraining_reads_all_but_val_and_test() -> None:
    cfg = composed(*WITH_UNLABELLED, "data.train_size=20", "data.val_size=10", "data.test_size=6")
    plain, words = (
        ReviewDataModule(cfg.data, 0),
        ReviewDataModule(cfg.data, 0, for_pretraining=True),
    )
    plain.setup()
    words.setup()
    assert words.tokenizer_json == plain.tokenizer_json
    assert len(words.splits["train"]) == 20 + 30
    own = {tuple(review) for review in reviews_of(words.splits["train"])}
    theirs = {
        name: [tuple(review) for review in reviews_of(plain.splits[name])] for name in plain.splits
    }
    assert own == {*theirs["train"], *theirs["unsupervised"]}
    assert len({*words.splits["train"].index.tolist()}) == 50


def reviews_of(reviews: EncodedReviews) -> list[list[int]]:
    ends = zip(reviews.offsets[:-1], reviews.offsets[1:], strict=True)
    return [reviews.tokens[start:end].tolist() for start, end in ends]


def test_the_vocabulary_counts_unlabelled_reviews_on_request(tmp_path: Path) -> None:
    unlabelled: dict[str, list] = {"text": ["unseen word"] * 3, "label": [-1] * 3}
    data = write_parquet(
        tmp_path / "d", train=some_reviews(8), test=some_reviews(4, 8), unsupervised=unlabelled
    )
    known = {}
    for switch in ("true", "false"):
        cfg = composed(f"data.path={data}", "data.val_size=2", f"data.use_unlabelled={switch}")
        module = ReviewDataModule(cfg.data, 0)
        module.setup()
        known[switch] = "unseen" in module.tokenizer_json
    assert known == {"true": True, "false": False}


def test_a_given_vocabulary_is_kept() -> None:
    cfg = composed(*WITH_UNLABELLED)
    before = ReviewDataModule(cfg.data, 0)
    before.setup()
    after = ReviewDataModule(composed(*TINY).data, 0, tokenizer_json=before.tokenizer_json)
    after.setup()
    assert after.tokenizer_json == before.tokenizer_json
    for name in ("train", "val", "test"):
        np.testing.assert_array_equal(after.splits[name].tokens, before.splits[name].tokens)


def test_a_refit_trains_on_all_that_is_labelled() -> None:
    cfg = composed(*TINY, "data.train_on_val=true")
    data = ReviewDataModule(cfg.data, 0)
    data.setup()
    train, val = data.splits["train"], data.splits["val"]
    assert train.index.tolist() == list(range(80))
    assert len(val) == 16 and data.metadata["duplicates"]["val in train"] >= 16
