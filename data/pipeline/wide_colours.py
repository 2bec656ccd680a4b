"""Colours of 16 bits in PNG and TIFF; Pillow keeps only their high bytes."""

from __future__ import annotations

import io
import sys

import numpy as np
from PIL import Image

from data.pipeline.value_range import to_8_bits

# Each layout's counterpart in the other byte order has the low bytes.
_OTHER_ORDER = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
_PREMULTIPLIED, _GRAY_WITH_ALPHA = "RGBa", "LA"
_CHANNELS = ("RGB", "RGBX", "RGBA", _PREMULTIPLIED, "CMYK", _GRAY_WITH_ALPHA)
_LAYOUTS = tuple(f"{channels};16{order}" for channels in _CHANNELS for order in _OTHER_ORDER)
DARK = 16  # what the high bytes of values of 12 bits stay below


def raw_mode(image: Image.Image) -> str:
    """Return Pillow's name of the layout of an undecoded image's pixels."""
    arguments = image.tile[0].args if image.tile else ""
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def needs_low_bytes(image: Image.Image, layout: str) -> bool:
    """Return whether the high bytes, the pixels of a decoded `image` with `layout`, lack what its file says.

    They do if they are dark, as are values of 12 bits; if a value is transparent; and if colours were multiplied by the
    alpha.
    """
    if layout not in _LAYOUTS:
        return False
    if layout.startswith(_PREMULTIPLIED) or "transparency" in image.info:
        return True
    return is_dark(image)


def is_dark(image: Image.Image) -> bool:
    """Return whether all colours of an image of several channels, but not its alpha, are below 16."""
    colours = len(image.getbands()) - image.mode.endswith(("A", "a"))
    if max(image.getpixel((image.width // 2, image.height // 2))[:colours]) >= DARK:  # most images, without a search
        return False
    return max(high for _, high in image.getextrema()[:colours]) < DARK


def read_wide_colours(encoded: bytes, layout: str, key: str, *, transparent: tuple[int, ...] | None) -> Image.Image:
    """Return an image with `layout` in 8 bits; its range follows from its values, as `to_8_bits` finds it.

    `transparent` is the colour of the file, in its own values, that is transparent.
    """
    channels, values = layout.partition(";")[0], _read(encoded, layout)
    if channels == "CMYK":
        return Image.fromarray(to_8_bits(values, key), "CMYK")
    colours, alpha = np.split(values, [1 if channels == _GRAY_WITH_ALPHA else 3], axis=-1)
    if transparent is not None:
        alpha = np.where((colours == transparent).all(axis=-1, keepdims=True), 0, 65535)
    if channels == _PREMULTIPLIED:
        colours = _divide(colours, alpha)
    alpha = np.rint(alpha * (255 / _top(alpha))).astype(np.uint8)
    return Image.fromarray(np.concatenate([to_8_bits(colours, key), alpha], axis=-1))


def _read(encoded: bytes, layout: str) -> np.ndarray:
    """Return the values `[height, width, channels]` uint16 of an image with `layout`, as they are stored."""
    channels, order = layout[: layout.index(";")], layout[-1]
    if channels == _GRAY_WITH_ALPHA:  # two values of two bytes, read as four channels of one byte
        return np.ascontiguousarray(_load(encoded, "RGBA")).view(">u2").astype(np.uint16)
    stored = "RGBA" if channels == _PREMULTIPLIED else channels
    high, low = (_load(encoded, f"{stored};16{each}") for each in (order, _OTHER_ORDER[order]))
    return high.astype(np.uint16) << 8 | low


def _load(encoded: bytes, layout: str) -> np.ndarray:
    """Return the pixels of a file as if it had `layout`."""
    image = Image.open(io.BytesIO(encoded), formats=("PNG", "TIFF"))
    image.tile = [
        tile._replace(args=layout if isinstance(tile.args, str) else (layout, *tile.args[1:])) for tile in image.tile
    ]
    return np.asarray(image)


def _divide(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Return colours that were multiplied by the alpha as they were before; black where nothing is seen."""
    top = max(_top(colours), _top(alpha))
    return np.rint(np.minimum(colours * (top / np.maximum(alpha, 1)), top)).astype(np.uint16)


def _top(values: np.ndarray) -> int:
    """Return the largest value of 8, 12 or 16 bits, whichever is the first to hold all values."""
    return next(top for top in (255, 4095, 65535) if values.max(initial=0) <= top)
