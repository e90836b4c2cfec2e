"""Significance of differences between configurations.

N reviews, S seeds. A run is right or wrong on each review; two runs with the same seed are a pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import binomtest, fisher_exact, norm, t


LEVEL = 0.95  # of every interval


class McNemar(NamedTuple):
    """Reviews on which exactly one of two runs is right."""

    first: int
    second: int

    @property
    def p(self) -> float:
        """Exact two-sided p of both being equally likely (McNemar 1947)."""
        return self.one_sided("two-sided")

    def one_sided(self, alternative: str) -> float:
        """p of the alternative that the first is better ("greater"), or the second ("less")."""
        both = self.first + self.second
        return float(binomtest(self.first, both, alternative=alternative).pvalue) if both else 1.0


def mcnemar(first_N: np.ndarray, second_N: np.ndarray) -> McNemar:
    """From two bool arrays: which reviews were classified correctly."""
    return McNemar(int((first_N & ~second_N).sum()), int((~first_N & second_N).sum()))


def fisher_exact_p(first_N: np.ndarray, second_M: np.ndarray, alternative: str) -> float:
    """Fisher's exact p, on different reviews. `alternative`: the first is "greater" or "less"."""
    counts = [[int(x.sum()), int((~x).sum())] for x in (first_N, second_M)]
    return float(fisher_exact(counts, alternative=alternative).pvalue)


def combined_p(greater_S: Sequence[float], less_S: Sequence[float]) -> float:
    """One two-sided p of several tests on the same reviews, which are dependent.

    Twice the median is a p-value under any dependence (Rueger 1978; Vovk and Wang 2020); twice the
    smaller of both directions is two-sided. Seeds that disagree in direction do not add up.
    """
    return min(1.0, 4 * min(float(np.median(greater_S)), float(np.median(less_S))))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted for the size of the family (Holm 1979), in the order of `p_values`."""
    order = np.argsort(p_values, kind="stable")
    factors = len(p_values) - np.arange(len(p_values))
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.maximum.accumulate(np.asarray(p_values)[order] * factors)
    return [float(p) for p in adjusted.clip(max=1)]


def paired_interval(difference_SN: np.ndarray) -> tuple[float, float]:
    """Interval of the mean of paired differences, over seeds and reviews; of one run, over reviews.

    Seeds and reviews are crossed, and each adds to the variance; each part has an interval of its
    own, Student's for the few seeds, and the half-width of both together is the root of the sum of
    their squares (Zou and Donner 2008, "Construction of confidence limits about effect measures").
    It is never smaller than that of these runs over reviews: a few seeds may agree by chance.
    """
    return _interval(difference_SN.mean(1), *_of_reviews(difference_SN))


def unpaired_interval(first_SN: np.ndarray, second_SM: np.ndarray) -> tuple[float, float]:
    """The same for the difference of two means on different reviews, with the same seeds."""
    both = np.add(_of_reviews(first_SN), _of_reviews(second_SM))
    return _interval(first_SN.mean(1) - second_SM.mean(1), *both)


def _of_reviews(values_SN: np.ndarray) -> tuple[float, float]:
    """The variance of the mean that comes from reviews: for these runs, and for any seeds.

    The former also contains what varies from seed to seed, which is in the variance of the seeds'
    means as well.
    """
    seeds, reviews = values_SN.shape
    review_N = values_SN.mean(0)
    rest_SN = values_SN - values_SN.mean(1, keepdims=True) - review_N
    rest = rest_SN.var() / (seeds - 1) if seeds > 1 else 0.0
    variance = float(review_N.var())
    return variance / reviews, max(0.0, variance - rest) / reviews


def _interval(means_S: np.ndarray, of_runs: float, of_reviews: float) -> tuple[float, float]:
    tail = (1 + LEVEL) / 2
    seeds, mean = len(means_S), float(means_S.mean())
    of_seeds = t.ppf(tail, seeds - 1) ** 2 * means_S.var(ddof=1) / seeds if seeds > 1 else 0.0
    normal = norm.ppf(tail) ** 2
    half_width = float(np.sqrt(max(normal * of_runs, normal * of_reviews + of_seeds)))
    return mean - half_width, mean + half_width


def prediction_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Where one more run would lie, with probability `LEVEL`; None for a single run."""
    if len(values) < 2:
        return None
    half_width = t.ppf((1 + LEVEL) / 2, len(values) - 1) * np.sqrt(1 + 1 / len(values))
    half_width *= np.std(values, ddof=1)
    mean = float(np.mean(values))
    return mean - half_width, mean + half_width
