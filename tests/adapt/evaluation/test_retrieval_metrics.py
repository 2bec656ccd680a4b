"""Retrieval recall against a loop; ties and NaN count against the match."""

import numpy as np
import pytest

from adapt.evaluation.retrieval_metrics import recall_error, retrieval_recall
from adapt.evaluation.scoring import query_error
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


def values(recall_at):
    return {k: recall.value for k, recall in recall_at.items()}


@pytest.mark.parametrize("count", [1, 7, 40])
def test_recall_equals_a_loop_in_both_directions(count):
    images, texts = embeddings(count)
    found = retrieval_recall(3 * images, texts, at=(1, 5, 10))
    assert values(found.text_to_image) == {k: naive(texts, images, k) for k in (1, 5, 10)}
    assert values(found.image_to_text) == {k: naive(images, texts, k) for k in (1, 5, 10)}
    assert count < 40 or found.text_to_image != found.image_to_text


def test_texts_equal_to_their_images_have_recall_one():
    images, _ = embeddings(12)
    found = retrieval_recall(images, 2 * images)
    assert values(found.text_to_image) == values(found.image_to_text) == {1: 1.0, 5: 1.0, 10: 1.0}
    np.testing.assert_array_equal(found.nearest_images[:, 0], np.arange(12))


def test_texts_of_other_images_have_recall_zero():
    images, _ = embeddings(12)
    assert retrieval_recall(images, np.roll(images, 1, 0)).text_to_image[1].value == 0


@pytest.mark.parametrize("embedding", [np.ones(4), np.zeros(4), np.full(4, np.nan)])
def test_equal_embeddings_find_nothing(embedding):
    same = np.tile(embedding.astype(np.float32), (8, 1))
    found = retrieval_recall(same, same)
    assert values(found.text_to_image) == values(found.image_to_text) == {1: 0.0, 5: 0.0, 10: 1.0}


def test_a_duplicate_of_the_right_image_counts_against_it():
    images = np.eye(4, dtype=np.float32)[[0, 1, 2, 2]]
    found = retrieval_recall(images, images, at=(1, 2))
    assert values(found.text_to_image) == values(found.image_to_text) == {1: 0.5, 2: 1.0}


def test_nearest_images_are_sorted():
    images, texts = embeddings(15)
    cosines = unit(texts) @ unit(images).T
    np.testing.assert_array_equal(
        retrieval_recall(images, texts, at=(1, 6)).nearest_images, np.argsort(-cosines)[:, :6]
    )


def binomial(found):
    return query_error(right=np.array([sum(found)]), asked=np.array([len(found)]), by_class=False)


def test_each_recall_has_the_error_of_its_queries():
    images, texts = embeddings(40)
    found = retrieval_recall(images, texts, at=(1, 5, 40))
    for recall_at in (found.text_to_image, found.image_to_text):
        for k, recall in recall_at.items():
            hits = np.arange(40) < round(40 * recall.value)
            assert recall.query_error == pytest.approx(max(binomial(hits), hits.std() / np.sqrt(40)))
            assert recall.query_error > 0 and (k < 40 or recall.value == 1)


def test_the_error_of_recall_covers_draws_of_images_with_correlated_texts():
    """Five texts of an image are mostly found together: counted as independent queries, the error is too small."""
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(60), 5)
    means, errors, naive_errors = [], [], []
    for _ in range(400):
        of_image = rng.random(60) < 0.4
        found = np.where(rng.random(300) < 0.1, rng.random(300) < 0.4, np.repeat(of_image, 5))
        means.append(found.mean())
        errors.append(recall_error(found, clusters))
        naive_errors.append(binomial(found))
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.1)
    assert np.mean(naive_errors) < 0.6 * np.std(means)


def test_the_error_does_not_depend_on_the_order_of_queries_or_the_numbers_of_images():
    rng = np.random.default_rng(1)
    found, clusters = rng.random(50) < 0.3, rng.integers(0, 12, 50)
    order = rng.permutation(50)
    assert recall_error(found[order], clusters[order]) == pytest.approx(recall_error(found, clusters))
    assert recall_error(found, 90 - 3 * clusters) == pytest.approx(recall_error(found, clusters))
