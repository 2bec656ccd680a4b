"""The estimates of caption noise and companions on synthetic pairs whose truth is known."""

import numpy as np
import pytest

from pretrain.tools.caption_noise import count_companions, estimate_noise, p_values, standardize, unit

CONCEPTS, DIM = 60, 32


def pairs(count, *, wrong, visible=1.0, seed=0):
    """Return image features and centred text vectors; `wrong` of the captions are those of other images.

    `visible` is the share of concepts in the images; without it the features are noise.
    """
    rng = np.random.default_rng(seed)
    concept = rng.integers(CONCEPTS, size=count)
    images = visible * rng.normal(size=(CONCEPTS, DIM))[concept] + 0.4 * rng.normal(size=(count, DIM))
    texts = rng.normal(size=(CONCEPTS, DIM))[concept] + 0.3 * rng.normal(size=(count, DIM))
    swapped = np.flatnonzero(rng.random(count) < wrong)
    texts[swapped] = texts[rng.permutation(swapped)]
    return standardize(images), unit(texts - texts.mean(axis=0)).astype(np.float32), concept


@pytest.mark.parametrize("wrong", [0.0, 0.25, 0.5, 0.8])
def test_the_range_contains_the_share_of_swapped_captions(wrong):
    images, texts, _ = pairs(3000, wrong=wrong)
    found = estimate_noise(images, texts)
    assert found.identifiable
    assert found.low <= wrong <= found.high and found.high - found.low < 0.3


def test_the_share_is_unknown_where_images_have_no_companions():
    images, texts, _ = pairs(2000, wrong=0.0, visible=0.0)
    found = estimate_noise(images, texts)
    assert not found.identifiable and (found.low, found.high) == (0.0, 1.0)


def test_the_share_is_unknown_where_all_captions_are_wrong_or_equal():
    images, texts, _ = pairs(2000, wrong=1.0)
    assert not estimate_noise(images, texts).identifiable
    assert not estimate_noise(images, np.zeros_like(texts)).identifiable


def test_p_values_of_random_captions_are_uniform_also_with_ties():
    texts = np.eye(4, dtype=np.float32)[np.random.default_rng(0).integers(4, size=4000)]
    p = p_values(texts, texts[np.random.default_rng(1).permutation(4000)], texts, seed=0)
    assert np.abs(np.quantile(p, [0.1, 0.5, 0.9]) - [0.1, 0.5, 0.9]).max() < 0.03


def test_too_few_pairs_are_refused():
    with pytest.raises(ValueError, match="at least 512 pairs, but there are 100"):
        estimate_noise(*pairs(100, wrong=0)[:2])


def test_companions_of_a_batch_are_counted_and_grow_with_it():
    images, texts, concept = pairs(1024, wrong=0.0)
    found = count_companions(images, texts, similar=0.5, temperature=0.03)
    assert [point.batch_size for point in found] == [64, 128, 256, 512, 1024]
    truth = np.mean([np.sum(concept == each) - 1 for each in concept])
    assert found[-1].per_image == pytest.approx(truth, rel=0.1)
    assert found[-1].attention_share(0.0) > found[0].attention_share(0.0) > 0.2


def test_the_attention_on_companions_is_corrected_for_wrong_captions():
    right, noisy = (pairs(2048, wrong=wrong) for wrong in (0.0, 0.5))
    expected, found = (
        count_companions(images, texts, similar=0.5, temperature=0.1)[-1] for images, texts, _ in (right, noisy)
    )
    assert found.per_image == pytest.approx(expected.per_image, rel=0.1)  # swapping leaves the number as it is
    assert found.observed < 0.6 * expected.observed
    assert found.attention_share(0.5) == pytest.approx(expected.observed, abs=0.1)
