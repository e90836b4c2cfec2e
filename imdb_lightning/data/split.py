"""The official splits of a dataset, and the validation split that is held out from train."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from . import sources, synthetic
from .labels import LABELS
from .sources import DataError, Reviews


def official_splits(data: Mapping[str, Any], unlabelled: bool = False) -> dict[str, Reviews]:
    """ "train", "test" and, if asked for, "unsupervised"; `data` is the group of that name.

    Raises DataError.
    """
    if data["name"] == "synthetic":
        # The held-out reviews come on top of train_size, as IMDB's come out of its 25,000.
        return synthetic.corpus(
            data["train_size"] + data["val_size"],
            data["test_size"],
            data["distance"],
            data["max_length"],
            data["seed"],
            unlabelled,
        )
    return sources.load(sources.locate(data.get("path"), unlabelled), unlabelled)


def stratified_holdout(
    labels: np.ndarray, val_size: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of train and of val, ascending; both keep the proportion of labels.

    Raises DataError if a split would lack a label.
    """
    random = np.random.default_rng(seed)
    rows_of = [random.permutation(np.flatnonzero(labels == n)) for n in range(len(LABELS))]
    negative = round(val_size * len(rows_of[0]) / len(labels))
    counts = (negative, val_size - negative)
    for rows, count, name in zip(rows_of, counts, LABELS, strict=True):
        if not 0 < count < len(rows):
            raise DataError(
                f"data.val_size={val_size}: train or val would have no {name} reviews, of which "
                f"there are {len(rows)} in {len(labels)}; choose another val_size"
            )
    val = [rows[:count] for rows, count in zip(rows_of, counts, strict=True)]
    train = [rows[count:] for rows, count in zip(rows_of, counts, strict=True)]
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(val))


def reviews_of_split(
    data: Mapping[str, Any], name: str, path: str | None = None
) -> tuple[list[str], np.ndarray]:
    """Texts and labels (bool) of "val" or "test" as a run saw them. Raises DataError.

    `data` is the run's group of that name; `path` is where the reviews are now.
    """
    path = path or data.get("path") or os.environ.get("IMDB_DATA")
    official = official_splits({**data, "path": path})
    if name == "test":
        return official["test"].texts, official["test"].labels.astype(bool)
    train = official["train"]
    _, rows = stratified_holdout(train.labels, data["val_size"], data["seed"])
    return [train.texts[row] for row in rows], train.labels[rows].astype(bool)
