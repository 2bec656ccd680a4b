"""Pictures in memory, as Pillow images, arrays, encoded bytes or paths."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from data.pipeline.image_ops import decode
from data.pipeline.opened_images import as_rgb
from data.pipeline.value_range import to_8_bits

_CHANNELS = (1, 3, 4)


def list_pictures(images: Iterable[Any]) -> list[Any]:
    """Return the pictures of a list, another iterable or an array `[images, height, width, channels]`.

    Raises `ValueError` for a single path or picture, whose characters or rows would be taken for pictures.
    """
    if isinstance(images, str | bytes | os.PathLike):
        raise ValueError(f"embed_images takes a list of images, not the single path {images!r}. Write [{images!r}].")
    if isinstance(images, Image.Image) or (hasattr(images, "shape") and len(images.shape) != 4):
        shape = list(getattr(images, "shape", images.size))
        raise ValueError(
            f"embed_images takes a list of images or an array [images, height, width, channels], not one image or "
            f"array of {shape}. Write [image]."
        )
    if isinstance(images, dict | set) or not isinstance(images, Iterable):
        raise ValueError(f"embed_images takes a list of images, not {type(images).__name__}")
    return list(images)


def list_texts(texts: Sequence[str]) -> list[str]:
    """Return a list of texts; raise `ValueError` for a single text, whose letters would be taken for texts."""
    if isinstance(texts, str | bytes):
        raise ValueError(f"embed_texts takes a list of texts, not the single text {texts!r}. Write [{texts!r}].")
    if isinstance(texts, dict | set) or not isinstance(texts, Iterable):
        raise ValueError(f"embed_texts takes a list of texts, not {type(texts).__name__}")
    texts = list(texts)
    wrong = next((number for number, text in enumerate(texts) if not isinstance(text, str)), None)
    if wrong is not None:
        raise ValueError(f"text {wrong} of the list is {texts[wrong]!r}, which is not a string")
    return [str(text) for text in texts]  # also of numpy.str_


def open_picture(picture: Any, number: int) -> Image.Image:
    """Return a picture as RGB, upright, transparency on white; `number` is its place in the list.

    Arrays are `[height, width]` or `[height, width, 1, 3 or 4]`: uint8, uint16, bool, or floats from 0 to 1. Raises
    `ValueError` for other arrays and objects, `OSError` for a path that cannot be read and `BadRecord` for a damaged
    image.
    """
    if isinstance(picture, str | os.PathLike):
        path = pathlib.Path(picture).expanduser()
        return decode(path.read_bytes(), str(path))
    if isinstance(picture, bytes):
        return decode(picture, f"image {number}")
    if isinstance(picture, Image.Image):
        return as_rgb(picture, f"image {number}")
    if hasattr(picture, "shape"):
        return as_rgb(_from_array(np.asarray(picture), number))
    raise ValueError(
        f"image {number} of the list is a {type(picture).__name__}. Pass Pillow images, arrays [height, width, 3], "
        "encoded bytes or paths."
    )


def _from_array(array: np.ndarray, number: int) -> Image.Image:
    """Return the image of an array of pixels."""
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] not in _CHANNELS) or not array.size:
        hint = " Move the channels to the last axis." if array.ndim == 3 and array.shape[0] in _CHANNELS else ""
        raise ValueError(
            f"image {number} of the list is an array of {list(array.shape)}; it must be [height, width] or [height, "
            f"width, channels] with 1, 3 or 4 channels.{hint}"
        )
    if array.dtype == bool:
        array = array * np.uint8(255)
    elif array.dtype == np.uint16:
        array = to_8_bits(array, f"image {number}")
    elif np.issubdtype(array.dtype, np.floating) and array.min() >= 0 and array.max() <= 1:  # false for NaN
        array = np.rint(array * 255).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise ValueError(
            f"image {number} of the list is an array of {array.dtype} from {array.min()} to {array.max()}. Convert it "
            "to uint8 from 0 to 255, or to floats from 0 to 1."
        )
    return Image.fromarray(np.ascontiguousarray(array[..., 0] if array.shape[2:] == (1,) else array))
