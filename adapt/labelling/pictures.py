"""The pictures of a folder, numbered in the order of their paths."""

from __future__ import annotations

import os
import pathlib

import numpy as np
from PIL import Image

from adapt.photos.folders import readable
from data.io.fingerprint import fingerprint
from data.pipeline.image_ops import EncodedImage, decode
from data.sources.image_folders import ImageFiles

_ORDER_SEED = 0
_HASHED_BYTES = 65536


class PictureFolder:
    """All image files in a folder, at any depth; some may turn out to be damaged.

    `root` is the folder and `names[number]` the path of a picture within it, as text. Raises `ValueError` if there are
    no pictures, or two that have the same name as text.
    """

    def __init__(self, root: str):
        self._files = ImageFiles(root)
        self.root = os.path.abspath(root)
        self.names = [readable(self._files.path(number)) for number in range(len(self._files))]
        self._numbers = {name: number for number, name in enumerate(self.names)}
        if len(self._numbers) < len(self.names):
            name = next(name for number, name in enumerate(self.names) if self._numbers[name] != number)
            raise ValueError(f"two files of {root} are named {name!r} once bytes are escaped. Rename one of them.")

    def __len__(self) -> int:
        return len(self.names)

    def number(self, name: str) -> int | None:
        """Return the number of a picture, or None if the folder no longer has it."""
        return self._numbers.get(name)

    def file(self, number: int) -> str:
        """Return the absolute path of a picture's file."""
        return os.path.join(self.root, self.path(number))

    def path(self, number: int) -> str:
        """Return the path of a picture within the folder, as the file system has it."""
        return self._files.path(number)

    def open(self, number: int) -> Image.Image:
        """Return a picture as RGB; raises `BadRecord` if it cannot be read."""
        record = self._files[number]
        return decode(record.image, record.key)

    def shrink(self, number: int, side: int) -> Image.Image:
        """Return a picture of at most `side` pixels; raises `BadRecord` or `OSError` if it cannot be read."""
        file = pathlib.Path(self.file(number))
        picture = EncodedImage(file.read_bytes(), self.names[number]).decode((side, side))
        picture.thumbnail((side, side))
        return picture

    def state(self, number: int) -> str:
        """Return a hash of path, size and modification time, or of the path of a file that has vanished."""
        path = self.file(number)
        try:
            found = os.stat(path)
        except OSError:
            return fingerprint(os.fsencode(path))
        return fingerprint(os.fsencode(path), f"{found.st_size} {found.st_mtime_ns}")

    def content(self, number: int) -> str:
        """Return a hash of the size and the beginning of a picture's file; raises `OSError` if it has vanished."""
        with open(self.file(number), "rb") as file:
            return fingerprint(f"{os.fstat(file.fileno()).st_size}", file.read(_HASHED_BYTES))

    def shuffled(self) -> np.ndarray:
        """Return the numbers in a fixed random order, so that the first pictures stand for all."""
        return np.random.default_rng(_ORDER_SEED).permutation(len(self))
