"""Decoding, resizing, augmentation."""

import io

import numpy as np
import pytest
from PIL import Image

from data.images import Augmentation, augment, decode, resize
from tests.data.shard_files import png


def encoded(image: Image.Image, kind: str = "png", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_transparency_becomes_white():
    image = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert (np.asarray(decode(encoded(image), "k")) == 255).all()
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([10, 20, 30])
    assert (np.asarray(decode(encoded(palette, transparency=0), "k")) == 255).all()


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "CMYK", "1"])
def test_every_colour_mode_becomes_rgb(mode):
    kind = "jpeg" if mode == "CMYK" else "png"
    assert decode(encoded(Image.new(mode, (5, 3)), kind), "k").mode == "RGB"


@pytest.mark.parametrize("damage", [b"", b"no picture", png(0)[:60], png(0)[:-40]])
def test_a_broken_picture_is_named(damage):
    with pytest.raises(ValueError, match=r"shard\.tar/7: the picture cannot be decoded"):
        decode(damage, "shard.tar/7")


def test_resize_gives_a_square():
    assert resize(decode(png(0), "k"), 9).shape == (9, 9, 3)


def test_a_view_depends_on_the_generator_alone():
    image = decode(png(0), "k")
    settings = Augmentation(color_jitter=0.4, grayscale=0.5, flip=0.5)
    views = [augment(image, 12, settings, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert views[0].shape == (12, 12, 3) and views[0].dtype == np.uint8
    assert np.array_equal(views[0], views[1]) and not np.array_equal(views[0], views[2])


def test_no_augmentation_is_a_plain_resize_and_a_certain_flip_mirrors_it():
    image = decode(png(0, (16, 16)), "k")
    still = Augmentation(crop_area=(1.0, 1.0), crop_aspect=(1.0, 1.0))
    mirrored = Augmentation(crop_area=(1.0, 1.0), crop_aspect=(1.0, 1.0), flip=1.0)
    assert np.array_equal(augment(image, 8, still, np.random.default_rng(0)), resize(image, 8))
    assert np.array_equal(augment(image, 8, mirrored, np.random.default_rng(0)), resize(image, 8)[:, ::-1])


def test_certain_grayscale_has_no_colour():
    view = augment(decode(png(0), "k"), 8, Augmentation(grayscale=1.0), np.random.default_rng(0)).astype(int)
    assert np.abs(view - view[..., :1]).max() <= 1


@pytest.mark.parametrize(
    "bad", [{"crop_area": (0.0, 1.0)}, {"crop_area": (0.5, 1.5)}, {"crop_aspect": (2.0, 1.0)}, {"flip": 1.5}]
)
def test_settings_outside_their_range_are_refused(bad):
    with pytest.raises(ValueError, match=f"augmentation.{next(iter(bad))}"):
        Augmentation(**bad)
