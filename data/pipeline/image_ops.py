"""From encoded images to RGB pixels: decoding whatever the web holds, and resizing for evaluation."""

from __future__ import annotations

import io
import math
import warnings

import numpy as np
from PIL import Image, UnidentifiedImageError

from data.sources.base import BadRecord

BICUBIC = int(Image.Resampling.BICUBIC)
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF")
MAX_PIXELS = 89_478_485  # a quarter of a GiB as RGB, where Pillow would begin to warn
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
# Pillow warns of every odd tag of every picture; what matters comes as an error, or is checked here.
warnings.filterwarnings("ignore", module=r"PIL\.")
Image.MAX_IMAGE_PIXELS = None  # checked below, by the limit that is set


class EncodedImage:
    """An encoded image of which the header has been read: `size` is (width, height) as it is shown.

    Raises `BadRecord` for bytes that are no image and for more than `max_pixels`, before they take memory.
    """

    def __init__(self, encoded: bytes, key: str, *, max_pixels: int = MAX_PIXELS):
        self._key = key
        if not encoded:
            raise BadRecord("empty image", key, "the picture has no bytes; remove it")
        try:
            self._image = Image.open(io.BytesIO(encoded), formats=FORMATS)
        except UnidentifiedImageError as error:
            raise BadRecord("not an image", key, f"the picture is none of {', '.join(FORMATS)}") from error
        except Exception as error:  # damaged headers fail in many ways
            raise self._corrupt(error) from error
        width, height = self._image.size
        if width * height > max_pixels:
            raise BadRecord(
                "too many pixels",
                key,
                f"the picture has {width} × {height} pixels, more than max_pixels {max_pixels:,}",
            )
        orientation = _orientation(self._image)
        self._sideways = orientation in _SIDEWAYS
        self._turn = _UPRIGHT.get(orientation)
        self.size = (height, width) if self._sideways else (width, height)

    def decode(self, at_least: tuple[float, float] | None = None) -> Image.Image:
        """Returns the RGB image, upright, transparency on white; raises `BadRecord` for a broken one.

        A JPEG may come smaller by 2, 4 or 8, as long as it has `at_least` so many pixels in width and height.
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
        return BadRecord("corrupt image", self._key, f"the picture cannot be decoded ({error}); replace or remove it")


def _orientation(image: Image.Image) -> int | None:
    try:
        return Image.Image.getexif(image).get(_ORIENTATION)  # that of PNG would decode, and hide what is wrong
    except Exception:  # damaged EXIF data fail in many ways, and the picture may be whole
        return None


def decode(encoded: bytes, key: str) -> Image.Image:
    """Returns the RGB image, upright, transparency on white; raises `BadRecord` naming `key` for a broken one."""
    return EncodedImage(encoded, key).decode()


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):  # 16 bits a pixel; Pillow would clip instead of scaling
        gray = np.clip(np.asarray(image).astype(np.int64) // 257, 0, 255).astype(np.uint8)
        return Image.fromarray(gray).convert("RGB")
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def resize_and_crop(
    image: Image.Image, *, size: int | tuple[int, int], crop: tuple[int, int] | None, resample: int = BICUBIC
) -> np.ndarray:
    """Returns `[height, width, 3]` uint8, resized and then cut out of the centre, as `transformers` processors do.

    `size` is (height, width), to which the image is squeezed, or the length of its shortest edge; `crop` is (height,
    width). What a crop lacks is black. Raises `BadRecord` for a picture so thin that it would be made enormous.
    """
    width, height = image.size
    if isinstance(size, int):
        short, long = size, int(size * max(width, height) / min(width, height))
        size = (long, short) if width <= height else (short, long)
    if size[0] * size[1] > MAX_PIXELS:
        detail = f"a picture of {width} × {height} pixels would be resized to {size[1]} × {size[0]}"
        raise BadRecord("too many pixels", "picture", detail)
    pixels = np.asarray(image.resize((size[1], size[0]), resample))
    return pixels if crop is None else _center_crop(pixels, crop)


def _center_crop(pixels: np.ndarray, crop: tuple[int, int]) -> np.ndarray:
    for axis, wanted in enumerate(crop):
        there = pixels.shape[axis]
        if there >= wanted:
            first = (there - wanted) // 2
            pixels = np.take(pixels, range(first, first + wanted), axis)
        else:
            before = math.ceil((wanted - there) / 2)
            padding = [(0, 0)] * 3
            padding[axis] = (before, wanted - there - before)
            pixels = np.pad(pixels, padding)
    return pixels
