"""Confidence intervals and differences."""

import math

import numpy as np
import pytest
from scipy import stats

from adapt.evaluation.scoring import query_error
from adapt.report.statistics import (
    accuracy_interval,
    mean_difference,
    mean_interval,
    paired_bootstrap,
    shots_needed,
)


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


def test_an_accuracy_has_the_variance_of_the_draws_and_the_error_of_the_queries():
    values, errors = [0.5, 0.6, 0.55, 0.47, 0.58], [0.05, 0.04, 0.05, 0.05, 0.04]
    found = accuracy_interval(values, errors, queries=100)
    draws, queries = np.var(values, ddof=1) / 5, np.mean(np.square(errors))
    freedom = (draws + queries) ** 2 / (draws**2 / 4 + queries**2 / 99)
    expected = stats.t.interval(0.95, freedom, loc=np.mean(values), scale=np.sqrt(draws + queries))
    assert (found.low, found.high) == pytest.approx(expected) and not found.is_range
    student = accuracy_interval(values, [0.0] * 5, queries=100)
    assert student.high - student.mean == pytest.approx(mean_interval(values).half_width)
    equal = accuracy_interval([0.174] * 5, [0.02] * 5, queries=400)  # all draws agree; the queries are few nevertheless
    assert equal.high - equal.mean == pytest.approx(0.02 * stats.t.ppf(0.975, 399))


@pytest.mark.parametrize("values", [[0.174, 0.174], [0.05, 0.176], [0.1, 0.3, 0.2]])
def test_two_or_three_draws_have_their_range(values):
    found = accuracy_interval(values, [0.02] * len(values), queries=400)
    assert (found.low, found.high, found.is_range) == (min(values), max(values), True)
    assert found.near <= found.mean - 1.95 * 0.02


def test_a_single_draw_has_no_ends_unless_nothing_is_drawn():
    assert math.isnan(accuracy_interval([0.5], [0.02], queries=600).low)
    found = accuracy_interval([0.5], [0.02], queries=600, drawn=False)
    assert (found.low, found.high) == pytest.approx((0.5 - 1.96 * 0.02, 0.5 + 1.96 * 0.02), abs=1e-6)


@pytest.mark.parametrize("draws", [4, 10])
@pytest.mark.parametrize("spread", [0.0, 0.5, 2.0])
def test_intervals_cover_the_accuracy_on_all_queries_and_draws(draws, spread):
    rng, covered, trials, asked = np.random.default_rng(draws), 0, 300, 60
    hard = rng.normal(0.4, 1.5, 5_000)  # the logit of the share of draws that classify a query rightly
    shifts = rng.normal(0, spread, 1_000)  # of the logit, by draw
    truth = np.mean(1 / (1 + np.exp(-hard[:, None] - shifts)))
    for _ in range(trials):
        logits = rng.choice(hard, asked) + rng.choice(shifts, draws)[:, None]
        right = rng.random((draws, asked)) < 1 / (1 + np.exp(-logits))
        counts = np.array([asked])
        errors = [query_error(right=np.array([each.sum()]), asked=counts, by_class=False) for each in right]
        found = accuracy_interval(right.mean(axis=1).tolist(), errors, queries=asked)
        covered += found.low <= truth <= found.high
    assert covered / trials > 0.92


def test_the_query_error_is_binomial_and_never_zero():
    right, asked = np.array([30, 0, 12]), np.array([40, 0, 60])
    share = 44 / 104
    assert query_error(right=right, asked=asked, by_class=False) == pytest.approx(np.sqrt(share * (1 - share) / 104))
    shares = np.array([32 / 44, 14 / 64])
    by_class = np.sqrt(np.sum(shares * (1 - shares) / [44, 64])) / 2
    assert query_error(right=right, asked=asked, by_class=True) == pytest.approx(by_class)
    assert query_error(right=asked, asked=asked, by_class=False) > 0.01


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
