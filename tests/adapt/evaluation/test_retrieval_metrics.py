"""Retrieval recall against a loop; ties and NaN count against the match."""

import numpy as np
import pytest

from adapt.evaluation.retrieval_metrics import retrieval_recall
from tests.adapt.adapters.references import unit


def embeddings(count, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(count, 5))
    return images.astype(np.float32), (images + rng.normal(size=(count, 5))).astype(np.float32)


def naive(queries, others, k):
    """Return the fraction of queries whose match is among the k most similar others."""
    found = 0
    for i, query in enumerate(unit(queries)):
        cosines = [float(query @ other) for other in unit(others)]
        found += sum(c >= cosines[i] for j, c in enumerate(cosines) if j != i) < k
    return found / len(queries)


@pytest.mark.parametrize("count", [1, 7, 40])
def test_recall_equals_a_loop_in_both_directions(count):
    images, texts = embeddings(count)
    found = retrieval_recall(3 * images, texts, at=(1, 5, 10))
    assert found.text_to_image == {k: naive(texts, images, k) for k in (1, 5, 10)}
    assert found.image_to_text == {k: naive(images, texts, k) for k in (1, 5, 10)}
    assert count < 40 or found.text_to_image != found.image_to_text


def test_texts_equal_to_their_images_have_recall_one():
    images, _ = embeddings(12)
    found = retrieval_recall(images, 2 * images)
    assert found.text_to_image == found.image_to_text == {1: 1.0, 5: 1.0, 10: 1.0}
    np.testing.assert_array_equal(found.nearest_images[:, 0], np.arange(12))


def test_texts_of_other_images_have_recall_zero():
    images, _ = embeddings(12)
    assert retrieval_recall(images, np.roll(images, 1, 0)).text_to_image[1] == 0


@pytest.mark.parametrize("embedding", [np.ones(4), np.zeros(4), np.full(4, np.nan)])
def test_equal_embeddings_find_nothing(embedding):
    same = np.tile(embedding.astype(np.float32), (8, 1))
    found = retrieval_recall(same, same)
    assert found.text_to_image == found.image_to_text == {1: 0.0, 5: 0.0, 10: 1.0}


def test_a_duplicate_of_the_right_image_counts_against_it():
    images = np.eye(4, dtype=np.float32)[[0, 1, 2, 2]]
    found = retrieval_recall(images, images, at=(1, 2))
    assert found.text_to_image == found.image_to_text == {1: 0.5, 2: 1.0}


def test_nearest_images_are_sorted():
    images, texts = embeddings(15)
    cosines = unit(texts) @ unit(images).T
    np.testing.assert_array_equal(
        retrieval_recall(images, texts, at=(1, 6)).nearest_images, np.argsort(-cosines)[:, :6]
    )
