"""Random supports and their queries."""

import numpy as np
import pytest

from adapt.support import draw_support

LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(4), [17, 20, 40, 31]))


def test_every_class_gives_as_many_examples_as_there_are_shots():
    for shots in (1, 2, 16):
        labels = LABELS[draw_support(LABELS, max_shots=16, seed=0).at(shots)]
        np.testing.assert_array_equal(labels, np.repeat(np.arange(4), shots))


def test_supports_of_one_draw_are_nested_and_none_holds_a_query():
    draw = draw_support(LABELS, max_shots=16, seed=0)
    for fewer, more in ((1, 2), (2, 4), (4, 8), (8, 16)):
        assert set(draw.at(fewer)) < set(draw.at(more))
    assert not set(draw.at(16)) & set(draw.query)


def test_support_and_queries_are_everything_once():
    draw = draw_support(LABELS, max_shots=16, seed=3)
    np.testing.assert_array_equal(np.sort(np.concatenate([draw.at(16), draw.query])), np.arange(len(LABELS)))
    assert set(LABELS[draw.query]) == set(range(4))


def test_the_seed_alone_decides():
    first, again, other = (draw_support(LABELS, max_shots=5, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(first.support, again.support) and np.array_equal(first.query, again.query)
    assert not np.array_equal(np.sort(first.support), np.sort(other.support))


def test_every_example_is_drawn_equally_often():
    counts = np.zeros(len(LABELS))
    for seed in range(400):
        np.add.at(counts, draw_support(LABELS, max_shots=10, seed=seed).at(10), 1)
    expected = 400 * 10 / np.bincount(LABELS)[LABELS]
    assert np.abs(counts - expected).max() < 5 * np.sqrt(100)


def test_a_class_without_a_query_left_is_refused():
    with pytest.raises(ValueError, match="class 0 has 17 examples, too few for 17 shots and a query"):
        draw_support(LABELS, max_shots=17, seed=0)
    with pytest.raises(ValueError, match="class 1 has 0 examples"):
        draw_support(np.array([0, 0, 2, 2]), max_shots=1, seed=0)
