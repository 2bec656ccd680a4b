"""Tags of a TIFF that describe its channels."""

from __future__ import annotations

from PIL import Image

from data.pipeline.value_range import warn_once

_BITS, _COMPRESSION, _PHOTOMETRIC, _PLANES, _SAMPLES, _EXTRA = 258, 259, 262, 284, 277, 338
_COLOUR_SAMPLES = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4}  # by the photometric interpretation


def value_bits(image: Image.Image, *, default: int) -> int:
    """Return the bits of a value of an image that was opened from a TIFF, or else `default`."""
    return max(getattr(image, "tag_v2", {}).get(_BITS, (default,)))


def has_separate_planes(image: Image.Image) -> bool:
    """Return whether an image is a TIFF that has the values of one channel after those of the other."""
    return getattr(image, "tag_v2", {}).get(_PLANES) == 2


def is_misread(image: Image.Image) -> bool:
    """Return whether an image is an uncompressed TIFF of 16 bits whose colours are in separate planes."""
    compressed = getattr(image, "tag_v2", {}).get(_COMPRESSION, 1) != 1
    return has_separate_planes(image) and not compressed and value_bits(image, default=1) > 8


def report_extra_samples(image: Image.Image, key: str) -> None:
    """Log how one channel of a TIFF more than its colours have is taken if the file does not say what it is."""
    tags = getattr(image, "tag_v2", {})
    kinds, samples = tags.get(_EXTRA), tags.get(_SAMPLES, 1)
    if kinds and kinds[0] == 0:
        taken = "is left out"
    elif not kinds and samples > _COLOUR_SAMPLES.get(tags.get(_PHOTOMETRIC), samples):
        taken = "is taken as transparency"
    else:
        return
    warn_once(
        ("extra samples", taken),
        f"{key}: this TIFF has a channel more than its colours need and does not say what it is (tag ExtraSamples); it "
        f"{taken}.",
    )
