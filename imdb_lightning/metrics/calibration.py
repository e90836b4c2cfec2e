"""Calibration of probabilities: loss, temperature, reliability bins, expected calibration error.

The probability of the positive class is the sigmoid of the logit difference.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit


BINS = 15  # of the calibration error, with the same number of reviews each


def nll(logit_N: np.ndarray, label_N: np.ndarray) -> float:
    """Mean negative log-likelihood, nats per review."""
    return float(np.logaddexp(0, -logit_N * (2 * label_N - 1)).mean())


def ensemble_weights(logits_KN: np.ndarray, label_N: np.ndarray) -> np.ndarray:
    """Non-negative weights (K,) with which the weighted sum of K logits has the least `nll`."""

    def loss(w_K: np.ndarray) -> float:
        return nll(w_K @ logits_KN, label_N)

    start = np.full(len(logits_KN), 1 / len(logits_KN))
    return minimize(loss, start, bounds=[(0, None)] * len(start), method="L-BFGS-B").x


def fit_temperature(logit_N: np.ndarray, label_N: np.ndarray) -> float:
    """The divisor of the logits with the least `nll` (Guo et al. 2017)."""
    found = minimize_scalar(
        lambda log: nll(logit_N / np.exp(log), label_N), bounds=(-5, 15), method="bounded"
    )
    return float(np.exp(found.x))


class ReliabilityBins(NamedTuple):
    """Reviews by confidence in the predicted class, in bins as equal in size as ties allow."""

    confidence: np.ndarray  # mean of the bin
    accuracy: np.ndarray
    share: np.ndarray  # of all reviews


def reliability_bins(logit_N: np.ndarray, label_N: np.ndarray) -> ReliabilityBins:
    """At most `BINS` bins. Reviews of equal confidence share a bin."""
    confidence_N = expit(np.abs(logit_N))
    right_N = (logit_N > 0) == label_N
    edges = np.quantile(confidence_N, np.arange(1, BINS) / BINS)
    bin_N = np.searchsorted(edges, confidence_N, side="left")
    counts = np.bincount(bin_N, minlength=BINS)
    there = counts > 0
    sums = [np.bincount(bin_N, x_N, minlength=BINS) for x_N in (confidence_N, right_N)]
    confidence, accuracy = (total[there] / counts[there] for total in sums)
    return ReliabilityBins(confidence, accuracy, counts[there] / len(logit_N))


def calibration_error(logit_N: np.ndarray, label_N: np.ndarray) -> float:
    """Expected calibration error, a fraction 0..1: mean of |confidence - accuracy| over bins."""
    bins = reliability_bins(logit_N, label_N)
    return float((bins.share * np.abs(bins.confidence - bins.accuracy)).sum())
