"""Calibration against a fine grid in float64, and the detection of queries far from the support set."""

import numpy as np
import pytest

from adapt.model_selection.calibration import SUPPORT_CONFIDENCE, fit_on_left_out, fit_on_support, probabilities
from adapt.photos.outliers import FAR_PERCENTILE, far_threshold, find_nearest

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, 40)
LOGITS = RNG.normal(size=(40, 3)) + 1.5 * np.eye(3)[LABELS]


def loss(factor, logits, labels):
    """Return the mean cross-entropy with Platt's targets, term by term."""
    total, (count, classes) = 0.0, logits.shape
    for row, label in zip(np.asarray(logits, np.float64), labels, strict=True):
        p = np.exp(factor * row - np.logaddexp.reduce(factor * row))
        for c in range(classes):
            target = ((c == label) * count + 2 / classes) / (count + 2)
            total -= target * np.log(p[c])
    return total / count


@pytest.mark.parametrize("scale", [1e-3, 1.0, 250.0])
def test_factor_has_the_smallest_loss_of_a_fine_grid(scale):
    logits = scale * LOGITS
    found = fit_on_left_out(logits, LABELS)
    grid = np.geomspace(0.1, 10, 401) / scale
    best = min(grid, key=lambda factor: loss(factor, logits, LABELS))
    assert found == pytest.approx(best, rel=0.012)
    assert loss(found, logits, LABELS) <= loss(best, logits, LABELS) + 1e-12


def test_probabilities_do_not_depend_on_scale_and_offset_of_the_logits():
    one = probabilities(LOGITS, fit_on_left_out(LOGITS, LABELS))
    other_logits = 300 * LOGITS - 1e4
    other = probabilities(other_logits, fit_on_left_out(other_logits, LABELS))
    np.testing.assert_allclose(one, other, atol=1e-6)
    np.testing.assert_allclose(one.sum(axis=1), 1)


def test_confidence_when_all_examples_are_correct_follows_from_two_pseudo_examples():
    logits = 10 * np.eye(3)[LABELS]
    found = probabilities(logits, fit_on_left_out(logits, LABELS))[np.arange(40), LABELS]
    assert found == pytest.approx((40 + 2 / 3) / 42, abs=1e-6)


def test_uninformative_logits_give_equal_probabilities():
    wrong = -LOGITS
    assert probabilities(wrong, fit_on_left_out(wrong, LABELS)) == pytest.approx(1 / 3, abs=1e-3)
    assert fit_on_left_out(np.ones((4, 3)), LABELS[:4]) == 1.0


def test_fit_on_support_gives_the_examples_a_mean_probability_of_nine_tenths():
    logits = 40 * (np.eye(4) + 0.3 * RNG.random((4, 4)))
    found = probabilities(logits, fit_on_support(logits, np.arange(4)))
    assert np.diagonal(found).mean() == pytest.approx(SUPPORT_CONFIDENCE, abs=1e-6)


def test_fit_on_support_ignores_the_plateau_of_large_factors():
    logits = np.array([[1.0, 0.0], [0.0, 1.0]] * 10 + [[0.0, 0.1]])  # 20 of 21 correct: at most 0.952 on average
    labels = np.array([0, 1] * 10 + [0])
    found = probabilities(logits, fit_on_support(logits, labels))[np.arange(21), labels]
    assert found.mean() == pytest.approx(SUPPORT_CONFIDENCE, abs=1e-6)


def test_fit_on_support_comes_as_near_as_possible_if_the_target_is_out_of_reach():
    logits, labels = np.array([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]), np.array([0, 1])  # at most 0.5 on average
    grid = np.geomspace(1e-3, 1e3, 2001)
    best = max(probabilities(logits, factor)[[0, 1], labels].mean() for factor in grid)
    found = probabilities(logits, fit_on_support(logits, labels))[[0, 1], labels].mean()
    assert found == pytest.approx(best, abs=1e-6)


def test_missing_logits_and_logits_that_are_not_finite_raise():
    for logits in (np.empty((0, 3)), np.full((2, 3), np.nan)):
        with pytest.raises(ValueError, match="cannot calibrate: the left-out logits are empty or not finite"):
            fit_on_left_out(logits, np.zeros(len(logits), int))


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_far_threshold_is_a_percentile_of_the_nearest_other_example():
    examples = unit(RNG.normal(size=(30, 5)))
    closest = [max(examples[i] @ examples[j] for j in range(30) if j != i) for i in range(30)]
    assert far_threshold(examples) == pytest.approx(np.percentile(closest, FAR_PERCENTILE), abs=1e-6)


def test_duplicate_examples_do_not_raise_the_far_threshold():
    examples = unit(RNG.normal(size=(8, 5)))
    closest = [max(examples[i] @ examples[j] for j in range(8) if j != i) for i in range(8)]
    twice = np.concatenate([examples, examples])
    assert far_threshold(twice) == pytest.approx(np.percentile(closest + closest, FAR_PERCENTILE), abs=1e-6)
    assert far_threshold(np.ones((4, 1))) == -1


def test_about_one_in_twenty_similar_queries_and_most_others_are_far():
    middles = unit(RNG.normal(size=(5, 32)))
    draw = lambda count: unit(middles[RNG.integers(0, 5, count)] + RNG.normal(0, 0.1, (count, 32)))  # noqa: E731
    examples = draw(400)
    _, cosines = find_nearest(draw(2000), examples)
    assert 0.03 < np.mean(cosines < far_threshold(examples)) < 0.07
    _, cosines = find_nearest(unit(RNG.normal(size=(100, 32))), examples)
    assert np.mean(cosines < far_threshold(examples)) > 0.95


def test_the_nearest_example_is_the_same_in_blocks(monkeypatch):
    monkeypatch.setattr("adapt.photos.outliers._ROWS", 4)
    features, examples = unit(RNG.normal(size=(11, 5))), unit(RNG.normal(size=(7, 5)))
    numbers, cosines = find_nearest(features, examples)
    expected = [max(range(7), key=lambda j, i=i: features[i] @ examples[j]) for i in range(11)]
    assert numbers.tolist() == expected
    np.testing.assert_allclose(cosines, (features * examples[expected]).sum(axis=1), atol=1e-6)
