"""Thumbnails of images: in the page itself, or in files next to it, which a browser loads when they are scrolled to."""

from __future__ import annotations

import functools
import os
import pathlib
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

from data.io.fingerprint import fingerprint
from data.pipeline.image_ops import EncodedImage
from data.pipeline.thumbnails import data_uri
from data.sources.base import BadRecord
from foundation.files.atomic import atomic_file

FOLDER = ".thumbnails"  # hidden, so that it is never taken for images to classify
_SIDE = 224  # pixels of a file: at most 112 CSS pixels, on screens with two device pixels for each
_QUALITY = 72
_OWN = re.compile(r"[0-9a-f]{16}\.webp")
_MISSING_IMAGE = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="


def write_thumbnails(
    root: str, paths: Sequence[str], out: pathlib.Path, *, progress: Callable[[str, int, int], None]
) -> list[str]:
    """Write a thumbnail of each image of a folder, unless an earlier run has, and return their URLs within `out`.

    The URL of an image that cannot be read is that of a transparent one. Thumbnails of other images are removed.
    """
    folder = out / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    found = set(os.listdir(folder))
    full = [os.path.join(root, path) for path in paths]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        urls = []
        for url in pool.map(lambda path: _write_thumbnail(path, folder, found), full):
            urls.append(url)
            progress("thumbnails", len(urls), len(full))
    for name in found - {url.rpartition("/")[2] for url in urls}:
        if _OWN.fullmatch(name):
            (folder / name).unlink(missing_ok=True)
    return urls


def _write_thumbnail(path: str, folder: pathlib.Path, found: set[str]) -> str:
    try:
        state = os.stat(path)
        name = fingerprint(os.fsencode(os.path.abspath(path)), f"{state.st_size} {state.st_mtime_ns} {_SIDE}") + ".webp"
        if name not in found:
            picture = _read(path, _SIDE)
            with atomic_file(folder / name) as temporary:
                picture.save(temporary, "webp", quality=_QUALITY)
    except (OSError, BadRecord):
        return _MISSING_IMAGE
    return f"{FOLDER}/{name}"


@functools.lru_cache(maxsize=1024)
def embedded_thumbnail(path: str, pixels: int) -> str:
    """Return an image as a data URI, at most `pixels` wide and high; a transparent one if the file has vanished."""
    size = 2 * pixels  # for screens with two device pixels per CSS pixel
    try:
        return data_uri(_read(path, size), size, quality=75)
    except (OSError, BadRecord):
        return _MISSING_IMAGE


def _read(path: str, size: int) -> Image.Image:
    with open(path, "rb") as file:
        picture = EncodedImage(file.read(), path).decode((size, size))
    picture.thumbnail((size, size))
    return picture
