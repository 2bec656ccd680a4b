"""Random views of training images."""

import numpy as np
import pytest
from PIL import Image

from data.pipeline.augmentation import Augmentation, Box, augment, choose_patches, random_crop, resize_box
from data.pipeline.image_ops import EncodedImage
from tests.data.pipeline.test_image_ops import encoded, photo
from tests.data.shard_files import png

STILL = {"crop_area": (1.0, 1.0), "crop_aspect": (1.0, 1.0)}


def view_of(content: bytes, shape: tuple[int, int], settings: Augmentation, seed: int) -> np.ndarray:
    return augment(EncodedImage(content, "k"), shape, settings=settings, rng=np.random.default_rng(seed))


def bicubic(pixels: np.ndarray, start: float, length: float, size: int) -> np.ndarray:
    """Resize [start, start + length) of the first axis to `size` in float64: Keys' kernel with a = −1/2, widened by the
    scale when shrinking."""
    scale = length / size
    width = max(scale, 1.0)
    rows = []
    for out in range(size):
        centre = start + (out + 0.5) * scale
        at = np.arange(len(pixels))
        x = np.abs((at + 0.5 - centre) / width)
        near = 1.5 * x**3 - 2.5 * x**2 + 1
        far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
        weights = np.where(x < 1, near, np.where(x < 2, far, 0.0))
        rows.append(np.tensordot(weights / weights.sum(), pixels.astype(np.float64), 1))
    return np.stack(rows)


@pytest.mark.parametrize(
    ("shape", "box", "size"),
    [
        ((50, 37), (0, 0, 50, 37), 17),
        ((50, 37), (3, 2, 41, 30), 24),
        ((9, 13), (1, 0, 7, 12), 32),
        ((64, 64), (0, 0, 64, 64), 64),
    ],
)
def test_resizing_equals_a_float64_reference(shape, box, size):
    image = photo(shape)
    left, top, width, height = box
    rows = np.clip(
        np.rint(bicubic(np.asarray(image), top, height, size)), 0, 255
    )  # rounded to bytes between the two passes
    expected = np.clip(bicubic(rows.transpose(1, 0, 2), left, width, size).transpose(1, 0, 2), 0, 255)
    assert np.abs(resize_box(image, Box(*box), shape=(size, size)) - expected).max() < 1


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (2, 3), (7, 4000)])
def test_tiny_and_thin_images_have_views(shape):
    content, settings = encoded(Image.new("RGB", shape, (9, 90, 200))), Augmentation(crop_area=(0.01, 1.0))
    for seed in range(30):
        view = view_of(content, (16, 16), settings, seed)
        assert view.shape == (16, 16, 3) and (view == [9, 90, 200]).all()


def test_crops_lie_inside_the_image_and_have_the_requested_area_and_aspect():
    settings = Augmentation(crop_area=(0.2, 0.4), crop_aspect=(0.8, 1.25))
    for seed in range(200):
        left, top, width, height = random_crop((300, 280), settings=settings, rng=np.random.default_rng(seed))
        assert left >= 0 and top >= 0 and left + width <= 300 + 1e-9 and top + height <= 280 + 1e-9
        assert 0.2 - 1e-9 <= width * height / (300 * 280) <= 0.4 + 1e-9 and 0.8 - 1e-9 <= width / height <= 1.25 + 1e-9


def test_a_view_depends_only_on_the_random_generator():
    settings = Augmentation(color_jitter=0.4, grayscale=0.5, flip=0.5)
    views = [view_of(png(0), (12, 12), settings, seed) for seed in (0, 0, 1)]
    assert views[0].shape == (12, 12, 3) and views[0].dtype == np.uint8
    assert np.array_equal(views[0], views[1]) and not np.array_equal(views[0], views[2])


def test_a_jpeg_decoded_at_reduced_scale_gives_nearly_the_same_view():
    image = photo((640, 480))
    settings = Augmentation(crop_area=(0.5, 1.0))
    for seed in range(5):
        reduced = view_of(encoded(image, "jpeg", quality=95), (64, 64), settings, seed)
        whole = view_of(encoded(image), (64, 64), settings, seed)
        assert np.abs(reduced.astype(int) - whole).mean() < 2


def test_flip_with_probability_one_mirrors():
    views = [view_of(png(0, (16, 16)), (8, 8), Augmentation(**STILL, flip=flip), 0) for flip in (0.0, 1.0)]
    assert np.array_equal(views[0][:, ::-1], views[1]) and not np.array_equal(*views)


def test_grayscale_with_probability_one_removes_colour():
    view = view_of(png(0), (8, 8), Augmentation(grayscale=1.0), 0).astype(int)
    assert np.abs(view - view[..., :1]).max() <= 1


def test_kept_patches_are_sorted_and_at_least_one():
    kept = choose_patches(16, 0.5, rng=np.random.default_rng(0))
    assert len(kept) == 8 and (np.diff(kept) > 0).all()
    assert len(choose_patches(4, 0.01, rng=np.random.default_rng(0))) == 1


@pytest.mark.parametrize(
    "bad", [{"crop_area": (0.0, 1.0)}, {"crop_area": (0.5, 1.5)}, {"crop_aspect": (2.0, 1.0)}, {"flip": 1.5}]
)
def test_settings_outside_their_range_are_rejected(bad):
    with pytest.raises(ValueError, match=f"augmentation.{next(iter(bad))}"):
        Augmentation(**bad)
