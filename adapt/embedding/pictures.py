"""Pictures in memory, as Pillow images, arrays, encoded bytes or paths."""

from __future__ import annotations

import os
import pathlib
import threading
from collections.abc import Iterable, Sequence
from typing import IO, Any

import numpy as np
from PIL import Image

from data.pipeline.image_ops import decode
from data.pipeline.opened_images import as_rgb
from data.pipeline.value_range import to_8_bits
from data.sources.base import BadRecord
from foundation.error_text import first_line
from models.text.tokenizer import is_valid_text

_CHANNELS = (1, 3, 4)
_PATH_KINDS = tuple("UTO")  # of arrays of strings and of objects
_one_file = threading.Lock()


def list_pictures(images: Iterable[Any]) -> list[Any]:
    """Return the pictures of a list, another iterable, or an array of paths or `[images, height, width, channels]`.

    Raises `ValueError` for a single path, file or picture, whose characters or rows would be taken for pictures.
    """
    single = _single_picture(images)
    if single:
        raise ValueError(f"embed_images takes a list of images, not {single}")
    if isinstance(images, dict | set) or not isinstance(images, Iterable):
        raise ValueError(f"embed_images takes a list of images, not {type(images).__name__}")
    return list(images)


def _single_picture(images: Any) -> str:
    """Return the description of a single picture, and how to write it as a list; empty for a list."""
    images = images.item() if getattr(images, "shape", None) == () and _has_paths(images) else images
    if isinstance(images, str | os.PathLike):
        return f"the single path {images!r}. Write [{images!r}]."
    if isinstance(images, bytes | bytearray | memoryview):
        return f"the {len(images):,} bytes of a single file. Write [image]."
    if hasattr(images, "read"):
        return f"the single file {getattr(images, 'name', type(images).__name__)!r}. Write [file]."
    if isinstance(images, Image.Image):
        return f"a single image of {images.width} × {images.height} pixels. Write [image]."
    shape = getattr(images, "shape", None)
    if shape is None or len(shape) == (1 if _has_paths(images) else 4):
        return ""
    return f"an array of {list(shape)}, unless it is [images, height, width, channels]. Write [image]."


def _has_paths(array: Any) -> bool:
    """Return whether an array has strings or objects instead of numbers."""
    return getattr(getattr(array, "dtype", None), "kind", None) in _PATH_KINDS


def list_texts(texts: Sequence[str]) -> list[str]:
    """Return a list of texts; raise `ValueError` for a single text, whose letters would be taken for texts."""
    if isinstance(texts, str | bytes) or getattr(texts, "shape", None) == ():
        text = texts if isinstance(texts, str | bytes) else texts.item()
        raise ValueError(f"embed_texts takes a list of texts, not the single text {text!r}. Write [{text!r}].")
    if isinstance(texts, dict | set) or not isinstance(texts, Iterable):
        raise ValueError(f"embed_texts takes a list of texts, not {type(texts).__name__}")
    texts = list(texts)
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"text {number} of the list is {text!r}, which is not a string")
        if not is_valid_text(text):
            raise ValueError(f"text {number} of the list, {text!r}, contains an unpaired surrogate. Remove it.")
    return [str(text) for text in texts]  # also of numpy.str_


def open_picture(picture: Any, number: int) -> Image.Image:
    """Return a picture as RGB, upright, transparency on white; `number` is its place in the list.

    Arrays are `[height, width]` or `[height, width, 1, 3 or 4]`: uint8, uint16, bool, or floats from 0 to 1. Raises
    `ValueError` for other arrays and objects, `OSError` for a path that cannot be read and `BadRecord` for a damaged
    image.
    """
    key = f"image {number}"
    if isinstance(picture, str | os.PathLike):
        path = pathlib.Path(picture).expanduser()
        try:
            return decode(path.read_bytes(), str(path))
        except BadRecord:
            raise
        except ValueError as error:  # a null character or an unpaired surrogate
            raise ValueError(f"{key}: {str(path)!r} cannot be a path ({error})") from error
    if isinstance(picture, bytes | bytearray | memoryview):
        return decode(bytes(picture), key)
    if isinstance(picture, Image.Image):
        return as_rgb(picture, key)
    if hasattr(picture, "read"):
        return decode(_read(picture), key)
    if hasattr(picture, "shape"):
        return as_rgb(_from_array(_as_numpy(picture, key), key), key)
    raise ValueError(
        f"{key} has the type {type(picture).__name__}. Pass Pillow images, arrays [height, width, 3], encoded bytes, "
        "open files or paths."
    )


def _read(file: IO[bytes]) -> bytes:
    """Return the content of an open file, which may be several times in a list."""
    with _one_file:
        file.seek(0)
        return file.read()


def _as_numpy(array: Any, key: str) -> np.ndarray:
    """Return an array of any library, such as a tensor that has a gradient or is on a device."""
    try:
        array = np.asarray(array.detach().cpu() if hasattr(array, "detach") else array)
    except Exception as error:  # of the library
        raise ValueError(f"{key} cannot be converted to a NumPy array ({first_line(error)})") from error
    if array.dtype.name == "bfloat16":
        return array.astype(np.float32)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _from_array(array: np.ndarray, key: str) -> Image.Image:
    """Return the image of an array of pixels."""
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] not in _CHANNELS) or not array.size:
        hint = " Move the channels to the last axis." if array.ndim == 3 and array.shape[0] in _CHANNELS else ""
        raise ValueError(
            f"{key} is an array of {list(array.shape)}; it must be [height, width] or [height, width, channels] with "
            f"1, 3 or 4 channels.{hint}"
        )
    if array.dtype == bool:
        array = array * np.uint8(255)
    elif array.dtype == np.uint16:
        array = to_8_bits(array, key)
    elif np.issubdtype(array.dtype, np.floating) and array.min() >= 0 and array.max() <= 1:  # false for NaN
        array = np.rint(array * 255).astype(np.uint8)
    elif array.dtype != np.uint8:
        extent = f" from {array.min()} to {array.max()}" if array.dtype.kind in "iuf" else ""
        raise ValueError(
            f"{key} is an array of {array.dtype}{extent}. Convert it to uint8 from 0 to 255, or to floats from 0 to 1."
        )
    return Image.fromarray(np.ascontiguousarray(array[..., 0] if array.shape[2:] == (1,) else array))
