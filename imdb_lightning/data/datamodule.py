"""The LightningDataModule: reviews from a source, split, encoded, in batches."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from torch.utils.data import DataLoader

from . import encode, sources, split, synthetic, text
from .batches import (
    BucketBatchSampler,
    DeviceLoader,
    EncodedReviews,
    Order,
    RankBatches,
    SortedBatchSampler,
    padding_fraction,
)
from .cache import Encoded, load_or_build
from .sources import UNLABELLED


log = logging.getLogger(__name__)

Batches = DataLoader | DeviceLoader


class ReviewDataModule(lightning.LightningDataModule):
    """Train, val and test reviews in length-bucketed batches; `data` is the group of that name.

    val is `val_size` reviews of the official train split, stratified by label; train is the rest,
    or with `train_on_val` all of them; test is the official test split. The vocabulary is that of
    train, with `use_unlabelled` also of the unlabelled reviews, unless `tokenizer_json` is given,
    that of an earlier one.

    `for_pretraining` appends the unlabelled reviews to train. A `teacher` maps texts to P(positive)
    (N,): the unlabelled reviews are then appended to train with the likelier label, and
    `soft_labels_N` has the probabilities. `upstream` is the provenance of the runs that tokenizer
    and teacher come from. `resume_position` is an epoch and how many of its batches are done.
    `overfit`: each epoch has the batches of the first one. Of several processes, that of `rank`
    loads its rows of each batch.

    After `setup`, `metadata` describes the reviews, for metrics.json. `setup` raises DataError.
    """

    def __init__(
        self,
        data: Mapping[str, Any],
        seed: int,
        tokenizer_json: str | None = None,
        for_pretraining: bool = False,
        teacher: Callable[[list[str]], np.ndarray] | None = None,
        upstream: Mapping[str, Any] | None = None,
        resume_position: tuple[int, int] = (0, 0),
        overfit: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__()
        self.data = data
        self.seed = seed
        self.upstream_tokenizer_json = tokenizer_json
        self.for_pretraining = for_pretraining
        self.teacher = teacher
        self.upstream = upstream or {}
        self.resume_position = resume_position
        self.overfit = overfit
        self.rank = rank
        self.world_size = world_size
        self.splits: dict[str, EncodedReviews] = {}
        self.tokenizer_json = ""
        self.metadata: dict[str, Any] = {}
        self.soft_labels_N: np.ndarray | None = None  # by row of the unlabelled reviews, float32

    def setup(self, stage: str | None = None) -> None:
        if self.splits:
            return
        encoded = self._encoded()
        self.splits = encoded.splits
        if self.for_pretraining:
            self.splits = encode.with_unlabelled(encoded.splits)
        elif self.teacher is not None:
            self.soft_labels_N = self.teacher(self._official[UNLABELLED].texts)
            self.splits = encode.with_pseudo_labels(encoded.splits, self.soft_labels_N)
        self.tokenizer_json = encoded.tokenizer_json
        self.metadata = {**self._source, **encoded.metadata, **self.upstream}
        vars(self).pop("_official", None)  # the texts are not needed any more

    @cached_property
    def _source(self) -> dict[str, Any]:
        """Where the reviews come from, and the hash of their files."""
        data = self.data
        if data["name"] == "synthetic":
            parameters = {name: data[name] for name in ("train_size", "test_size", "distance")}
            return {"source": "synthetic", **parameters}
        root = sources.locate(data["path"], data["use_unlabelled"])
        source = {"source": str(root), "fingerprint": sources.fingerprint(root)}
        if data["use_unlabelled"]:
            source[UNLABELLED] = sources.fingerprint(root, (UNLABELLED,))
        return source

    @cached_property
    def _official(self) -> Mapping[str, sources.Reviews]:
        if self.data["name"] == "imdb":
            log.info("reading the reviews of %s", self._source["source"])
        return split.official_splits(self.data, self.data["use_unlabelled"])

    def _encoded(self) -> Encoded:
        """From the cache, or encoded now."""
        names = ("vocab_size", "max_length", "truncation", "val_size", "seed")
        options = {n: self.data[n] for n in (*names, "train_on_val", "use_unlabelled")}

        def build() -> Encoded:
            started = time.perf_counter()
            encoded = encode.encode(
                self._official, tokenizer_json=self.upstream_tokenizer_json, **options
            )
            count = sum(map(len, encoded.splits.values()))
            seconds = time.perf_counter() - started
            log.info("read and encoded %s reviews in %.1f s", f"{count:,}", seconds)
            return encoded

        if self.data["cache_dir"] is None:
            return build()
        source = self._source
        content = {k: v for k, v in source.items() if k != "source"} or source
        key = {**content, **options, "dataset": self.data["name"], "code": code_version()}
        if self.upstream_tokenizer_json is not None:
            given = self.upstream_tokenizer_json.encode()
            key["tokenizer"] = hashlib.sha256(given).hexdigest()
        return load_or_build(Path(os.path.expanduser(self.data["cache_dir"])), key, build)

    def train_dataloader(self) -> Batches:
        return self._loader("train", self._train_sampler(self.resume_position))

    def val_dataloader(self) -> Batches:
        return self._loader("val")

    def test_dataloader(self) -> Batches:
        return self._loader("test")

    def padding(self) -> float:
        """Fraction 0..1 of the positions of the first training epoch that are padding."""
        return padding_fraction(self.splits["train"].lengths, self._train_sampler())

    def _train_sampler(self, resume_position: tuple[int, int] = (0, 0)) -> BucketBatchSampler:
        lengths = self.splits["train"].lengths
        size = self.data["batch_size"]
        return BucketBatchSampler(lengths, size, self.seed, resume_position, self.overfit)

    def _loader(self, name: str, sampler: BucketBatchSampler | None = None) -> Batches:
        reviews, workers = self.splits[name], self.data["num_workers"]
        whole = sampler or SortedBatchSampler(reviews.lengths, self.data["batch_size"])
        order: Order = whole
        if self.world_size > 1:
            order = RankBatches(whole, self.rank, self.world_size)
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        if workers == 0 and DeviceLoader.fits(reviews, device):
            return DeviceLoader(reviews, order, device)
        return Loader(
            reviews,
            batch_sampler=order,
            collate_fn=identity_collate,
            num_workers=workers,
            persistent_workers=workers > 0,
            # Not the fork server: its workers survive a kill -9 of the run.
            multiprocessing_context="spawn" if workers else None,
        )


class Loader(DataLoader):
    """A DataLoader that draws one random number an epoch, with and without workers.

    With persistent workers PyTorch draws one for all epochs: a run would have other bits, and
    again others after it is resumed in a new process.
    """

    def __iter__(self) -> Any:
        if self._iterator is not None:
            torch.empty((), dtype=torch.int64).random_()
        return super().__iter__()


def identity_collate(batch: object) -> object:
    """`EncodedReviews` returns complete batches: there is nothing to collate."""
    return batch


def code_version() -> str:
    """A hash of the code that encodes reviews, so that no cache outlives it."""
    content = hashlib.sha256()
    for module in (sources, split, synthetic, text, encode):
        content.update(Path(str(module.__file__)).read_bytes())
    content.update(text.tokenizers.__version__.encode())
    return content.hexdigest()
