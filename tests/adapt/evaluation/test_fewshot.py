"""Support sets that share a compiled program are classified as each is alone, by the float64 references."""

import functools

import numpy as np
import pytest

import adapt
import adapt.evaluation.fewshot
from adapt.adapters.ops import normalize
from adapt.adapters.registry import TRANSDUCTIVE
from adapt.adapters.support import make_support
from adapt.adapters.transductive.queries import Queries
from adapt.evaluation.fewshot import run_grid
from adapt.model_selection.hyperparameters import Grid
from tests.adapt.adapters import references

FEATURES, LABELS, TEXTS, QUERIES = references.example()
# No two support images are equal: rounding would decide which one is nearer.
FEATURES = FEATURES + np.random.default_rng(0).normal(0, 0.1, FEATURES.shape)
MASKS = np.array([[True] * 6, [True, True, True, False, False, False], [False, False, False, True, True, True]])
FEW = [0, 1, 5, 6, 9, 12, 13, 17, 22]  # rows of a smaller support set


def many(count):
    """Return `count` queries and the group of each."""
    rng = np.random.default_rng(count)
    return QUERIES[rng.integers(len(QUERIES), size=count)] + rng.normal(size=(count, 7)), rng.integers(3, size=count)


QUERIED, GROUPS = many(255)


def run(method, supports, queries=QUERIED, groups=GROUPS):
    """Classify with support sets, each a list of rows of FEATURES or a pair of features and labels."""
    found = [(FEATURES[s], LABELS[s]) if isinstance(s, list) else s for s in supports]
    features, labels = zip(*found, strict=True)
    return run_grid(
        method,
        features,
        labels,
        class_texts=TEXTS,
        queries=queries,
        groups=groups,
        candidates=MASKS,
        logit_scale=100.0,
    )


@functools.cache
def both(method):
    return run(method, [list(range(len(LABELS))), FEW])


def expected(method, chosen, features, labels, queries=QUERIED, groups=GROUPS):
    settings = Grid(method).settings[chosen]
    logits = references.logits(method, settings, features, labels, TEXTS, queries)
    return np.argmax(np.where(MASKS[groups], logits, -np.inf), axis=1)


@pytest.mark.slow
@pytest.mark.parametrize("method", adapt.TRAINING_FREE)
def test_predictions_are_those_of_the_reference_among_the_candidate_classes(method):
    outcome = both(method)
    assert outcome.predictions.shape == (2, 255)
    for number, rows in enumerate((slice(None), FEW)):
        reference = expected(method, outcome.chosen[number], FEATURES[rows], LABELS[rows])
        np.testing.assert_array_equal(outcome.predictions[number], reference)
    assert (outcome.predictions[:, GROUPS == 1] < 3).all() and (outcome.predictions[:, GROUPS == 2] >= 3).all()


@pytest.mark.parametrize("method", ["tip_adapter", "gda"])
def test_support_sets_of_different_sizes_are_independent_and_padding_changes_nothing(method, monkeypatch):
    monkeypatch.setattr(adapt.evaluation.fewshot, "_ROWS", 1)  # a program per size, without padding
    monkeypatch.setattr(adapt.evaluation.fewshot, "_ENTRIES", 0)
    for number, rows in enumerate((list(range(len(LABELS))), FEW)):
        alone = run(method, [rows])
        assert alone.chosen == both(method).chosen[number]
        np.testing.assert_array_equal(alone.predictions[0], both(method).predictions[number])


def test_programs_are_shared_where_compiling_takes_longer_than_the_padding():
    sizes = [100, 200, 400, 800, 1600] * 10
    buckets = adapt.evaluation.fewshot._buckets
    assert sorted(buckets(sizes, entries=2**25).values()) == [800, 1600]
    assert sorted(buckets(sizes * 9, entries=2**25).values()) == [400, 800, 1600]
    assert sorted(buckets(sizes, entries=0).values()) == [400, 800, 1600]
    assert sorted(number for members in buckets(sizes, entries=2**25) for number in members) == list(range(50))


@pytest.mark.parametrize("method", ["prototypes", "gda"])
def test_a_support_set_too_large_to_share_a_program_gets_its_own(method, monkeypatch):
    monkeypatch.setattr(adapt.evaluation.fewshot, "_ENTRIES", 0)
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
def test_each_query_is_classified_independently_of_their_number(method, count):
    queries, groups = many(count)
    outcome = run(method, [list(range(len(LABELS))), FEW], queries, groups)
    np.testing.assert_array_equal(outcome.chosen, both(method).chosen)
    for number, rows in enumerate((slice(None), FEW)):
        reference = expected(method, outcome.chosen[number], FEATURES[rows], LABELS[rows], queries, groups)
        np.testing.assert_array_equal(outcome.predictions[number], reference)


@pytest.mark.parametrize("method", TRANSDUCTIVE)
def test_a_transductive_method_sees_the_counted_queries_of_one_group_alone(method):
    counted = [np.arange(255) % 3 > 0, np.arange(255) % 5 > 0]
    both_sets = [(FEATURES, LABELS), (FEATURES[FEW], LABELS[FEW])]
    arguments = {"class_texts": TEXTS, "candidates": MASKS, "logit_scale": 100.0}
    outcome = run_grid(
        method, *zip(*both_sets, strict=True), queries=QUERIED, groups=GROUPS, counted=counted, **arguments
    )
    for number, (features, labels) in enumerate(both_sets):
        for group, mask in enumerate(MASKS):
            rows = np.flatnonzero((group == GROUPS) & counted[number])
            adapter = adapt.create(method, **Grid(method).settings[outcome.chosen[number]])
            support = make_support(features, labels, class_text_features=TEXTS)
            queries = Queries(normalize(QUERIED[rows]), np.ones(len(rows), bool), mask)
            expected = np.argmax(adapter.query_logits(support, queries), axis=1)
            np.testing.assert_array_equal(outcome.predictions[number, rows], expected)
            assert mask[outcome.predictions[number, group == GROUPS]].all()


def test_without_support_the_class_texts_decide():
    outcome = run("zero_shot", [[]])
    np.testing.assert_array_equal(outcome.predictions[0], expected("zero_shot", 0, FEATURES, LABELS))
