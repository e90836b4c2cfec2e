"""Encoded reviews, batches, and the order of batches.

Dimensions: N reviews, B reviews in a batch, T tokens of the longest review in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler


Batch = tuple[Tensor, Tensor, Tensor, Tensor]

COPY = 2**62  # the index of a review that only keeps a process busy, and counts for nothing

POOL_BATCHES = 50  # batches that are sorted by length together: little padding, yet well mixed


@dataclass(frozen=True)
class EncodedReviews(Dataset):
    """Reviews as token ids, one after the other. Several rows at once are one batch."""

    tokens: np.ndarray  # int32, all reviews end to end
    offsets: np.ndarray  # int64 (N+1,): review n is tokens[offsets[n]:offsets[n + 1]]
    labels: np.ndarray  # int64 (N,): 0 negative, 1 positive, -1 unlabelled
    index: np.ndarray  # int64 (N,): the review's row in its official split

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each review, the start token included: int64 (N,), at least 1."""
        return np.diff(self.offsets)

    def __getitems__(self, rows: list[int]) -> Batch:
        """(tokens_BT, lengths_B, labels_B, index_B), all int64, padded on the right with 0.

        Row ~n is review n with the index COPY.
        """
        rows_B, index_B = self.rows_and_index(rows)
        starts_B = self.offsets[rows_B]
        lengths_B = self.offsets[rows_B + 1] - starts_B
        t_T = np.arange(lengths_B.max())
        inside_BT = t_T < lengths_B[:, None]
        tokens_BT = np.zeros(inside_BT.shape, dtype=np.int64)
        tokens_BT[inside_BT] = self.tokens[(starts_B[:, None] + t_T)[inside_BT]]
        batch = (tokens_BT, lengths_B, self.labels[rows_B], index_B)
        tokens, lengths, labels, index = map(torch.from_numpy, batch)
        return tokens, lengths, labels, index

    def rows_and_index(self, rows: list[int]) -> tuple[np.ndarray, np.ndarray]:
        rows_B = np.asarray(rows)
        is_copy_B = rows_B < 0
        rows_B = np.where(is_copy_B, ~rows_B, rows_B)
        return rows_B, np.where(is_copy_B, COPY, self.index[rows_B])


class DeviceLoader:
    """The batches of a sampler as slices of reviews that are all on the GPU: no copy in a step.

    At the start of an epoch the reviews are put in order, so that a batch is a slice. The
    batches are those of a DataLoader over `EncodedReviews`, and so are the random numbers drawn.
    """

    def __init__(
        self,
        reviews: EncodedReviews,
        sampler: Order,
        device: torch.device,
    ) -> None:
        self.reviews = reviews
        self.lengths = reviews.lengths
        self.batch_sampler = sampler  # Lightning sets its epoch
        whole = reviews.__getitems__([*range(len(reviews))])
        tokens_NT, *columns = (tensor.to(device) for tensor in whole)
        self.tokens_NT = tokens_NT.int()
        self.columns = columns

    @staticmethod
    def fits(reviews: EncodedReviews, device: torch.device) -> bool:
        """True if an eighth of the GPU's free memory holds the reviews twice."""
        if device.type != "cuda":
            return False
        number = len(reviews) * int(reviews.lengths.max())
        return 2 * 8 * number < torch.cuda.mem_get_info(device)[0] / 8

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[Batch]:
        torch.empty((), dtype=torch.int64).random_()
        batches = list(self.batch_sampler)
        rows_N, index_N = self.reviews.rows_and_index([row for batch in batches for row in batch])
        device = self.tokens_NT.device
        order = torch.from_numpy(rows_N).to(device)
        tokens_NT, *columns = (tensor[order] for tensor in (self.tokens_NT, *self.columns))
        columns[-1] = torch.from_numpy(index_N).to(device)
        start = 0
        for batch in batches:
            part = slice(start, start + len(batch))
            start = part.stop
            longest = self.lengths[rows_N[part]].max()
            lengths, labels, index = (column[part] for column in columns)
            yield tokens_NT[part, :longest].long(), lengths, labels, index


class BucketBatchSampler(Sampler[list[int]]):
    """Shuffled batches of reviews of similar length; every review once per epoch.

    The order is a pure function of (seed, epoch): a permutation, cut into pools of 50 batches, each
    pool sorted by length and cut into batches, and the batches shuffled. `resume_position` is an
    epoch and how many of its first batches to skip. `overfit`: all epochs are as the first one.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        batch_size: int,
        seed: int,
        resume_position: tuple[int, int] = (0, 0),
        overfit: bool = False,
    ) -> None:
        self.lengths = lengths
        self.overfit = overfit
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0
        self.resume_position = resume_position

    @property
    def sampler(self) -> BucketBatchSampler:
        """Itself: Lightning calls `set_epoch` of `batch_sampler.sampler` only."""
        return self

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        random = np.random.default_rng([self.seed, 0 if self.overfit else self.epoch])
        order = random.permutation(len(self.lengths))
        batches = []
        for pool in chunks(order, POOL_BATCHES * self.batch_size):
            by_length = pool[np.argsort(self.lengths[pool], kind="stable")]
            batches += chunks(by_length, self.batch_size)
        epoch, done = self.resume_position
        shuffled = random.permutation(len(batches))[done if epoch == self.epoch else 0 :]
        return (batches[i].tolist() for i in shuffled)


class SortedBatchSampler(Sampler[list[int]]):
    """Every review once, shortest first: the least padding, for validation and test."""

    def __init__(self, lengths: np.ndarray, batch_size: int) -> None:
        self.batches = chunks(np.argsort(lengths, kind="stable"), batch_size)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return (batch.tolist() for batch in self.batches)


class RankBatches(Sampler[list[int]]):
    """The rows of one process in each batch of `order`: every `world_size`-th from `rank` on.

    Of a batch without a row for it, the first row as a copy (~row).
    """

    def __init__(
        self, order: BucketBatchSampler | SortedBatchSampler, rank: int, world_size: int
    ) -> None:
        self.order = order
        self.rank = rank
        self.world_size = world_size

    @property
    def sampler(self) -> Any:
        """Lightning calls its `set_epoch`."""
        return self.order

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[list[int]]:
        return (rows[self.rank :: self.world_size] or [~rows[0]] for rows in self.order)


Order = BucketBatchSampler | SortedBatchSampler | RankBatches


def chunks(rows: np.ndarray, size: int) -> list[np.ndarray]:
    """Chunks of `size` rows; the last may be shorter."""
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def padding_fraction(lengths: np.ndarray, sampler: Sampler[list[int]]) -> float:
    """Fraction 0..1 of the positions in the sampler's batches that are padding."""
    positions = sum(len(rows) * int(lengths[rows].max()) for rows in sampler)
    return 1 - int(lengths.sum()) / positions
