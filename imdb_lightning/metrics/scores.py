"""Scores of one model: F1, AUC, the interval of an accuracy, accuracy by length."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.stats import binomtest, rankdata

from .significance import LEVEL


LENGTHS = (50, 100, 200, 400, 800)  # words: upper ends of the groups of reviews


def proportion_interval(correct: int, count: int) -> tuple[float, float]:
    """Interval of an accuracy, over reviews (Wilson 1927)."""
    interval = binomtest(correct, count).proportion_ci(LEVEL, method="wilson")
    return float(interval.low), float(interval.high)


def f1(predicted_N: np.ndarray, label_N: np.ndarray) -> float:
    """F1 of the positive class; 0 if nothing is positive or predicted to be. Bool arrays."""
    both = int((predicted_N & label_N).sum())
    total = int(predicted_N.sum()) + int(label_N.sum())
    return 2 * both / total if total else 0.0


def auc(logit_N: np.ndarray, label_N: np.ndarray) -> float:
    """Probability that a positive review has a higher logit than a negative one."""
    ranks_N = rankdata(logit_N)
    positive = int(label_N.sum())
    over = ranks_N[label_N].sum() - positive * (positive + 1) / 2
    return float(over / (positive * (len(label_N) - positive)))


def length_groups(words_N: np.ndarray) -> Iterator[tuple[int, int | None, np.ndarray]]:
    """Groups of reviews by words: over, up to (None: no limit), and which reviews (bool)."""
    for low, high in zip((0, *LENGTHS), (*LENGTHS, None), strict=True):
        over_N = words_N >= 0 if low == 0 else words_N > low
        yield low, high, over_N & (words_N <= (high or np.inf))


def length_label(low: int, high: int | None) -> str:
    return f"over {low}" if high is None else f"{low + 1}-{high}"
