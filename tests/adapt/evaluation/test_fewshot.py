"""Many cases in one compiled program give what each gives alone, by the float64 references."""

import functools

import numpy as np
import pytest

import adapt
import adapt.evaluation.fewshot
from adapt.evaluation.fewshot import run_grid
from adapt.model_selection.hyperparameters import Grid
from tests.adapt.adapters import references

FEATURES, LABELS, TEXTS, QUERIES = references.example()
# No two examples are alike: rounding would decide which of them is nearer.
FEATURES = FEATURES + np.random.default_rng(0).normal(0, 0.1, FEATURES.shape)
MASKS = np.array([[True] * 6, [True, True, True, False, False, False], [False, False, False, True, True, True]])
FEW = [0, 1, 5, 6, 9, 12, 13, 17, 22]  # rows of a smaller support


def many(count):
    """Returns so many queries and the group of each."""
    rng = np.random.default_rng(count)
    return QUERIES[rng.integers(len(QUERIES), size=count)] + rng.normal(size=(count, 7)), rng.integers(3, size=count)


QUERIED, GROUPS = many(255)


def run(method, supports, queries=QUERIED, groups=GROUPS):
    """Classifies by the supports, each a list of rows of the example or features with their labels."""
    found = [(FEATURES[s], LABELS[s]) if isinstance(s, list) else s for s in supports]
    features, labels = zip(*found, strict=True)
    return run_grid(method, features, labels, TEXTS, queries, groups, MASKS, logit_scale=100.0)


@functools.cache
def both(method):
    return run(method, [list(range(len(LABELS))), FEW])


def expected(method, chosen, features, labels, queries=QUERIED, groups=GROUPS):
    settings = Grid(method).settings[chosen]
    logits = references.logits(method, settings, features, labels, TEXTS, queries)
    return np.argmax(np.where(MASKS[groups], logits, -np.inf), axis=1)


@pytest.mark.parametrize("method", adapt.TRAINING_FREE)
def test_predictions_are_those_of_the_reference_among_the_classes_of_the_question(method):
    outcome = both(method)
    assert outcome.predictions.shape == (2, 255)
    for number, rows in enumerate((slice(None), FEW)):
        reference = expected(method, outcome.chosen[number], FEATURES[rows], LABELS[rows])
        np.testing.assert_array_equal(outcome.predictions[number], reference)
    assert (outcome.predictions[:, GROUPS == 1] < 3).all() and (outcome.predictions[:, GROUPS == 2] >= 3).all()


@pytest.mark.parametrize("method", ["tip_adapter", "gda"])
def test_supports_of_different_size_do_not_touch_one_another_and_need_no_padding(method, monkeypatch):
    monkeypatch.setattr(adapt.evaluation.fewshot, "_ROWS", 1)  # each size by itself, no row is added
    for number, rows in enumerate((list(range(len(LABELS))), FEW)):
        alone = run(method, [rows])
        assert alone.chosen == both(method).chosen[number]
        np.testing.assert_array_equal(alone.predictions[0], both(method).predictions[number])


@pytest.mark.parametrize("method", ["prototypes", "gda"])
def test_a_support_that_is_too_large_to_share_a_program_is_classified_by_as_well(method):
    rng = np.random.default_rng(1)
    labels = rng.integers(6, size=257)
    large = TEXTS[labels] + 2 * rng.normal(size=(257, 7)), labels
    least = large[0][:256], labels[:256]
    outcome = run(method, [FEW, large, least])
    for number, (features, of) in enumerate([(FEATURES[FEW], LABELS[FEW]), large, least]):
        reference = expected(method, outcome.chosen[number], features, of)
        np.testing.assert_array_equal(outcome.predictions[number], reference)


@pytest.mark.parametrize("count", [1, 257])
@pytest.mark.parametrize("method", ["prototypes", "tip_adapter"])
def test_however_many_queries_there_are_each_is_classified_by_itself(method, count):
    queries, groups = many(count)
    outcome = run(method, [list(range(len(LABELS))), FEW], queries, groups)
    np.testing.assert_array_equal(outcome.chosen, both(method).chosen)
    for number, rows in enumerate((slice(None), FEW)):
        reference = expected(method, outcome.chosen[number], FEATURES[rows], LABELS[rows], queries, groups)
        np.testing.assert_array_equal(outcome.predictions[number], reference)


def test_without_examples_the_texts_decide():
    outcome = run("zero_shot", [[]])
    np.testing.assert_array_equal(outcome.predictions[0], expected("zero_shot", 0, FEATURES, LABELS))
