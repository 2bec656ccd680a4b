"""The simulated person and the numbers of the benchmark of labelling."""

import numpy as np
import pytest

from adapt.adapters.ops import normalize_numpy
from benchmarks.labelling import clicks, sets
from benchmarks.labelling.simulation import ORDERS, Labelling, NearestMeans, simulate
from tests.benchmarks.labelled_sets import labelled_set


def test_class_means_and_left_out_predictions_equal_those_fitted_from_scratch():
    found = labelled_set()
    rows = np.arange(0, 100, 7)
    means = NearestMeans(found.pictures, 5)
    for row in rows:
        means.add(row, found.labels[row])

    def predict(queries, labelled):
        known = np.unique(found.labels[labelled])
        own = [found.pictures[labelled[found.labels[labelled] == label]].mean(axis=0) for label in known]
        return known[(queries @ normalize_numpy(np.stack(own)).T).argmax(axis=1)]

    assert np.array_equal(means.predict(slice(None)), predict(found.pictures, rows))
    expected = [predict(found.pictures[[row]], rows[rows != row])[0] == found.labels[row] for row in rows]
    assert np.array_equal(means.left_out(rows, found.labels[rows]), expected)
    alone = NearestMeans(found.pictures, 5)
    alone.add(3, 2)
    assert not alone.left_out(np.array([3]), np.array([2]))[0]


@pytest.mark.parametrize("order", ORDERS)
def test_an_order_labels_each_picture_once_and_repeats_itself(order):
    found = labelled_set()
    first, second = (simulate(found, order, run=1, clicks=500, estimate_at=(10,)) for _ in range(2))
    assert np.array_equal(first.accuracy, second.accuracy) and len(first.accuracy) == 80
    assert first.classes[-1] == 4 and (np.diff(first.classes) >= 0).all()
    assert first.accuracy[-1] == pytest.approx(simulate(found, "random", run=1, clicks=80).accuracy[-1])
    assert {each.clicks for each in first.estimates} == {10}


def test_the_ratio_of_known_curves():
    slow = [Labelling(np.arange(1, 101) / 100, np.ones(100), [])] * 3
    fast = [Labelling(np.minimum(np.arange(1, 101) / 50, 1.0), np.ones(100), [])] * 3
    never = [Labelling(np.full(100, 0.1), np.ones(100), [])] * 3
    assert clicks.ratio(slow, fast, 40) == (0.5, 0.5, 0.5, False)
    assert clicks.ratio(slow, slow, 40)[0] == 1
    assert str(clicks.ratio(slow, never, 40)).startswith("≥ 2.50")


def test_uneven_sets_keep_all_classes_and_all_queries():
    found = labelled_set()
    uneven = sets._make_uneven(found)
    counts = np.bincount(uneven.labels)
    assert sorted(counts)[0] == 2 and counts.max() == 25 and len(uneven.queries) == 40


def test_sets_are_named_when_unknown():
    with pytest.raises(ValueError, match=r"unknown set 'gtsbr'. Did you mean 'gtsrb'\?"):
        sets.open_set("gtsbr:uneven", data=None)
