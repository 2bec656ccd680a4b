"""Preprocessing of images against the PIL image processors of transformers."""

import io
import json
import pathlib
import tarfile

import numpy as np
import pytest
from PIL import Image
from transformers import AutoImageProcessor

from adapt.embedding.encoder import to_pixels
from models.preprocessing import PREPROCESSOR_FILE
from tests.models.test_preprocessing import KINDS

PHOTOS = pathlib.Path(__file__).parents[3] / "../shared/data/pretrain/flickr8k/dev-00000.tar"
SHAPES = [(37, 50), (50, 37), (9, 9), (64, 31), (1, 40), (40, 1), (24, 24), (5, 91), (25, 18), (23, 17)]


@pytest.fixture(scope="module")
def pictures():
    """Noise images of many shapes: taller and wider than any target size, smaller, and one pixel wide."""
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (*shape, 3), np.uint8)) for shape in SHAPES]


@pytest.fixture(scope="module")
def photos():
    if not PHOTOS.exists():
        pytest.skip(f"flickr8k's photos are not at {PHOTOS}")
    with tarfile.open(PHOTOS) as archive:
        members = [member for member in archive if member.name.endswith(".jpg")][:30]
        return [Image.open(io.BytesIO(archive.extractfile(member).read())).convert("RGB") for member in members]


def compare(images, preprocessing, folder):
    (folder / PREPROCESSOR_FILE).write_text(json.dumps(preprocessing.to_json()))
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    ours = np.stack([to_pixels(image, preprocessing) for image in images])
    assert ours.dtype == np.uint8 and ours.shape[1:] == (*preprocessing.shape, 3)
    pixels = processor(images, do_rescale=False, do_normalize=False)["pixel_values"]
    np.testing.assert_array_equal(ours, np.stack(pixels).transpose(0, 2, 3, 1))
    theirs = processor(images, return_tensors="np")["pixel_values"].transpose(0, 2, 3, 1)
    np.testing.assert_allclose(preprocessing.normalize(ours), theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_noise_of_many_shapes_is_preprocessed_as_by_transformers(pictures, tmp_path, kind):
    compare(pictures, KINDS[kind], tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_photos_are_preprocessed_as_by_transformers(photos, tmp_path, kind):
    compare(photos, KINDS[kind], tmp_path)
