"""Pictures that a list names one by one, each with its class."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from data.io.fingerprint import fingerprint
from data.io.storage import is_remote, read_file
from data.sources.base import BadRecord, Record


class ListedImage(NamedTuple):
    """A picture's path within the folder of the list, and the number of its class."""

    path: str
    label: int


class ImageList:
    """Pictures in the order of a list: a `Source`. A picture's text is its class, `_` read as space.

    The pictures are looked for when they are read: one that is not there is a `BadRecord`. `class_names` are in the
    order of the class numbers, those of all splits of the set.
    """

    def __init__(self, folder: str, pictures: Sequence[ListedImage], class_names: Sequence[str]):
        self._folder, self._pictures = folder.rstrip("/"), tuple(pictures)
        self.class_names = list(class_names)
        self.fingerprint = fingerprint(json.dumps([self._pictures, self.class_names]))

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int) -> Record:
        path, label = self._at(index)
        try:
            image = read_file(self._path(path))
        except FileNotFoundError as error:
            raise BadRecord("missing file", self.key(index), f"{self._path(path)} is not there") from error
        except PermissionError as error:
            raise BadRecord("no permission", self.key(index), f"{error}") from error
        return Record(
            key=self.key(index),
            image=image,
            texts=self.texts(index),
            label=label,
            class_name=self.class_names[label],
            metadata={"path": path},
        )

    def texts(self, index: int) -> tuple[str, ...]:
        """Returns the name of a picture's class."""
        return (self.class_names[self._at(index).label].replace("_", " "),)

    def key(self, index: int) -> str:
        """Returns `FOLDER/PATH`, of the folder its last part."""
        return f"{self._folder.rpartition('/')[2]}/{self._at(index).path}"

    def content_fingerprint(self) -> str | None:
        """Returns a hash that changes when a picture may have: of names, sizes and times; None but on local disks."""
        if is_remote(self._folder):
            return None
        stats = np.array([_size_and_time(self._path(path)) for path, _ in self._pictures], np.int64)
        return fingerprint(self.fingerprint, stats)

    def _at(self, index: int) -> ListedImage:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        return self._pictures[index]

    def _path(self, path: str) -> str:
        return f"{self._folder}/{path}"


def _size_and_time(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError:  # its row says so, and reading it tells why
        return -1, -1
    return status.st_size, status.st_mtime_ns
