"""Similarities that are kept up to date label by label equal those of a fresh computation."""

import numpy as np
import pytest

from adapt.adapters.ops import normalize_numpy
from adapt.labelling.classifier.similarities import BETAS, COSINE, KERNELS, LabelledSimilarities

NAMES = ("a", "b", "c")
DIM = 16


def features_of(count, *, copies=0, seed=0):
    """Return features `[count, DIM]` near three centers; the last `copies` are copies of the first."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(3, DIM))[rng.integers(3, size=count)] + 0.7 * rng.normal(size=(count, DIM))
    features[count - copies :] = features[:copies]
    return normalize_numpy(features.astype(np.float32))


def expected(features, classes):
    """Return the sums `[kernels, pictures, names]` and the nearest `[2, pictures]` in float64, from nothing."""
    x = features.astype(np.float64)
    rows = np.array(list(classes), np.int64)
    cosines = x @ x[rows].T
    own = np.arange(len(x))[:, None] == rows
    sums = np.zeros((KERNELS, len(x), len(NAMES)))
    for kernel in range(KERNELS):
        values = cosines if kernel == COSINE else np.exp(BETAS[kernel - 1] * (cosines - 1))
        values = np.where(own, 0, values)
        for place, name in enumerate(NAMES):
            members = [other == name for other in classes.values()]
            sums[kernel, :, place] = values[:, members].sum(axis=1)
    others = np.where(own | (cosines > 1 - 1e-5), -np.inf, cosines)
    return sums, np.stack([cosines.max(axis=1, initial=-np.inf), others.max(axis=1, initial=-np.inf)])


def check(found, features, classes):
    sums, nearest = expected(features[: found.count], classes)
    pictures = slice(0, found.count)
    for kernel in range(KERNELS):  # relative, as the smallest sums decide which class is next
        own = found.sums.of(NAMES, kernel, pictures)
        np.testing.assert_allclose(own, sums[kernel], rtol=2e-4, atol=1e-5 if kernel == COSINE else 1e-30)
    np.testing.assert_allclose(found.nearest.cosines[pictures], nearest[0], atol=1e-6)
    np.testing.assert_allclose(found.nearest.others[pictures], nearest[1], atol=1e-6)


@pytest.mark.parametrize("copies", [0, 40])
def test_any_sequence_of_changes_equals_a_fresh_computation(copies):
    features = features_of(200, copies=copies)
    found, rng, classes = LabelledSimilarities(features), np.random.default_rng(1), {}
    found.add(150)
    for step in range(60):
        action = rng.integers(6)
        if action == 5 and found.count < 200:
            found.add(10)
        elif action == 0 and classes:  # remove some labels
            for row in rng.choice(list(classes), min(len(classes), int(rng.integers(1, 8))), replace=False).tolist():
                del classes[row]
        else:  # label some pictures, also labelled ones
            for row in rng.integers(found.count, size=int(rng.integers(1, 6))).tolist():
                classes.pop(row, None)
                classes[row] = NAMES[int(rng.integers(3))]
        found.update(classes)
        if step % 5 == 4:
            check(found, features, classes)
    assert found.count == 200


def test_removing_the_nearest_labels_leaves_the_small_sums_of_far_ones():
    features = features_of(60)
    found = LabelledSimilarities(features)
    found.add(60)
    rest = {0: "a", 1: "a", 2: "a", 3: "b"}
    found.update(rest | dict.fromkeys(range(4, 6), "a"))
    found.update(rest)
    check(found, features, rest)


def test_a_renamed_class_keeps_its_sums():
    features = features_of(60)
    found = LabelledSimilarities(features)
    found.add(60)
    found.update({0: "x", 1: "b", 2: "x"})
    found.rename_class("x", "a")
    found.update({0: "a", 1: "b", 2: "a", 3: "c"})
    check(found, features, {0: "a", 1: "b", 2: "a", 3: "c"})
