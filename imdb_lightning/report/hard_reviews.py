"""The reviews that all models find hardest, with their texts if the reviews are available."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import expit

from ..data import sources
from ..data.labels import LABELS
from .runs import Result


MAX_SHOWN = 5
MAX_CHARACTERS = 1_500  # characters of a review
MIN_ACCURACY = 0.6  # a run below it says nothing about a review


@dataclass
class HardReview:
    """One review of the official test split."""

    index: int
    label: str
    wrong: int  # runs
    runs: int
    probability: float  # of the label, mean over runs
    text: str


def hardest(results: Sequence[Result]) -> list[HardReview]:
    """The test reviews whose label has the least mean probability; none without the reviews."""
    trained = [
        r
        for r in results
        if r.metrics["dataset"] == "imdb" and r.metrics["test/acc"] > MIN_ACCURACY
    ]
    if not trained:
        return []
    data = trained[0].metrics["data"]
    same = [r for r in trained if r.metrics["data"].get("fingerprint") == data.get("fingerprint")]
    root = Path(str(data.get("source")))
    try:
        if not root.exists() or sources.fingerprint(root) != data.get("fingerprint"):
            return []
        texts = sources.load(root)["test"].texts
    except (OSError, sources.DataError):
        return []
    test = max((r.splits["test"] for r in same), key=lambda split: len(split.index))
    same = [r for r in same if np.array_equal(r.splits["test"].index, test.index)]
    logit_RN = np.array([r.splits["test"].logit for r in same])
    probability_RN = expit(np.where(test.label, logit_RN, -logit_RN))
    mean_N = probability_RN.mean(0)
    found = []
    for row in np.argsort(mean_N, kind="stable")[:MAX_SHOWN]:
        index = int(test.index[row])
        text = texts[index]
        found.append(
            HardReview(
                index,
                LABELS[int(test.label[row])],
                int((probability_RN[:, row] < 0.5).sum()),
                len(same),
                float(mean_N[row]),
                text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]} ...",
            )
        )
    return found
