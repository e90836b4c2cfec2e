"""What a difference between two configurations is worth, and how well probabilities are meant.

N reviews, S seeds. A run is right or wrong on each review; two runs with the same seed are a pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit
from scipy.stats import binomtest, fisher_exact, norm, rankdata, t


LEVEL = 0.95  # of every interval
DRAWS = 10_000  # of the bootstrap
BINS = 15  # of the calibration error, with the same number of reviews each


class McNemar(NamedTuple):
    """Reviews on which just one of two runs is right."""

    first: int
    second: int

    @property
    def p(self) -> float:
        """Exact two-sided p: both are as likely where the two are equally good (McNemar 1947)."""
        return self.one_sided("two-sided")

    def one_sided(self, alternative: str) -> float:
        """The first is better ("greater"), or the second ("less")."""
        both = self.first + self.second
        return float(binomtest(self.first, both, alternative=alternative).pvalue) if both else 1.0


def mcnemar(first_N: np.ndarray, second_N: np.ndarray) -> McNemar:
    """Of two bool arrays that say which reviews were answered rightly."""
    return McNemar(int((first_N & ~second_N).sum()), int((~first_N & second_N).sum()))


def two_samples(first_N: np.ndarray, second_M: np.ndarray, alternative: str) -> float:
    """Fisher's exact p on different reviews: the first is right more often ("greater") or less."""
    counts = [[int(x.sum()), int((~x).sum())] for x in (first_N, second_M)]
    return float(fisher_exact(counts, alternative=alternative).pvalue)


def combined(greater_S: Sequence[float], less_S: Sequence[float]) -> float:
    """A two-sided p of several tests on the same reviews, which depend on each other.

    Twice the median is a p-value under any dependence (Rueger 1978; Vovk and Wang 2020); twice the
    smaller of both directions is two-sided. Seeds that point in different directions do not add up.
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
    """Interval of the mean of paired differences, over seeds and reviews.

    Each draw takes seeds and reviews anew, crossed (Owen 2007).
    """
    random = np.random.default_rng(0)
    seeds_BS = random.integers(len(difference_SN), size=(DRAWS, len(difference_SN)))
    return _interval(_means(difference_SN, seeds_BS, random), len(difference_SN))


def unpaired_interval(first_SN: np.ndarray, second_SM: np.ndarray) -> tuple[float, float]:
    """The same of the difference of two means on different reviews, with the same seeds."""
    random = np.random.default_rng(0)
    seeds_BS = random.integers(len(first_SN), size=(DRAWS, len(first_SN)))
    first_B = _means(first_SN, seeds_BS, random)
    second_B = _means(second_SM, seeds_BS, random)
    return _interval(first_B - second_B, len(first_SN))


def _means(values_SN: np.ndarray, seeds_BS: np.ndarray, random: np.random.Generator) -> np.ndarray:
    # Reviews with the same values for all seeds are alike: far fewer kinds than reviews.
    kinds_SK, counts_K = np.unique(values_SN.astype(np.int8), axis=1, return_counts=True)
    reviews = counts_K.sum()
    drawn_BK = random.multinomial(reviews, counts_K / reviews, size=len(seeds_BS))
    means_BS = drawn_BK @ kinds_SK.T.astype(float) / reviews
    return np.take_along_axis(means_BS, seeds_BS, axis=1).mean(1)


def _interval(draws_B: np.ndarray, seeds: int) -> tuple[float, float]:
    """Percentiles, wider the fewer seeds there are: a few of them vary too little when drawn anew.

    The expanded percentile interval of Hesterberg 2015, "What teachers should know about the
    bootstrap": the percentile of a normal distribution at Student's t times sqrt(n / (n - 1)).
    """
    tail = (1 - LEVEL) / 2
    if seeds > 1:
        tail = norm.cdf(-np.sqrt(seeds / (seeds - 1)) * t.ppf(1 - tail, seeds - 1))
    low, high = np.quantile(draws_B, [tail, 1 - tail])
    return float(low), float(high)


def prediction_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Where one more run would lie, with probability `LEVEL`; None of a single run."""
    if len(values) < 2:
        return None
    reach = t.ppf((1 + LEVEL) / 2, len(values) - 1) * np.sqrt(1 + 1 / len(values))
    reach *= np.std(values, ddof=1)
    mean = float(np.mean(values))
    return mean - reach, mean + reach


# Calibration: the probability of the positive class is the sigmoid of the logit difference


def nll(logit_N: np.ndarray, label_N: np.ndarray) -> float:
    """Mean negative log-likelihood, nats per review."""
    return float(np.logaddexp(0, -logit_N * (2 * label_N - 1)).mean())


def weights(logits_KN: np.ndarray, label_N: np.ndarray) -> np.ndarray:
    """The weights (K,), none negative, with which the sum of K logits has the least loss on val."""

    def loss(w_K: np.ndarray) -> float:
        return nll(w_K @ logits_KN, label_N)

    start = np.full(len(logits_KN), 1 / len(logits_KN))
    return minimize(loss, start, bounds=[(0, None)] * len(start), method="L-BFGS-B").x


def temperature(logit_N: np.ndarray, label_N: np.ndarray) -> float:
    """What to divide logits by for the least `nll` (Guo et al. 2017)."""
    found = minimize_scalar(
        lambda log: nll(logit_N / np.exp(log), label_N), bounds=(-5, 15), method="bounded"
    )
    return float(np.exp(found.x))


class Bins(NamedTuple):
    """Reviews by confidence in the predicted class, as many in each bin as ties allow."""

    confidence: np.ndarray  # mean of the bin
    accuracy: np.ndarray
    share: np.ndarray  # of all reviews


def reliability(logit_N: np.ndarray, label_N: np.ndarray) -> Bins:
    """At most `BINS` bins. Reviews of the same confidence are never parted."""
    confidence_N = expit(np.abs(logit_N))
    right_N = (logit_N > 0) == label_N
    edges = np.quantile(confidence_N, np.arange(1, BINS) / BINS)
    bin_N = np.searchsorted(edges, confidence_N, side="left")
    counts = np.bincount(bin_N, minlength=BINS)
    there = counts > 0
    sums = [np.bincount(bin_N, x_N, minlength=BINS) for x_N in (confidence_N, right_N)]
    confidence, accuracy = (total[there] / counts[there] for total in sums)
    return Bins(confidence, accuracy, counts[there] / len(logit_N))


def calibration_error(logit_N: np.ndarray, label_N: np.ndarray) -> float:
    """Expected calibration error, a fraction 0..1: mean of |confidence - accuracy| over bins."""
    bins = reliability(logit_N, label_N)
    return float((bins.share * np.abs(bins.confidence - bins.accuracy)).sum())


# Of one model


def proportion_interval(right: int, count: int) -> tuple[float, float]:
    """Of an accuracy, over reviews (Wilson 1927)."""
    interval = binomtest(right, count).proportion_ci(LEVEL, method="wilson")
    return float(interval.low), float(interval.high)


def f1(told_N: np.ndarray, label_N: np.ndarray) -> float:
    """Of the positive class; 0 where nothing is positive and nothing told so."""
    both = int((told_N & label_N).sum())
    total = int(told_N.sum()) + int(label_N.sum())
    return 2 * both / total if total else 0.0


def auc(logit_N: np.ndarray, label_N: np.ndarray) -> float:
    """Probability that a positive review has the higher logit than a negative one."""
    ranks_N = rankdata(logit_N)
    positive = int(label_N.sum())
    over = ranks_N[label_N].sum() - positive * (positive + 1) / 2
    return float(over / (positive * (len(label_N) - positive)))
