"""Images that the caller opened with Pillow, as their files are decoded."""

from __future__ import annotations

import threading

from PIL import Image

from data.pipeline.image_ops import GRAY_STEPS, UPRIGHT, decode, find_orientation, to_rgb
from data.pipeline.tiff_tags import report_extra_samples, value_bits
from data.pipeline.value_range import warn_once
from data.pipeline.wide_colours import DARK, is_dark
from data.sources.base import BadRecord

_one_opened_image = threading.Lock()


def as_rgb(image: Image.Image, key: str = "image") -> Image.Image:
    """Return an image that Pillow opened as RGB, upright, transparency on white, as `decode` does.

    A PNG or TIFF that was not loaded is decoded from its file. Of one that was, Pillow may have lost the low bytes and
    the depth; what is taken then is logged once. Raises `BadRecord` as `decode`.
    """
    if not all(image.size):
        raise BadRecord("empty image", key, "the image has no pixels. Remove it.")
    with _one_opened_image:  # which may be several times in a list
        encoded = _unloaded_file(image)
        try:
            if encoded is None:
                image.load()  # rotates a TIFF and removes its orientation
        except Exception as error:  # damaged data fails in many ways
            detail = f"the image cannot be decoded ({error}). Replace or remove it."
            raise BadRecord("corrupt image", key, detail) from error
    if encoded is not None:
        return decode(encoded, key)
    report_extra_samples(image, key)
    wide = image.format in ("PNG", "TIFF", None) and value_bits(image, default=16) > 8
    faint = image.mode == "RGBA" and image.getextrema()[3][1] < DARK
    if wide and (faint or (image.mode in ("RGB", "RGBA", "CMYK") and is_dark(image))):
        warn_once(
            ("dark colours",),
            f"{key}: all colours of this image, or its alpha, are below 16 of 255, and are taken as such. If its file "
            "has 12 bits in 16, Pillow kept only the high bytes: pass the path instead.",
        )
    turn = UPRIGHT.get(find_orientation(image))
    rgb = to_rgb(_with_scaled_transparency(image, key), key)
    return rgb if turn is None else rgb.transpose(turn)


def _unloaded_file(image: Image.Image) -> bytes | None:
    """Return the file of a PNG or TIFF that Pillow opened and did not decode, if `image` is its first picture."""
    file = getattr(image, "fp", None)
    if image.format not in ("PNG", "TIFF") or not image.tile or file is None or image.tell():
        return None
    position = file.tell()
    file.seek(0)
    encoded = file.read()
    file.seek(position)
    return encoded


def _with_scaled_transparency(image: Image.Image, key: str) -> Image.Image:
    """Return a loaded image whose transparent value is on the scale of its pixels; log what was assumed."""
    transparent = image.info.get("transparency")
    if image.mode == "RGB" and isinstance(transparent, tuple) and max(transparent) > 255:
        scaled, assumed = tuple(value >> 8 for value in transparent), "the high bytes of 16 bits"
    elif image.mode == "L" and isinstance(transparent, int) and transparent:
        found = [(bits, step) for bits, step in GRAY_STEPS.values() if _has_step(image, step)]
        bits, step = next(((bits, step) for bits, step in found if transparent < 2**bits), (8, 1))
        scaled, assumed = transparent * step, f"one of {bits} bits"
    else:
        return image
    if scaled == transparent:
        return image
    warn_once(
        ("transparency", assumed),
        f"{key}: the transparent value {transparent} of this image is taken as {assumed}. Pass the path instead if "
        "this is wrong.",
    )
    image = image.copy()
    image.info["transparency"] = scaled
    return image


def _has_step(image: Image.Image, step: int) -> bool:
    """Return whether all values of a gray image are multiples of `step`."""
    return not any(count for value, count in enumerate(image.histogram()) if value % step)
