"""Pictures in folders: one folder a class, `root/class/picture.jpg`, or wherever they lie."""

from __future__ import annotations

import dataclasses
import os
import re

import numpy as np

from data.io.fingerprint import fingerprint
from data.io.storage import filesystem, is_remote, read_file
from data.sources.base import BadRecord, Record

_HIDDEN = re.compile(r"(^|/)(\.|__MACOSX/)")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff")


class ImageFiles:
    """All pictures in a folder and the folders in it, in the order of their names: a `Source` without texts.

    Raises `ValueError` where there are none.
    """

    def __init__(self, root: str):
        self._root = root.rstrip("/")
        names = sorted(self._list())
        if not names:
            raise ValueError(self._none())
        # One array of bytes takes a fraction of the memory that as many Python strings would.
        self._names = np.array([name.encode("utf-8", "surrogateescape") for name in names], np.bytes_)
        self.fingerprint = fingerprint(self._names)

    def _list(self) -> list[str]:
        return _list_pictures(self._root)

    def _none(self) -> str:
        return f"{self._root} holds no pictures ({', '.join(SUFFIXES)})"

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Record:
        name = self._name(index)
        return Record(key=self.key(index), image=self._read(index), metadata={"path": _readable(name)})

    def path(self, index: int) -> str:
        """Returns the path of a picture within the folder, as the file system has it (`os.fsdecode`)."""
        return self._name(index)

    def content_fingerprint(self) -> str | None:
        """Returns a hash that changes when a picture may have: of names, sizes and times; None but on local disks."""
        if is_remote(self._root):
            return None
        paths = (os.path.join(self._root, self._name(index)) for index in range(len(self)))
        stats = np.array([_size_and_time(path) for path in paths], np.int64)
        return fingerprint(self.fingerprint, stats)

    def texts(self, index: int) -> tuple[str, ...]:
        """Returns no text."""
        return ()

    def key(self, index: int) -> str:
        """Returns the path of a picture within the folder."""
        return _readable(self._name(index))

    def _read(self, index: int) -> bytes:
        try:
            return read_file(f"{self._root}/{self._name(index)}")
        except FileNotFoundError as error:
            raise BadRecord("missing file", self.key(index), f"{error}") from error
        except PermissionError as error:
            raise BadRecord("no permission", self.key(index), f"{error}") from error

    def _name(self, index: int) -> str:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        return bytes(self._names[index]).decode("utf-8", "surrogateescape")


class ClassFolders(ImageFiles):
    """One class a folder, in the order of their names: a `Source`. A picture's text is its class, `_` read as space.

    Pictures may lie deeper within the folder of their class; other files are passed over. Raises `ValueError` where
    there are no class folders with pictures.
    """

    def __init__(self, root: str):
        super().__init__(root)
        self.class_names = sorted({self._name(index).partition("/")[0] for index in range(len(self))})

    def _list(self) -> list[str]:
        return [name for name in super()._list() if "/" in name]

    def _none(self) -> str:
        return f"{self._root} holds no class folders with pictures: expected {self._root}/CLASS/PICTURE.jpg"

    def __getitem__(self, index: int) -> Record:
        class_name = self._name(index).partition("/")[0]
        return dataclasses.replace(
            super().__getitem__(index),
            texts=self.texts(index),
            label=self.class_names.index(class_name),
            class_name=_readable(class_name),
        )

    def texts(self, index: int) -> tuple[str, ...]:
        """Returns the name of a picture's class."""
        return (_readable(self._name(index).partition("/")[0]).replace("_", " "),)

    def key(self, index: int) -> str:
        """Returns `ROOT/CLASS/PICTURE`, of the root its last part."""
        return _readable(f"{self._root.rpartition('/')[2]}/{self._name(index)}")


def _list_pictures(root: str) -> list[str]:
    """Returns the paths within `root` of all pictures."""
    if is_remote(root):
        system, path = filesystem(root)
        found = [name[len(path.rstrip("/")) + 1 :] for name in system.find(path)]
    else:
        found = []
        seen = {os.path.realpath(root)}
        for folder, inner_folders, files in os.walk(root, followlinks=True):
            inner = os.path.relpath(folder, root).replace(os.sep, "/")
            found += files if inner == "." else [f"{inner}/{name}" for name in files]
            real = {name: os.path.realpath(os.path.join(folder, name)) for name in inner_folders}
            inner_folders[:] = [name for name in inner_folders if real[name] not in seen]  # links may lead in circles
            seen.update(real.values())
    return [name for name in found if name.lower().endswith(SUFFIXES) and not _HIDDEN.search(name)]


def _size_and_time(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError:  # gone or not to be reached: its row says so
        return -1, -1
    return status.st_size, status.st_mtime_ns


def _readable(name: str) -> str:
    """Returns a file name with what is not UTF-8 replaced, to be shown and to be a text."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
