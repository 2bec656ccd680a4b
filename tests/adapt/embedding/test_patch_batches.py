"""Batches of images of any aspect ratio: the same embeddings in any grouping, in the order of the images."""

import concurrent.futures
import threading

import numpy as np
import pytest
from PIL import Image

from adapt.embedding.encoder import Encoder
from adapt.embedding.patch_batches import ImagePatches, cut_patches, embed_in_order, plan_batches, stack_images
from data.sources.base import BadRecord
from models.checkpoints.io import save_checkpoint
from models.preprocessing import BILINEAR, Preprocessing
from tests.models.tiny_models import tiny_checkpoint

SHAPES = [(30, 40), (40, 30), (3, 300), (300, 3), (20, 20), (17, 90), (90, 17), (1, 1), (64, 48)]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    checkpoint = tiny_checkpoint("siglip", vision={"image_size": 20, "max_patches": 24})
    return Encoder(save_checkpoint(tmp_path_factory.mktemp("naflex") / "model", checkpoint))


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (*shape, 3), np.uint8)) for shape in SHAPES]


def test_embedding_does_not_depend_on_the_images_of_the_batch(encoder, pictures):
    together = encoder.embed_images(pictures)
    alone = np.concatenate([encoder.embed_images([picture]) for picture in pictures])
    np.testing.assert_allclose(alone, together, atol=1e-5)
    order = np.random.default_rng(1).permutation(len(pictures) * 20) % len(pictures)
    shuffled = encoder.embed_images([pictures[number] for number in order])
    np.testing.assert_allclose(shuffled, together[order], atol=1e-5)
    assert np.abs(together[:, None] - together).max(axis=-1)[np.triu_indices(len(pictures), 1)].min() > 1e-2


def test_damaged_image_has_a_row_and_is_named(encoder, pictures):
    def image(number):
        if number == 1:
            raise BadRecord("corrupt image", "b.jpg", "damaged")
        return pictures[number]

    bad = {}
    rows = np.concatenate(list(encoder.iterate_images(image, range(4), bad=bad)))
    assert list(bad) == [1] and rows.shape == (4, encoder.dim)
    np.testing.assert_allclose(rows[[0, 2, 3]], encoder.embed_images([pictures[n] for n in (0, 2, 3)]), atol=1e-5)
    with pytest.raises(BadRecord):
        list(encoder.iterate_images(image, range(4)))


def test_number_of_patches_changes_embedding_and_fingerprint(encoder, pictures):
    more = Encoder(encoder.name, max_patches=60)
    assert more.max_patches == 60 and more.options["max_patches"] == 60
    assert more.image_fingerprint != encoder.image_fingerprint
    assert np.abs(more.embed_images(pictures[:2]) - encoder.embed_images(pictures[:2])).max() > 1e-3


def test_wrong_sizes_and_inputs_are_refused(encoder):
    with pytest.raises(ValueError, match=r"image_size 20 .* max_patches 9 .*Pass one of them"):
        Encoder(encoder.name, image_size=20, max_patches=9)
    with pytest.raises(ValueError, match=r"takes images of any aspect ratio. Use embed_images or embed_patches"):
        encoder.embed_pixels(np.zeros((1, 20, 20, 3), np.uint8))
    fixed = Encoder(encoder.name, image_size=20)
    with pytest.raises(ValueError, match=r"takes images of one size. Use embed_images or embed_pixels"):
        fixed.embed_patches(None)
    assert fixed.embed_pixels(np.zeros((8, 20, 20, 3), np.uint8)).shape == (8, encoder.dim)


def test_patches_are_the_rows_of_the_resized_image():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 20, 3), np.uint8))
    cut = cut_patches(image, patch_size=5, max_patches=24, preprocessing=Preprocessing(size=(1, 1), resample=BILINEAR))
    assert cut.grid == (6, 4)  # 30 × 20 pixels, without resizing
    pixels = np.asarray(image)
    np.testing.assert_array_equal(cut.patches[5].reshape(5, 5, 3), pixels[5:10, 5:10])


@pytest.mark.parametrize("devices", [1, 3])
def test_batches_hold_every_image_once_within_the_budget(devices):
    counts = np.random.default_rng(0).integers(1, 257, 500)
    plans = plan_batches(counts, rows=8, max_patches=256, devices=devices)
    assert sorted(np.concatenate([plan.places for plan in plans])) == list(range(500))
    for plan in plans:
        assert plan.rows % devices == 0 and plan.rows * plan.slots <= devices * 8 * 256
        assert len(plan.places) <= plan.rows and counts[plan.places].max() <= plan.slots
    assert len({(plan.rows, plan.slots) for plan in plans}) <= 5
    used = counts.sum() / sum(plan.rows * plan.slots for plan in plans)
    assert used > 0.7


def test_order_is_kept_and_at_most_two_windows_are_prepared():
    counts, prepared, computed, lock = np.random.default_rng(0).integers(1, 65, 300), set(), [0], threading.Lock()
    ahead = []

    def prepare(number):
        with lock:
            prepared.add(number)
        return ImagePatches(np.full((counts[number], 3), number % 256, np.uint8), (1, counts[number]))

    def embed(images):
        ahead.append(len(prepared) - computed[0])
        computed[0] += int((images.patches[:, 0].any(axis=1)).sum())
        return images.patches[:, 0].astype(np.float32)

    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        options = {"rows": 4, "max_patches": 64, "devices": 1, "threads": threads}
        found = np.concatenate(list(embed_in_order(prepare, embed, range(1, 300), **options)))
    np.testing.assert_array_equal(found[:, 0], np.arange(1, 300) % 256)
    assert max(ahead) <= 2 * 16 + 1 + 4  # windows of four batches of four images; two numbers are black


def test_rows_without_an_image_have_one_black_patch():
    images = [ImagePatches(np.full((6, 3), 9, np.uint8), (2, 3))]
    batch = stack_images(images, rows=2, slots=7)
    assert batch.grids.tolist() == [[2, 3], [1, 1]] and batch.patches[0].sum() == 6 * 3 * 9
    assert batch.patches[1].sum() == 0
