"""Copies of support images among the queries are found, whatever file they come from."""

import io

import numpy as np
import pytest
from PIL import Image

from adapt.embedding.identical_images import find_identical


def picture(seed, size=(9, 7)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8))


def embedded(images, noise=1e-6):
    """Stand in for an encoder: a projection of the pixels, rounded differently at each place of a batch."""
    rng = np.random.default_rng(5)
    directions = rng.standard_normal((16, 16, 3, 24))
    pixels = np.stack([np.asarray(image.resize((16, 16))) for image in images]) / 128 - 1
    return (np.einsum("nhwc,hwcd->nd", pixels, directions) + noise * rng.standard_normal((len(images), 24))) * 3


def reference(support, queries, own_rows=None):
    content = [(image.size, image.tobytes()) for image in support]
    found = []
    for row, query in enumerate(queries):
        same = [i for i, each in enumerate(content) if each == (query.size, query.tobytes())]
        found.append([i for i in same if own_rows is None or i != own_rows[row]])
    return found


def find(support, queries, **kwargs):
    return find_identical(
        embedded(support), embedded(queries), support.__getitem__, queries.__getitem__, **kwargs
    ).tolist()


@pytest.mark.parametrize("seed", range(5))
def test_copies_are_those_of_the_pixels_in_random_sets(seed):
    rng = np.random.default_rng(seed)
    support = [picture(number) for number in rng.integers(0, 40, 30)]
    queries = [picture(number) for number in rng.integers(20, 60, 25)]
    for found, same in zip(find(support, queries), reference(support, queries), strict=True):
        assert found in same if same else found == -1


@pytest.mark.parametrize("seed", range(5))
def test_an_image_of_a_pool_is_not_a_copy_of_itself(seed):
    pool = [picture(number) for number in np.random.default_rng(seed).integers(0, 40, 30)]
    rows = np.random.default_rng(seed).permutation(30)[:20]
    queries = [pool[row] for row in rows]
    found = find(pool, queries, own_rows=rows)
    for each, same in zip(found, reference(pool, queries, rows), strict=True):
        assert each in same if same else each == -1


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "WEBP"])
def test_a_lossless_copy_in_another_format_is_found(format):
    buffer = io.BytesIO()
    picture(3).save(buffer, format, **({"lossless": True} if format == "WEBP" else {}))
    assert find([picture(1), picture(3)], [Image.open(buffer).convert("RGB"), picture(2)]) == [1, -1]


def test_similar_pictures_and_other_sizes_are_not_identical():
    array = np.asarray(picture(1)).copy()
    array[0, 0, 0] ^= 1
    assert find([picture(1)], [Image.fromarray(array), picture(1).resize((18, 14), Image.NEAREST)]) == [-1, -1]
    nothing = np.zeros((0, 24))
    assert find_identical(nothing, nothing, None, None).tolist() == []
