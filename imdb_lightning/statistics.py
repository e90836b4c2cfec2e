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
    """Interval of the mean of paired differences, over seeds and reviews; of one run, over reviews.

    Seeds and reviews are crossed, and each adds to the variance; each part has an interval of its
    own, Student's of the few seeds, and the reach of both together is the root of the sum of their
    squares (Zou and Donner 2008, "Construction of confidence limits about effect measures"). It is
    never less than that of these very runs over reviews: a few seeds may agree by chance.
    """
    return _interval(difference_SN.mean(1), *_of_reviews(difference_SN))


def unpaired_interval(first_SN: np.ndarray, second_SM: np.ndarray) -> tuple[float, float]:
    """The same of the difference of two means on different reviews, with the same seeds."""
    both = np.add(_of_reviews(first_SN), _of_reviews(second_SM))
    return _interval(first_SN.mean(1) - second_SM.mean(1), *both)


def _of_reviews(values_SN: np.ndarray) -> tuple[float, float]:
    """What reviews add to the variance of the mean: with these runs, and whatever the seeds.

    The former has in it what differs from seed to seed too, which is in the variance of the seeds'
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
    reach = float(np.sqrt(max(normal * of_runs, normal * of_reviews + of_seeds)))
    return mean - reach, mean + reach


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
