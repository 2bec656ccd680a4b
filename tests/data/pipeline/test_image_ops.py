"""Image decoding and resizing for evaluation."""

import io
import random
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from data.pipeline.image_ops import EncodedImage, decode, resize_and_crop
from data.sources.base import BadRecord
from tests.data.shard_files import png


def encoded(image: Image.Image, kind: str = "png", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def photo(size: tuple[int, int]) -> Image.Image:
    """Return a smooth image of (width, height), like a photo."""
    small = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8))
    return small.resize(size, Image.Resampling.BICUBIC)


def reason(content: bytes, **options) -> str:
    with pytest.raises(BadRecord, match=r"shard\.tar/7: the image") as caught:
        EncodedImage(content, "shard.tar/7", **options).decode()
    return caught.value.reason


def test_transparency_becomes_white():
    image = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    for kind in ("png", "webp", "avif"):
        assert (np.asarray(decode(encoded(image, kind), "k")) >= 254).all()
    half = np.asarray(decode(encoded(Image.new("RGBA", (4, 4), (255, 0, 0, 128))), "k"))
    assert np.abs(half[0, 0].astype(int) - [255, 127, 127]).max() <= 1
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([10, 20, 30])
    assert (np.asarray(decode(encoded(palette, transparency=0), "k")) == 255).all()
    gray = Image.new("LA", (4, 4), (0, 0))
    assert (np.asarray(decode(encoded(gray), "k")) == 255).all()
    keyed = np.asarray(decode(encoded(Image.new("RGB", (4, 4), (1, 2, 3)), transparency=(1, 2, 3)), "k"))
    assert (keyed == 255).all()


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "CMYK", "1", "YCbCr"])
def test_every_colour_mode_becomes_rgb(mode):
    kind = "jpeg" if mode in ("CMYK", "YCbCr") else "png"
    assert decode(encoded(Image.new(mode, (5, 3)), kind), "k").mode == "RGB"


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "avif", "gif", "bmp", "tiff"])
def test_every_format_preserves_colours(kind):
    image = Image.new("RGB", (32, 24), (200, 100, 50))
    assert np.abs(np.asarray(decode(encoded(image, kind), "k")).astype(int) - [200, 100, 50]).max() <= 6


def test_cmyk_preserves_colours():
    cmyk = photo((40, 30)).convert("CMYK")
    difference = np.asarray(decode(encoded(cmyk, "jpeg", quality=95), "k")).astype(int) - np.asarray(
        cmyk.convert("RGB")
    )
    assert np.abs(difference).mean() < 4


@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_sixteen_bit_images_are_scaled_not_clipped(kind):
    values = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    pixels = np.asarray(decode(encoded(Image.fromarray(values), kind), "k"))
    assert np.abs(pixels[..., 0].astype(int) - values // 257).max() <= 1 and (pixels == pixels[..., :1]).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_rotated_upright_by_their_exif_orientation(orientation):
    upright = photo((48, 32))
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the Image.Transpose of a camera held that way
    stored = upright.transpose(Image.Transpose(undo[orientation])) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind, off in (("png", 0), ("jpeg", 12)):
        image = EncodedImage(encoded(stored, kind, exif=exif, **({"quality": 95} if off else {})), "k")
        assert image.size == (48, 32)
        pixels = np.asarray(image.decode(at_least=(24, 16))).astype(int)
        expected = np.asarray(upright.resize(pixels.shape[1::-1], Image.Resampling.BOX)).astype(int)
        assert np.abs(pixels - expected).max() <= off + (20 if pixels.shape[0] < 32 else 0)


def test_a_large_jpeg_is_decoded_at_the_smallest_sufficient_scale():
    content = encoded(photo((640, 480)), "jpeg")
    for at_least, size in (
        ((641, 1), (640, 480)),
        ((320, 240), (320, 240)),
        ((161, 100), (320, 240)),
        ((80, 60), (80, 60)),
    ):
        assert EncodedImage(content, "k").decode(at_least=at_least).size == size
    assert EncodedImage(content, "k").decode().size == (640, 480)


def test_unusable_images_have_distinct_reasons():
    assert reason(b"") == "empty image"
    assert reason(b"not an image at all") == "not an image"
    assert reason(b"<svg xmlns='http://www.w3.org/2000/svg'/>") == "not an image"
    assert reason(png(0)[:-40]) == "corrupt image"
    assert reason(encoded(photo((64, 64)), "jpeg")[:500]) == "corrupt image"
    assert reason(encoded(photo((64, 64)), "webp")[:200]) == "corrupt image"
    assert reason(png(0), max_pixels=100) == "too many pixels"
    assert reason(bomb(60_000, 60_000)) == "too many pixels"
    assert reason(bomb(10_000, 10_000)) == "too many pixels"
    assert reason(encoded(photo((9, 9)), "ppm")) == "not an image"  # a format that is not accepted


def test_images_that_pillow_rejects_are_bad_records():
    """Reading the EXIF data of a PNG must not hide its damage."""
    rng, whole = random.Random(0), png(0, (60, 40))
    refused = 0
    for _ in range(100):
        content = bytearray(whole)
        content[rng.randrange(33, len(content))] ^= 1 << rng.randrange(8)
        try:
            Image.open(io.BytesIO(bytes(content))).load()
        except Exception:
            refused += 1
            assert reason(bytes(content)) in ("corrupt image", "not an image", "too many pixels")
        else:
            decode(bytes(content), "k")
    assert refused > 50


def test_max_pixels_replaces_the_default_limit():
    assert reason(bomb(15_000, 15_000)) == "too many pixels"
    assert EncodedImage(bomb(15_000, 15_000), "k", max_pixels=10**9).size == (15_000, 15_000)


def test_malformed_exif_tags_do_not_affect_decoding():
    width = struct.pack("<HHI4s", 0x0100, 2, 4, b"abc\0")  # as text
    orientation = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + width + orientation + bytes(4)
    assert EncodedImage(encoded(photo((48, 32)), "jpeg", exif=exif), "k").decode().size == (32, 48)


def bomb(width: int, height: int) -> bytes:
    """Return a few hundred bytes of PNG whose header claims a large image."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


def test_fuzzed_images_decode_or_are_bad_records():
    rng = random.Random(0)
    originals = [encoded(photo((40, 30)), kind) for kind in ("jpeg", "png", "webp", "avif", "gif", "bmp", "tiff")]
    originals.append(encoded(photo((40, 30)).convert("CMYK"), "jpeg"))
    outcomes = set()
    for trial in range(1600):
        content = bytearray(originals[trial % len(originals)])
        for _ in range(rng.randint(1, 12)):
            content[rng.randrange(min(len(content), 400))] = rng.randrange(256)
        if rng.random() < 0.3:
            del content[rng.randrange(len(content)) :]
        try:
            image = EncodedImage(bytes(content), "k", max_pixels=1_000_000).decode(at_least=(16, 16))
            assert image.mode == "RGB"
            outcomes.add("decoded")
        except BadRecord as error:
            outcomes.add(error.reason)
    assert outcomes == {"decoded", "not an image", "corrupt image", "too many pixels", "empty image"} or outcomes == {
        "decoded",
        "not an image",
        "corrupt image",
        "too many pixels",
    }


def test_a_fixed_size_ignores_the_aspect_ratio_and_a_crop_is_central():
    image = photo((30, 20))
    squeezed = resize_and_crop(image, size=(9, 12), crop=None)
    assert squeezed.shape == (9, 12, 3)
    assert np.array_equal(squeezed, np.asarray(image.resize((12, 9), Image.Resampling.BICUBIC)))
    assert resize_and_crop(image, size=10, crop=None).shape == (10, 15, 3)
    cut = resize_and_crop(image, size=10, crop=(10, 11))
    assert np.array_equal(cut, resize_and_crop(image, size=10, crop=None)[:, 2:13])


def test_crops_larger_than_the_image_are_padded_with_black():
    cut = resize_and_crop(Image.new("RGB", (5, 5), "white"), size=(5, 5), crop=(8, 5))
    assert cut.shape == (8, 5, 3) and (cut[2:7] == 255).all() and cut[:2].max() == cut[7:].max() == 0
