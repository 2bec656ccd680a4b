"""Image decoding to RGB for all common web formats, and resizing for evaluation."""

from __future__ import annotations

import io
import math
import warnings

import numpy as np
from PIL import Image, UnidentifiedImageError

from data.pipeline.tiff_tags import has_separate_planes, is_misread, report_extra_samples
from data.pipeline.value_range import has_wide_values, to_gray
from data.pipeline.wide_colours import needs_low_bytes, raw_mode, read_wide_colours
from data.sources.base import BadRecord

DECODING = 3  # version of the pixels that decoding gives, part of the names of cached embeddings
BICUBIC = int(Image.Resampling.BICUBIC)
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF")
MAX_PIXELS = 89_478_485  # a quarter of a GiB as RGB; Pillow's own warning threshold
_ORIENTATION = 0x0112
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # how such files begin
GRAY_STEPS = {"L;2": (2, 85), "L;4": (4, 17)}  # of the gray levels, which Pillow scales, but not the transparent one
_SIDEWAYS = (5, 6, 7, 8)
UPRIGHT = {
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
        self._encoded, self._key = encoded, key
        if not encoded:
            raise BadRecord("empty image", key, "the image file is empty. Remove it.")
        try:
            self._image = Image.open(io.BytesIO(encoded), formats=FORMATS)
        except UnidentifiedImageError as error:
            if encoded.startswith(_TIFF):
                detail = (
                    "the image is a TIFF that Pillow cannot read, such as one of coloured floats. Convert it to 8 bits."
                )
                raise BadRecord("not an image", key, detail) from error
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
        if is_misread(self._image):
            raise self._separate_planes()
        self._raw_mode = raw_mode(self._image)
        orientation = find_orientation(self._image, encoded)
        self._sideways = orientation in _SIDEWAYS
        self._turn = UPRIGHT.get(orientation)
        swapped = self._sideways
        if self._image.format == "TIFF":  # Pillow rotates the image when it is decoded, but knows only one place
            self._turn = None
            swapped = self._sideways and _ORIENTATION not in self._image.tag_v2
        self.size = (height, width) if swapped else (width, height)

    def decode(self, at_least: tuple[float, float] | None = None) -> Image.Image:
        """Return the image as RGB, upright, transparency on white; raises `BadRecord` for a corrupt one.

        A JPEG may be decoded at 1/2, 1/4 or 1/8 of its size if at least `at_least` (width, height) pixels remain.
        """
        try:
            if at_least is not None:
                width, height = reversed(at_least) if self._sideways else at_least
                self._image.draft(None, (math.ceil(width), math.ceil(height)))
            self._image.load()
            image = self._to_rgb()
            return image if self._turn is None else image.transpose(self._turn)
        except BadRecord:
            raise
        except Exception as error:  # damaged data fails in many ways
            raise self._corrupt(error) from error

    def _to_rgb(self) -> Image.Image:
        image = self._image
        report_extra_samples(image, self._key)
        transparent = image.info.get("transparency")
        if needs_low_bytes(image, self._raw_mode):
            if has_separate_planes(image):
                raise self._separate_planes()
            wide = read_wide_colours(self._encoded, self._raw_mode, self._key, transparent=transparent)
            return to_rgb(wide, self._key)
        if image.format == "PNG" and transparent is not None and self._raw_mode in GRAY_STEPS:
            image.info["transparency"] = transparent * GRAY_STEPS[self._raw_mode][1]
        return to_rgb(image, self._key)

    def _separate_planes(self) -> BadRecord:
        detail = "the image is a TIFF with 16 bits in separate planes, which Pillow misreads. Convert it to 8 bits."
        return BadRecord("not an image", self._key, detail)

    def _corrupt(self, error: Exception) -> BadRecord:
        return BadRecord("corrupt image", self._key, f"the image cannot be decoded ({error}). Replace or remove it.")


def find_orientation(image: Image.Image, encoded: bytes = b"") -> int | None:
    """Return the orientation of an image, one of `UPRIGHT`, or None; `encoded` is its file if it is not decoded."""
    try:
        # PNG's own getexif would decode the image and hide its damage.
        found = Image.Image.getexif(image).get(_ORIENTATION)
        if found is None and image.format == "PNG":
            exif = Image.Exif()
            exif.load(_late_exif(encoded))
            found = exif.get(_ORIENTATION)
        return found
    except Exception:  # damaged EXIF data fail in many ways, and the image may be intact
        return None


def _late_exif(encoded: bytes) -> bytes:
    """Return the EXIF data of a PNG that stand behind its pixels, where Pillow finds them only after decoding."""
    position = 8 if b"eXIf" in encoded else len(encoded)
    while position + 8 <= len(encoded):
        length, kind = int.from_bytes(encoded[position : position + 4]), encoded[position + 4 : position + 8]
        if kind == b"eXIf":
            return encoded[position + 8 : position + 8 + length]
        position += 12 + length
    return b""


def decode(encoded: bytes, key: str) -> Image.Image:
    """Return an image as RGB, upright, transparency on white; raises `BadRecord` with `key` for a corrupt one."""
    return EncodedImage(encoded, key).decode()


def to_rgb(image: Image.Image, key: str = "image") -> Image.Image:
    """Return a decoded image of any mode as RGB, transparency on white; see `find_range` for more than 8 bits."""
    if has_wide_values(image):
        image = to_gray(image, key)
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    if image.mode == "La":
        image = image.convert("LA")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


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
        detail = f"an image of {width} × {height} pixels would be resized to {size[1]} × {size[0]}. Crop or remove it."
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
