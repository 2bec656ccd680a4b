"""Confidence intervals and differences."""

import math

import numpy as np
import pytest
from scipy import stats

from adapt.report.statistics import mean_difference, mean_interval, paired_bootstrap, shots_needed


@pytest.mark.parametrize("count", [2, 3, 5, 50])
def test_the_interval_equals_scipy_s(count):
    values = np.random.default_rng(count).uniform(size=count).tolist()
    mean, half_width = mean_interval(values)
    theirs = stats.t.interval(0.95, count - 1, loc=np.mean(values), scale=stats.sem(values))
    np.testing.assert_allclose((mean - half_width, mean + half_width), theirs, rtol=1e-12)


def test_equal_values_have_an_interval_of_width_zero():
    assert mean_interval([0.1] * 3) == (pytest.approx(0.1), pytest.approx(0.0, abs=1e-15))


def test_the_interval_of_one_value_is_nan():
    mean, half_width = mean_interval([0.25])
    assert mean == 0.25 and math.isnan(half_width)


def test_the_mean_of_no_values_raises():
    with pytest.raises(ValueError, match="no values to average"):
        mean_interval([])


def answers(draws, queries, share, seed):
    return np.random.default_rng(seed).random((draws, queries)) < share


def test_with_one_draw_the_interval_is_scipy_s_bootstrap_over_the_queries():
    first, second = answers(1, 400, 0.6, 0), answers(1, 400, 0.7, 1)
    found = paired_bootstrap(first, second, resamples=20_000)
    gained = (second[0].astype(float) - first[0],)
    expected = stats.bootstrap(gained, np.mean, method="percentile", n_resamples=20_000, rng=0).confidence_interval
    assert found.mean == pytest.approx(np.mean(gained), abs=1e-12)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.004)


def test_with_equal_queries_the_interval_is_scipy_s_bootstrap_over_the_draws():
    gained = np.array([0.0, 1.0, 1.0, 0.0, 1.0, -1.0, 1.0, 0.0])
    second = np.tile(gained[:, None], 50)
    found = paired_bootstrap(np.zeros_like(second), second, resamples=20_000)
    expected = stats.bootstrap((gained,), np.mean, method="percentile", n_resamples=20_000, rng=0).confidence_interval
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.03)


def test_equal_pairs_have_an_interval_of_zero_and_excluded_queries_do_not_count():
    first = answers(3, 60, 0.5, 2)
    assert paired_bootstrap(first, first) == (0.0, 0.0, 0.0)
    second, weights = first.copy(), np.ones((3, 60))
    second[:, 40:] = ~second[:, 40:]
    weights[:, 40:] = 0
    assert paired_bootstrap(first, second, weights=weights) == (0.0, 0.0, 0.0)


def test_weights_give_the_mean_over_classes():
    labels = np.repeat([0, 1], [30, 10])
    first, second = answers(4, 40, 0.5, 3), answers(4, 40, 0.8, 4)
    found = paired_bootstrap(first, second, weights=np.tile(1 / np.bincount(labels)[labels], (4, 1)))
    by_class = [np.mean(second[:, labels == label]) - np.mean(first[:, labels == label]) for label in (0, 1)]
    assert found.mean == pytest.approx(np.mean(by_class), abs=1e-12)
    assert found.low < found.mean < found.high and found.significant == (found.low > 0)


def test_the_mean_over_datasets_has_student_s_interval():
    gains = [0.01, 0.03, -0.02, 0.05]
    found = mean_difference(gains)
    low, high = stats.t.interval(0.95, 3, loc=np.mean(gains), scale=stats.sem(gains))
    assert found == pytest.approx((np.mean(gains), low, high))
    assert math.isnan(mean_difference([0.1]).low)


@pytest.mark.parametrize(
    ("wanted", "shots"), [(0.5, 2.0), (0.6, 4.0), (0.55, 2**1.5), (0.4, 1.0), (0.39, math.nan), (0.61, math.nan)]
)
def test_shots_needed_interpolates_linearly_in_log_shots(wanted, shots):
    assert shots_needed({1: 0.4, 2: 0.5, 4: 0.6}, wanted) == pytest.approx(shots, nan_ok=True)
