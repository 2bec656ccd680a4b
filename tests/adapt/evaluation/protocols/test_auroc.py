"""The area under the ROC curve against pairs counted one by one, with ties."""

import math

import numpy as np
import pytest

from adapt.evaluation.protocols.auroc import auroc


def count_pairs(positive, negative):
    above = sum(p > n for p in positive for n in negative)
    equal = sum(p == n for p in positive for n in negative)
    return (above + equal / 2) / (len(positive) * len(negative))


@pytest.mark.parametrize("levels", [2, 7, 10**6])
def test_it_is_the_share_of_pairs_in_the_right_order_and_a_tie_counts_half(levels):
    rng = np.random.default_rng(levels)
    positive, negative = rng.integers(0, levels, 83) * 1.2, rng.integers(0, levels, 41) * 1.0
    assert auroc(positive, negative).value == pytest.approx(count_pairs(positive, negative), abs=1e-14)
    assert auroc(negative, positive).value == pytest.approx(1 - auroc(positive, negative).value, abs=1e-14)


def test_extremes_and_float32_neighbours():
    assert auroc([2, 3], [0, 1]).value == 1 and auroc([0, 1], [2, 3]).value == 0 and auroc([1, 1], [1, 1]).value == 0.5
    close = np.nextafter(np.float32(30), np.float32(31))
    assert auroc(np.full(3, close), np.full(2, np.float32(30))).value == 1
    assert auroc([-math.inf, 5], [-math.inf]).value == 0.75 and math.isnan(auroc([1], [0]).standard_error)


def test_the_standard_error_is_the_deviation_over_samples():
    rng = np.random.default_rng(0)
    found = [auroc(rng.normal(1, 1, 60), rng.normal(0, 1, 40)) for _ in range(400)]
    values, errors = np.array(found).T
    assert np.mean(errors) == pytest.approx(values.std(), rel=0.1)


def test_missing_scores_and_nan_are_refused():
    with pytest.raises(ValueError, match="scores of both kinds, and there are 0 and 2"):
        auroc([], [1, 2])
    with pytest.raises(ValueError, match="a score is NaN"):
        auroc([1, math.nan], [1, 2])
