"""Intervals cover what they should, p-values are the textbook's, calibration is measured rightly.

pytest tests/metrics/test_metrics.py
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import expit

from imdb_lightning.metrics import significance
from imdb_lightning.metrics.calibration import (
    BINS,
    calibration_error,
    fit_temperature,
    nll,
    reliability_bins,
)
from imdb_lightning.metrics.scores import auc, f1, proportion_interval
from imdb_lightning.metrics.significance import McNemar


# Tests


@pytest.mark.parametrize(("first", "second"), [(6, 16), (16, 6), (0, 5), (10, 10), (3, 1)])
def test_mcnemar_is_the_exact_binomial(first: int, second: int) -> None:
    n, fewer = first + second, min(first, second)
    tail = sum(math.comb(n, k) for k in range(fewer + 1)) / 2**n
    assert McNemar(first, second).p == pytest.approx(min(1, 2 * tail))


def test_mcnemar_counts_reviews_that_only_one_got_right() -> None:
    first = np.array([True, True, False, False, True])
    second = np.array([True, False, True, False, False])
    assert significance.mcnemar(first, second) == (2, 1)


def test_two_equal_runs_have_no_difference() -> None:
    right = np.array([True, False])
    assert significance.mcnemar(right, right).p == 1


def test_holm_is_the_textbooks() -> None:
    assert significance.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert significance.holm([0.6, 0.7]) == [1, 1]
    assert significance.holm([]) == []


def test_several_seeds_that_agree_give_four_times_the_median_of_one_side() -> None:
    greater = [0.001, 0.01, 0.5]
    assert significance.combined_p(greater, [1 - p for p in greater]) == pytest.approx(0.04)
    assert significance.combined_p([0.5], [0.6]) == 1


def test_seeds_that_point_in_different_directions_prove_nothing() -> None:
    pairs = [McNemar(900, 1080), McNemar(1100, 950), McNemar(1000, 1000)]
    assert all(pair.p < 0.01 for pair in pairs[:2])
    sides = ([pair.one_sided(side) for pair in pairs] for side in ("greater", "less"))
    assert significance.combined_p(*sides) == 1


def test_fisher_is_the_textbooks() -> None:
    tea = [np.array([True] * right + [False] * (4 - right)) for right in (3, 1)]
    first, second = tea
    assert significance.fisher_exact_p(first, second, "greater") == pytest.approx(17 / 70)
    assert significance.fisher_exact_p(second, first, "less") == pytest.approx(17 / 70)


# Intervals


def simulated(
    random: np.random.Generator, mean: float, seeds: int, reviews: int, of_seeds: float = 0.02
) -> np.ndarray:
    """Differences -1, 0, 1 around `mean`, with a part of each seed's and each review's own."""
    seed_S = random.normal(0, of_seeds, size=(seeds, 1))
    review_N = random.normal(0, 0.1, size=reviews)
    more = (0.1 + (mean + seed_S + review_N) / 2).clip(0, 1)
    less = (0.1 - (mean + seed_S + review_N) / 2).clip(0, 1)
    draw = random.random((seeds, reviews))
    return (draw < more).astype(np.int8) - (draw > 1 - less).astype(np.int8)


@pytest.mark.parametrize(
    ("seeds", "of_seeds"), [(1, 0), (3, 0), (3, 0.01), (3, 0.05), (5, 0), (5, 0.05)]
)
def test_the_interval_covers_the_difference(seeds: int, of_seeds: float) -> None:
    """Coverage is near 95 %, however much of the variance is due to seeds; with one run per recipe,
    for these runs alone."""
    random = np.random.default_rng(1)
    intervals = [
        significance.paired_interval(simulated(random, 0.0, seeds, 500, of_seeds))
        for _ in range(500)
    ]
    covered = np.mean([low <= 0 <= high for low, high in intervals])
    assert 0.93 <= covered <= 0.99


def test_seeds_that_agree_by_chance_make_no_narrower_interval() -> None:
    difference_N = simulated(np.random.default_rng(1), 0.05, 1, 3_000)[0]
    agreeing_SN = np.stack([np.roll(difference_N, 1_000 * seed) for seed in range(3)])
    low, high = significance.paired_interval(agreeing_SN)
    mean_N = agreeing_SN.mean(0)
    assert (high - low) / 2 == pytest.approx(1.959964 * mean_N.std() / math.sqrt(3_000))


def test_the_interval_narrows_with_reviews_and_finds_a_difference() -> None:
    random = np.random.default_rng(1)
    few, many = (
        significance.paired_interval(simulated(random, 0.1, 5, reviews))
        for reviews in (200, 20_000)
    )
    assert many[1] - many[0] < few[1] - few[0]
    assert 0 < many[0] < 0.1 < many[1] < 0.2


def test_the_order_of_reviews_does_not_matter() -> None:
    random = np.random.default_rng(1)
    differences_SN = simulated(random, 0.05, 4, 300)
    shuffled_SN = differences_SN[:, random.permutation(300)]
    assert significance.paired_interval(shuffled_SN) == pytest.approx(
        significance.paired_interval(differences_SN)
    )


def test_an_interval_on_different_reviews() -> None:
    random = np.random.default_rng(1)
    first_SN, second_SM = random.random((4, 4_000)) < 0.8, random.random((4, 3_000)) < 0.7
    low, high = significance.unpaired_interval(first_SN, second_SM)
    assert 0.05 < low < 0.1 < high < 0.15


def test_runs_without_a_difference_have_an_interval_of_no_width() -> None:
    assert significance.paired_interval(np.zeros((3, 50), np.int8)) == (0, 0)


def test_one_more_run_lies_in_the_prediction_interval() -> None:
    assert significance.prediction_interval([1, 2, 3]) == pytest.approx(
        (2 - 4.302653 * math.sqrt(4 / 3), 2 + 4.302653 * math.sqrt(4 / 3))
    )
    assert significance.prediction_interval([0.5]) is None


# Calibration


def meant(random: np.random.Generator, reviews: int = 50_000) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are the truth, and labels drawn from them."""
    logit_N = random.normal(0, 2, reviews)
    return logit_N, random.random(reviews) < expit(logit_N)


def test_true_probabilities_are_calibrated_and_exaggerated_ones_are_not() -> None:
    logit_N, label_N = meant(np.random.default_rng(0))
    assert calibration_error(logit_N, label_N) < 0.01
    assert calibration_error(4 * logit_N, label_N) > 0.1


def test_a_model_that_is_sure_and_right_half_the_time_is_off_by_half() -> None:
    label_N = np.arange(1_000) % 2 == 0
    right_half = np.where(np.arange(1_000) % 4 < 2, 50.0, -50.0) * (2 * label_N - 1)
    assert calibration_error(right_half, label_N) == pytest.approx(0.5, abs=0.02)


def test_the_same_answer_to_all_has_one_confidence_and_one_bin() -> None:
    label_N = np.arange(1_000) >= 500  # sorted, as IMDB's test split is
    bins = reliability_bins(np.full(1_000, 1e-9), label_N)
    assert bins.accuracy == pytest.approx([0.5]) and bins.share == pytest.approx([1])
    assert calibration_error(np.full(1_000, 1e-9), label_N) < 1e-6


def test_bins_hold_all_reviews_in_equal_shares() -> None:
    logit_N, label_N = meant(np.random.default_rng(0), 1_500)
    bins = reliability_bins(logit_N, label_N)
    assert bins.share == pytest.approx([1 / BINS] * BINS)
    assert (bins.share * bins.accuracy).sum() == pytest.approx(((logit_N > 0) == label_N).mean())


@pytest.mark.parametrize("factor", [0.25, 1.0, 3.0])
def test_the_temperature_undoes_a_factor(factor: float) -> None:
    logit_N, label_N = meant(np.random.default_rng(0))
    assert fit_temperature(factor * logit_N, label_N) == pytest.approx(factor, rel=0.05)


def test_the_loss_is_that_of_the_label() -> None:
    logit_N, label_N = np.array([0.0, 2.0, -1.0]), np.array([True, True, True])
    expected = -np.log(expit(logit_N)).mean()
    assert nll(logit_N, label_N) == pytest.approx(expected)


def test_the_temperature_never_makes_the_loss_worse() -> None:
    logit_N, label_N = meant(np.random.default_rng(0), 500)
    for factor in (1e4, 1.0, 1e-2):
        found = fit_temperature(factor * logit_N, label_N)
        before = nll(factor * logit_N, label_N)
        assert nll(factor * logit_N / found, label_N) <= before + 1e-9


# Of one model


def test_the_interval_of_an_accuracy_is_wilsons() -> None:
    assert proportion_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    low, high = proportion_interval(10, 10)
    assert 0.6 < low < 0.8 and high == 1


def test_f1_is_of_the_positive_class() -> None:
    predicted, label = np.array([1, 1, 0, 0, 1], bool), np.array([1, 0, 1, 0, 1], bool)
    assert f1(predicted, label) == pytest.approx(2 / 3)
    assert f1(np.zeros(3, bool), np.zeros(3, bool)) == 0


def test_auc_is_the_share_of_pairs_in_the_right_order() -> None:
    random = np.random.default_rng(0)
    logit_N, label_N = random.integers(0, 5, 60).astype(float), random.random(60) < 0.4
    pairs = logit_N[label_N][:, None] - logit_N[~label_N]
    share = ((pairs > 0) + 0.5 * (pairs == 0)).mean()
    assert auc(logit_N, label_N) == pytest.approx(share)
