"""Pictures in class folders: `root/class/picture.jpg`."""

from __future__ import annotations

import os
import re

import numpy as np

from data.fingerprint import fingerprint
from data.records import BadRecord, Record
from data.storage import filesystem, is_remote, read_file

_HIDDEN = re.compile(r"(^|/)(\.|__MACOSX/)")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff")


class ClassFolders:
    """One class a folder, in the order of their names: a `Source`. A picture's text is its class, `_` read as space.

    Pictures may lie deeper within the folder of their class; other files are passed over. Raises `ValueError` where
    there are no class folders with pictures.
    """

    def __init__(self, root: str):
        self._root = root.rstrip("/")
        names = sorted(_list_pictures(self._root))
        self.class_names = sorted({name.partition("/")[0] for name in names})
        if not names:
            raise ValueError(
                f"{root} holds no class folders with pictures: expected {root.rstrip('/')}/CLASS/PICTURE.jpg"
            )
        # One array of bytes takes a fraction of the memory that as many Python strings would.
        self._names = np.array([name.encode("utf-8", "surrogateescape") for name in names], np.bytes_)
        self.fingerprint = fingerprint(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Record:
        name = self._name(index)
        class_name = name.partition("/")[0]
        try:
            image = read_file(f"{self._root}/{name}")
        except FileNotFoundError as error:
            raise BadRecord("missing file", self.key(index), f"{error}") from error
        return Record(
            key=self.key(index),
            image=image,
            texts=self.texts(index),
            label=self.class_names.index(class_name),
            class_name=_readable(class_name),
            metadata={"path": _readable(name)},
        )

    def texts(self, index: int) -> tuple[str, ...]:
        """Returns the name of a picture's class."""
        return (_readable(self._name(index).partition("/")[0]).replace("_", " "),)

    def key(self, index: int) -> str:
        """Returns `ROOT/CLASS/PICTURE`, of the root its last part."""
        return _readable(f"{self._root.rpartition('/')[2]}/{self._name(index)}")

    def _name(self, index: int) -> str:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        return bytes(self._names[index]).decode("utf-8", "surrogateescape")


def _list_pictures(root: str) -> list[str]:
    """Returns the paths within `root`, `CLASS/…/PICTURE`, of all pictures."""
    if is_remote(root):
        system, path = filesystem(root)
        found = [name[len(path.rstrip("/")) + 1 :] for name in system.find(path)]
    else:
        found = []
        seen = {os.path.realpath(root)}
        for folder, inner_folders, files in os.walk(root, followlinks=True):
            inner = os.path.relpath(folder, root).replace(os.sep, "/")
            found += [f"{inner}/{name}" for name in files] if inner != "." else []
            real = {name: os.path.realpath(os.path.join(folder, name)) for name in inner_folders}
            inner_folders[:] = [name for name in inner_folders if real[name] not in seen]  # links may lead in circles
            seen.update(real.values())
    return [name for name in found if "/" in name and name.lower().endswith(SUFFIXES) and not _HIDDEN.search(name)]


def _readable(name: str) -> str:
    """Returns a file name with what is not UTF-8 replaced, to be shown and to be a text."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
