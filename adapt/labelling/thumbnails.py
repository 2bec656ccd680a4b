"""Small pictures for the page, made at first sight and kept in files."""

from __future__ import annotations

import contextlib
import io
import pathlib

from adapt.labelling.pictures import PictureFolder
from foundation.files.atomic import atomic_file

FOLDER = ".thumbnails"
SIDE, LARGE_SIDE = 256, 1024  # pixels
_QUALITY = 75


class Thumbnails:
    """Pictures of a folder as WebP; those of `SIDE` pixels are kept in `out/.thumbnails`."""

    def __init__(self, pictures: PictureFolder, out: pathlib.Path):
        self._pictures, self._folder = pictures, out / FOLDER

    def small(self, number: int) -> bytes:
        """Return a picture of at most `SIDE` pixels; raises `BadRecord` or `OSError` if it cannot be read."""
        path = self._folder / f"{self._pictures.state(number)}-{SIDE}.webp"
        try:
            return path.read_bytes()
        except FileNotFoundError:
            encoded = self._encode(number, SIDE)
            with contextlib.suppress(OSError), atomic_file(path) as temporary:  # on a full disk, it is not kept
                temporary.write_bytes(encoded)
            return encoded

    def large(self, number: int) -> bytes:
        """Return a picture of at most `LARGE_SIDE` pixels, which is not kept; raises as `small` does."""
        return self._encode(number, LARGE_SIDE)

    def _encode(self, number: int, side: int) -> bytes:
        buffer = io.BytesIO()
        self._pictures.shrink(number, side).save(buffer, "webp", quality=_QUALITY)
        return buffer.getvalue()
