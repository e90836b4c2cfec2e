"""What is in a batch, and in which order batches come.

pytest tests/data/test_batches.py
"""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import torch

from imdb_lightning.data.batches import (
    BucketBatchSampler,
    DeviceLoader,
    EncodedReviews,
    SortedBatchSampler,
    padding_fraction,
)
from imdb_lightning.data.datamodule import Loader, identity_collate


def reviews(lengths: np.ndarray) -> EncodedReviews:
    """Review n is the tokens n+1, repeated, with label n % 2 and index 1000 + n."""
    rows = np.arange(len(lengths))
    tokens = np.repeat(rows + 1, lengths).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return EncodedReviews(tokens, offsets, rows % 2, rows + 1000)


LENGTHS = np.random.default_rng(0).integers(1, 200, 1000)


def test_a_batch_is_tokens_lengths_labels_index() -> None:
    tokens, lengths, labels, index = reviews(np.array([2, 1, 3])).__getitems__([2, 0])
    assert tokens.tolist() == [[3, 3, 3], [1, 1, 0]]
    assert lengths.tolist() == [3, 2]
    assert labels.tolist() == [0, 0]
    assert index.tolist() == [1002, 1000]
    assert all(t.dtype == torch.int64 for t in (tokens, lengths, labels, index))


@pytest.mark.parametrize(
    "order", [BucketBatchSampler(LENGTHS, 7, seed=3), SortedBatchSampler(LENGTHS, 7)]
)
def test_every_review_comes_once(order: BucketBatchSampler | SortedBatchSampler) -> None:
    batches = list(order)
    assert len(batches) == len(order)
    assert sorted(row for batch in batches for row in batch) == list(range(1000))
    assert sorted({len(batch) for batch in batches}, reverse=True)[0] == 7


def test_a_batch_is_as_wide_as_its_longest_review() -> None:
    data = reviews(LENGTHS)
    for rows in BucketBatchSampler(LENGTHS, 16, seed=0):
        tokens, lengths, _, _ = data.__getitems__(rows)
        assert tokens.shape[1] == LENGTHS[rows].max() == lengths.max()
        assert ((tokens > 0).sum(1) == lengths).all()


def test_the_order_is_a_pure_function_of_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[list[int]]:
        sampler = BucketBatchSampler(LENGTHS, 8, seed)
        sampler.sampler.set_epoch(epoch)  # what Lightning calls
        torch.manual_seed(epoch)  # the global state has no say
        return list(sampler)

    assert order(0, 0) == order(0, 0)
    first = [order(seed, epoch) for seed in (0, 1) for epoch in (0, 1, 2)]
    assert all(a != b for i, a in enumerate(first) for b in first[:i])


def test_the_order_is_the_one_it_always_was() -> None:
    """A change here changes every result under a fixed seed."""
    sampler = BucketBatchSampler(np.arange(10_000) % 199 + 1, 32, seed=0)
    order = hashlib.sha256()
    for epoch in range(3):
        sampler.set_epoch(epoch)
        order.update(json.dumps(list(sampler)).encode())
    assert order.hexdigest() == "fe08796c4a24749dc6d467418395afd5da09907e044f3344952eeda855666d30"


def test_buckets_have_little_padding_and_mix_lengths_over_the_epoch() -> None:
    lengths = np.random.default_rng(1).integers(1, 200, 20_000)
    sampler = BucketBatchSampler(lengths, 64, seed=0)
    assert padding_fraction(lengths, sampler) < 0.03
    means = [lengths[rows].mean() for rows in sampler]
    halves = np.mean(means[: len(means) // 2]), np.mean(means[len(means) // 2 :])
    assert abs(halves[0] - halves[1]) < 20


def test_padding_is_counted_by_position() -> None:
    lengths = np.array([1, 4, 2])
    assert padding_fraction(lengths, SortedBatchSampler(lengths, 2)) == pytest.approx(1 / 8)


def test_batches_on_a_device_are_those_of_a_loader() -> None:
    data = reviews(LENGTHS)
    for sampler in (BucketBatchSampler(LENGTHS, 7, seed=3), SortedBatchSampler(LENGTHS, 7)):
        there = DeviceLoader(data, sampler, torch.device("cpu"))
        here = Loader(data, batch_sampler=sampler, collate_fn=identity_collate)
        assert len(there) == len(here)
        drawn = []
        passes = []
        for loader in (there, here):
            torch.manual_seed(0)
            passes.append(list(loader))
            drawn.append(torch.rand(()))
        assert drawn[0] == drawn[1]  # as many random numbers
        for mine, theirs in zip(*passes, strict=True):
            assert all(map(torch.equal, mine, theirs))
            assert [t.dtype for t in mine] == [t.dtype for t in theirs]
