"""Reduce pictures of 16-bit, 32-bit, signed and floating-point values to 8 bits: which are black and white."""

from __future__ import annotations

import logging
from typing import NamedTuple

import numpy as np
from PIL import Image

logger = logging.getLogger(__name__)

_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # TIFF tags
_UNSIGNED, _SIGNED = 1, 2
_OVERSHOOT = 0.1  # of the range; floats leave it when a picture was resized
_TOPS = (255, 4095, 65535)
_SIGNED_TOPS = {8: (127,), 16: (255, 4095, 32767)}
_told: set[tuple[str, ...]] = set()  # what was logged: the kind of the values, and how they were taken


class ValueRange(NamedTuple):
    """The values that become black and white. `meaning` is their description, empty if it is certain."""

    low: float
    high: float
    meaning: str


def has_wide_values(image: Image.Image) -> bool:
    """Return whether the pixels of an image are single values of more than 8 bits, or of 8 bits with a sign."""
    return image.mode == "F" or image.mode.startswith("I") or _is_signed(image)


def _is_signed(image: Image.Image) -> bool:
    """Return whether an image is a TIFF of signed values of 8 bits, which Pillow takes for unsigned ones."""
    tags = getattr(image, "tag_v2", {})
    return image.mode == "L" and tags.get(_SAMPLE_FORMAT, (_UNSIGNED,))[0] == _SIGNED


def to_gray(image: Image.Image, key: str) -> Image.Image:
    """Return an image with `has_wide_values` in 8 bits, mode L or, with transparency, LA.

    Where the range of the values is a guess, the first image of a kind is logged with its `key`. Raises `ValueError` if
    no value is finite.
    """
    values, tags = np.asarray(image), getattr(image, "tag_v2", {})
    bits = tags.get(_BITS_PER_SAMPLE, (16,))[0]
    if image.mode == "I" and tags.get(_SAMPLE_FORMAT, (_UNSIGNED,))[0] == _UNSIGNED:
        values = values.view(np.uint32)
    elif _is_signed(image):
        values = values.view(np.int8)
    gray = to_8_bits(values, key, bits=bits)
    if tags.get(_PHOTOMETRIC) == 0:  # white is zero; Pillow inverts only 8 bits and less
        gray = 255 - gray
    if "transparency" not in image.info:
        return Image.fromarray(gray)
    alpha = np.where(values == image.info["transparency"], 0, 255).astype(np.uint8)
    return Image.merge("LA", (Image.fromarray(gray), Image.fromarray(alpha)))


def to_8_bits(values: np.ndarray, key: str, *, bits: int = 16) -> np.ndarray:
    """Return the values of an image as uint8, scaled by `find_range`; logs and raises as `to_gray`."""
    low, high, meaning = find_range(values, bits=bits)
    if meaning:
        finite = values[np.isfinite(values)]
        warn_once(
            (_kind(values), meaning),
            f"{key}: the pixels of this image are {_kind(values)} from {finite.min():g} to {finite.max():g}, taken as "
            f"{meaning}. Convert the images to 8 bits if this is wrong.",
        )
    scaled = np.nan_to_num(values.astype(np.float32), copy=False, nan=low, posinf=high, neginf=low)
    factor = 255 / ((high - low) or 1)
    scaled *= factor
    scaled -= low * factor
    return np.rint(np.clip(scaled, 0, 255, out=scaled), out=scaled).astype(np.uint8)


def find_range(values: np.ndarray, *, bits: int = 16) -> ValueRange:
    """Return the range of the values of an image; `bits` is the size of a value in the file.

    Integers have 8, 12 or 16 bits (7 or 15 if the file has signed ones), whichever is the first to hold all of them.
    Floats are within 0…1, −1…1, 0…255, 0…4095 or 0…65535, with a tenth of overshoot. Everything else reaches from 0 to
    the largest value or, with negative values, from the smallest to the largest. Raises `ValueError` if no value is
    finite.
    """
    finite = values[np.isfinite(values)]
    if not finite.size:
        raise ValueError("none of its values is a finite number")
    low, high = float(finite.min()), float(finite.max())
    kind = values.dtype.kind
    if bits == 12:
        return ValueRange(0, 4095, "")
    if low == high == 0:
        return ValueRange(0, 1, "")
    if kind == "f" and high <= 1 + _OVERSHOOT and low >= -1 - _OVERSHOOT:
        return ValueRange(0, 1, "0 to 1") if low >= -_OVERSHOOT else ValueRange(-1, 1, "-1 to 1")
    slack = _OVERSHOOT if kind == "f" else 0
    tops = _SIGNED_TOPS.get(bits, _TOPS) if kind == "i" else _TOPS
    for top in tops:
        if -slack * high <= low and high <= top * (1 + slack):
            certain = kind == "u" and bits == 16 and top == tops[-1]
            return ValueRange(0, top, "" if certain else f"{top.bit_length()} bits, 0 to {top}")
    if low >= 0:
        return ValueRange(0, high, "0 to the largest value of each image")
    return ValueRange(low, high, "the smallest to the largest value of each image")


def warn_once(what: tuple[str, ...], message: str) -> None:
    """Log how the pixels of an image were taken, for the first image that `what` describes."""
    if what not in _told:
        _told.add(what)
        logger.warning(f"{message} Further ones are not reported.")


def _kind(values: np.ndarray) -> str:
    return "floats" if values.dtype.kind == "f" else f"{8 * values.dtype.itemsize}-bit integers"
