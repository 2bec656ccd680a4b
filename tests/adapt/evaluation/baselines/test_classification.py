"""Class means and nearest neighbour against loops in float64."""

import numpy as np
import pytest

from adapt.evaluation.baselines import classification


def example(*, dim, shots, classes, seed=0):
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(classes, dim))
    labels = rng.permutation(np.repeat(np.arange(classes) * 3 + 1, shots))  # labels need not be 0, 1, 2 …
    support = (centers[(labels - 1) // 3] + rng.normal(size=(len(labels), dim)) + 5).astype(np.float32)
    queries = (centers[rng.integers(classes, size=57)] + rng.normal(size=(57, dim)) + 5).astype(np.float32)
    return support, labels, queries


def unit(row):
    return row / np.linalg.norm(row)


@pytest.mark.parametrize(("dim", "shots", "classes"), [(7, 1, 5), (13, 4, 3), (48, 3, 11)])
def test_both_equal_loops(dim, shots, classes, monkeypatch):
    monkeypatch.setattr(classification, "_BLOCK_ROWS", 10)
    support, labels, queries = example(dim=dim, shots=shots, classes=classes)
    mean = np.mean([row.astype(np.float64) for row in support], axis=0)
    keys = [unit(row - mean) for row in support]
    means = {
        label: unit(sum(key for key, own in zip(keys, labels, strict=True) if own == label)) for label in set(labels)
    }
    expected_means, expected_nearest = [], []
    for query in queries:
        query = unit(query - mean)
        expected_means.append(max(sorted(means), key=lambda label: query @ means[label]))
        expected_nearest.append(labels[int(np.argmax([query @ key for key in keys]))])
    np.testing.assert_array_equal(classification.nearest_mean(support, labels, queries), expected_means)
    np.testing.assert_array_equal(classification.nearest_neighbour(support, labels, queries), expected_nearest)


def test_a_support_of_equal_rows_gives_the_first_class_instead_of_nan():
    support, labels, queries = np.ones((4, 3), np.float32), np.array([2, 2, 5, 5]), np.zeros((3, 3), np.float32)
    for classify in classification.CLASSIFIERS.values():
        np.testing.assert_array_equal(classify(support, labels, queries), [2, 2, 2])
