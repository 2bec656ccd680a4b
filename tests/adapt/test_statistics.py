"""Confidence intervals."""

import math

import numpy as np
import pytest
from scipy import stats

from adapt.statistics import mean_interval


@pytest.mark.parametrize("count", [2, 3, 5, 50])
def test_the_interval_is_that_of_scipy(count):
    values = np.random.default_rng(count).uniform(size=count).tolist()
    mean, half_width = mean_interval(values)
    theirs = stats.t.interval(0.95, count - 1, loc=np.mean(values), scale=stats.sem(values))
    np.testing.assert_allclose((mean - half_width, mean + half_width), theirs, rtol=1e-12)


def test_equal_values_are_certain():
    assert mean_interval([0.1] * 3) == (pytest.approx(0.1), pytest.approx(0.0, abs=1e-15))


def test_one_value_has_a_mean_and_no_width():
    mean, half_width = mean_interval([0.25])
    assert mean == 0.25 and math.isnan(half_width)


def test_no_values_are_refused():
    with pytest.raises(ValueError, match="no values to average"):
        mean_interval([])
