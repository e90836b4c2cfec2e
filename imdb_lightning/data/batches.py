"""Encoded reviews, and the order in which they become batches.

Dimensions: N reviews, B reviews in a batch, T tokens of the longest review in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler


Batch = tuple[Tensor, Tensor, Tensor, Tensor]

POOL = 50  # batches that are sorted by length together: less padding, yet well mixed


@dataclass(frozen=True)
class EncodedReviews(Dataset):
    """Reviews as token ids, one after the other. Asked for several rows, it gives one batch."""

    tokens: np.ndarray  # int32, all reviews end to end
    offsets: np.ndarray  # int64 (N+1,): review n is tokens[offsets[n]:offsets[n + 1]]
    labels: np.ndarray  # int64 (N,): 0 negative, 1 positive, -1 not labelled
    index: np.ndarray  # int64 (N,): the review's row in the official split that it came from

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each review, the start token included: int64 (N,), at least 1."""
        return np.diff(self.offsets)

    def __getitems__(self, rows: list[int]) -> Batch:
        """(tokens_BT, lengths_B, labels_B, index_B), all int64, padded on the right with 0."""
        rows_B = np.asarray(rows)
        starts_B = self.offsets[rows_B]
        lengths_B = self.offsets[rows_B + 1] - starts_B
        t_T = np.arange(lengths_B.max())
        inside_BT = t_T < lengths_B[:, None]
        tokens_BT = np.zeros(inside_BT.shape, dtype=np.int64)
        tokens_BT[inside_BT] = self.tokens[(starts_B[:, None] + t_T)[inside_BT]]
        batch = (tokens_BT, lengths_B, self.labels[rows_B], self.index[rows_B])
        tokens, lengths, labels, index = map(torch.from_numpy, batch)
        return tokens, lengths, labels, index


class LengthBuckets(Sampler[list[int]]):
    """Shuffled batches of reviews of similar length; every review once per epoch.

    The order is a pure function of (seed, epoch): a permutation, cut into pools of 50 batches, each
    pool sorted by length and cut into batches, and the batches shuffled. Of one epoch, `begun`, the
    first batches may be left out.
    """

    def __init__(self, lengths: np.ndarray, batch_size: int, seed: int) -> None:
        self.lengths = lengths
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0
        self.begun = (0, 0)  # an epoch, and how many of its batches are done

    @property
    def sampler(self) -> LengthBuckets:
        """Itself: Lightning announces the epoch to `batch_sampler.sampler` alone."""
        return self

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        random = np.random.default_rng([self.seed, self.epoch])
        order = random.permutation(len(self.lengths))
        batches = []
        for pool in split(order, POOL * self.batch_size):
            by_length = pool[np.argsort(self.lengths[pool], kind="stable")]
            batches += split(by_length, self.batch_size)
        epoch, done = self.begun
        shuffled = random.permutation(len(batches))[done if epoch == self.epoch else 0 :]
        return (batches[i].tolist() for i in shuffled)


class ByLength(Sampler[list[int]]):
    """Every review once, shortest first: the least padding, for validation and test."""

    def __init__(self, lengths: np.ndarray, batch_size: int) -> None:
        self.batches = split(np.argsort(lengths, kind="stable"), batch_size)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return (batch.tolist() for batch in self.batches)


def split(rows: np.ndarray, size: int) -> list[np.ndarray]:
    """Runs of `size` rows; the last may be shorter."""
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def padding(lengths: np.ndarray, sampler: Sampler[list[int]]) -> float:
    """Fraction 0..1 of the positions in the sampler's batches that are padding."""
    positions = sum(len(rows) * int(lengths[rows].max()) for rows in sampler)
    return 1 - int(lengths.sum()) / positions
