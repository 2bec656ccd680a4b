"""Images listed one by one with their classes, as in published split lists."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from data.io.fingerprint import fingerprint
from data.io.storage import is_remote, read_file, size_and_mtime
from data.sources.base import BadRecord, ContentDigest, Record
from data.sources.content import SAMPLES, evenly_spaced, record_digests


class ListedImage(NamedTuple):
    """The path of an image within the folder of the list, and its class label."""

    path: str
    label: int


class ImageList:
    """A `Source` of images in the order of a list. The text of an image is its class, with spaces for `_`.

    Images are not looked up before they are read; a missing one is a `BadRecord`. `class_names` lists the classes of
    all splits in the order of their labels.
    """

    def __init__(self, folder: str, images: Sequence[ListedImage], *, class_names: Sequence[str]):
        self._folder, self._images = folder.rstrip("/"), tuple(images)
        self.class_names = list(class_names)
        self.fingerprint = fingerprint(json.dumps([self._images, self.class_names]))

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Record:
        path, label = self._listed(index)
        try:
            image = read_file(self._path(path))
        except FileNotFoundError as error:
            raise BadRecord("missing file", self.key(index), f"{self._path(path)} does not exist") from error
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
        """Return the name of an image's class."""
        return (self.class_names[self._listed(index).label].replace("_", " "),)

    def key(self, index: int) -> str:
        """Return `FOLDER/PATH`, with the last part of the folder."""
        return f"{self._folder.rpartition('/')[2]}/{self._listed(index).path}"

    def content_fingerprint(self) -> str | None:
        """Return a hash of the images' paths, sizes and modification times; None for remote folders."""
        if is_remote(self._folder):
            return None
        stats = np.array([size_and_mtime(self._path(path)) for path, _ in self._images], np.int64)
        return fingerprint(self.fingerprint, stats)

    def content_digests(self) -> list[ContentDigest]:
        """Return digests of the list, and of the content of some images."""
        return [ContentDigest("the list", self.fingerprint), *record_digests(self, evenly_spaced(len(self), SAMPLES))]

    def _listed(self, index: int) -> ListedImage:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        return self._images[index]

    def _path(self, path: str) -> str:
        return f"{self._folder}/{path}"
