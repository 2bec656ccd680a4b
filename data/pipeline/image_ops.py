"""Image decoding to RGB for all common web formats, and resizing for evaluation."""

from __future__ import annotations

import io
import math
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from data.sources.base import BadRecord

BICUBIC = int(Image.Resampling.BICUBIC)
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF")
MAX_PIXELS = 89_478_485  # a quarter of a GiB as RGB; Pillow's own warning threshold
_ORIENTATION = 0x0112
_SIDEWAYS = (5, 6, 7, 8)
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Pillow warns about every unusual tag; real problems raise an error or are checked here.
warnings.filterwarnings("ignore", module=r"PIL\.")
Image.MAX_IMAGE_PIXELS = None  # `EncodedImage` checks `max_pixels` itself


class EncodedImage:
    """An encoded image whose header has been read; `size` is (width, height) after EXIF rotation.

    Raises `BadRecord` for bytes that are not an image and for more than `max_pixels`, before allocating memory.
    """

    def __init__(self, encoded: bytes, key: str, *, max_pixels: int = MAX_PIXELS):
        self._key = key
        if not encoded:
            raise BadRecord("empty image", key, "the image file is empty. Remove it.")
        try:
            self._image = Image.open(io.BytesIO(encoded), formats=FORMATS)
        except UnidentifiedImageError as error:
            raise BadRecord(
                "not an image", key, f"the image is not {', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
            ) from error
        except Exception as error:  # damaged headers fail in many ways
            raise self._corrupt(error) from error
        width, height = self._image.size
        if width * height > max_pixels:
            raise BadRecord(
                "too many pixels",
                key,
                f"the image has {width} × {height} pixels, more than max_pixels {max_pixels:,}",
            )
        orientation = _orientation(self._image)
        self._sideways = orientation in _SIDEWAYS
        self._turn = _UPRIGHT.get(orientation)
        self.size = (height, width) if self._sideways else (width, height)

    def decode(self, at_least: tuple[float, float] | None = None) -> Image.Image:
        """Return the image as RGB, upright, transparency on white; raises `BadRecord` for a corrupt one.

        A JPEG may be decoded at 1/2, 1/4 or 1/8 of its size if at least `at_least` (width, height) pixels remain.
        """
        try:
            if at_least is not None:
                width, height = reversed(at_least) if self._sideways else at_least
                self._image.draft(None, (math.ceil(width), math.ceil(height)))
            self._image.load()
            image = _to_rgb(self._image)
            return image if self._turn is None else image.transpose(self._turn)
        except Exception as error:  # damaged data fails in many ways
            raise self._corrupt(error) from error

    def _corrupt(self, error: Exception) -> BadRecord:
        return BadRecord("corrupt image", self._key, f"the image cannot be decoded ({error}). Replace or remove it.")


def _orientation(image: Image.Image) -> int | None:
    try:
        return Image.Image.getexif(image).get(
            _ORIENTATION
        )  # PNG's own getexif would decode the image and hide its damage
    except Exception:  # damaged EXIF data fail in many ways, and the image may be intact
        return None


def decode(encoded: bytes, key: str) -> Image.Image:
    """Return an image as RGB, upright, transparency on white; raises `BadRecord` with `key` for a corrupt one."""
    return EncodedImage(encoded, key).decode()


def as_rgb(image: Image.Image) -> Image.Image:
    """Return an opened image as RGB, upright, transparency on white, as `decode` does."""
    image.load()
    return _to_rgb(ImageOps.exif_transpose(image))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):  # 16 bits per pixel, which Pillow would clip instead of scale
        gray = np.clip(np.asarray(image).astype(np.int64) // 257, 0, 255).astype(np.uint8)
        return Image.fromarray(gray).convert("RGB")
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def resize_and_crop(
    image: Image.Image, *, size: int | tuple[int, int], crop: tuple[int, int] | None, resample: int = BICUBIC
) -> np.ndarray:
    """Return the image as `[height, width, 3]` uint8, resized and center-cropped as `transformers` processors do.

    `size` is (height, width), which ignores the aspect ratio, or the length of the shortest edge; `crop` is (height,
    width) and pads with black. Raises `BadRecord` if the aspect ratio is so extreme that the result would be huge.
    """
    width, height = image.size
    if isinstance(size, int):
        short, long = size, int(size * max(width, height) / min(width, height))
        size = (long, short) if width <= height else (short, long)
    if size[0] * size[1] > MAX_PIXELS:
        detail = f"an image of {width} × {height} pixels would be resized to {size[1]} × {size[0]}"
        raise BadRecord("too many pixels", "image", detail)
    pixels = np.asarray(image.resize((size[1], size[0]), resample))
    return pixels if crop is None else _center_crop(pixels, crop)


def _center_crop(pixels: np.ndarray, crop: tuple[int, int]) -> np.ndarray:
    for axis, wanted in enumerate(crop):
        present = pixels.shape[axis]
        if present >= wanted:
            first = (present - wanted) // 2
            pixels = np.take(pixels, range(first, first + wanted), axis)
        else:
            before = math.ceil((wanted - present) / 2)
            padding = [(0, 0)] * 3
            padding[axis] = (before, wanted - present - before)
            pixels = np.pad(pixels, padding)
    return pixels
