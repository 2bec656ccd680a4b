"""Image files in folders: one folder per class, `root/CLASS/IMAGE.jpg`, or any layout."""

from __future__ import annotations

import dataclasses
import errno
import os
import re

import numpy as np

from data.io.fingerprint import fingerprint
from data.io.storage import filesystem, is_remote, read_file, size_and_mtime
from data.sources.base import BadRecord, ContentDigest, Record
from data.sources.content import SAMPLES, evenly_spaced, record_digests

_HIDDEN = re.compile(r"(^|/)(\.|__MACOSX/)")
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff")


class ImageFiles:
    """A `Source` of all images in a folder and its subfolders, in the order of their paths, without texts.

    Raises `ValueError` if there are none.
    """

    def __init__(self, root: str):
        self._root = root.rstrip("/")
        names = sorted(self._list())
        if not names:
            raise ValueError(self._no_images())
        # An array of bytes uses a fraction of the memory of Python strings.
        self._names = np.array([name.encode("utf-8", "surrogateescape") for name in names], np.bytes_)
        self.fingerprint = fingerprint(self._names)

    def _list(self) -> list[str]:
        return _list_images(self._root)

    def _no_images(self) -> str:
        return f"{self._root} contains no images ({', '.join(SUFFIXES)})"

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Record:
        name = self._name(index)
        return Record(key=self.key(index), image=self._read(index), metadata={"path": readable(name)})

    def path(self, index: int) -> str:
        """Return the path of an image within the folder, as the file system has it (`os.fsdecode`)."""
        return self._name(index)

    def content_fingerprint(self) -> str | None:
        """Return a hash of the images' paths, sizes and modification times; None for remote folders."""
        if is_remote(self._root):
            return None
        paths = (os.path.join(self._root, self._name(index)) for index in range(len(self)))
        stats = np.array([size_and_mtime(path) for path in paths], np.int64)
        return fingerprint(self.fingerprint, stats)

    def content_digests(self) -> list[ContentDigest]:
        """Return digests of the images' paths within the folder, and of the content of some images."""
        names = ContentDigest(readable(self._root), self.fingerprint)
        return [names, *record_digests(self, evenly_spaced(len(self), SAMPLES))]

    def texts(self, index: int) -> tuple[str, ...]:
        """Return no texts."""
        return ()

    def key(self, index: int) -> str:
        """Return the path of an image within the folder, printable."""
        return readable(self._name(index))

    def _read(self, index: int) -> bytes:
        try:
            return read_file(f"{self._root}/{self._name(index)}")
        except FileNotFoundError as error:
            raise BadRecord("missing file", self.key(index), f"{error}") from error
        except PermissionError as error:
            raise BadRecord("no permission", self.key(index), f"{error}") from error
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            raise BadRecord("missing file", self.key(index), "its link leads back to itself") from error

    def _name(self, index: int) -> str:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        return bytes(self._names[index]).decode("utf-8", "surrogateescape")


class ClassFolders(ImageFiles):
    """A `Source` of images in one folder per class, in the order of their names.

    The text of an image is its class, with spaces for `_`. Class folders may have subfolders; other files are ignored.
    With `split`, only images in the folder of that name within each class folder are used.
    Raises `ValueError` if there are no class folders with images.
    """

    def __init__(self, root: str, split: str = ""):
        self._split = split
        super().__init__(root)
        self.class_names = sorted({self._name(index).partition("/")[0] for index in range(len(self))})

    def _list(self) -> list[str]:
        inside = [name for name in super()._list() if "/" in name]
        return [name for name in inside if name.split("/")[1:-1][:1] == [self._split]] if self._split else inside

    def _no_images(self) -> str:
        folder = f"{self._root}/CLASS/{self._split}".rstrip("/")
        return f"{self._root} contains no class folders with images. Expected {folder}/IMAGE.jpg."

    def __getitem__(self, index: int) -> Record:
        class_name = self._name(index).partition("/")[0]
        return dataclasses.replace(
            super().__getitem__(index),
            texts=self.texts(index),
            label=self.class_names.index(class_name),
            class_name=readable(class_name).strip(),
        )

    def texts(self, index: int) -> tuple[str, ...]:
        """Return the name of an image's class."""
        return (readable(self._name(index).partition("/")[0]).replace("_", " ").strip(),)

    def key(self, index: int) -> str:
        """Return `ROOT/CLASS/IMAGE`, with the last part of the root."""
        return readable(f"{self._root.rpartition('/')[2]}/{self._name(index)}")


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is ignored: a hidden one, or what macOS adds to archives."""
    return name.startswith(".") or name == "__MACOSX"


def is_folder_entry(entry: os.DirEntry) -> bool:
    """Return whether an entry is a folder, or a link to one; a link that leads back to itself is not."""
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def _list_images(root: str) -> list[str]:
    """Return the paths of all images within `root`."""
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
            inner_folders[:] = [name for name in inner_folders if real[name] not in seen]  # links can form cycles
            seen.update(real.values())
    return [name for name in found if name.lower().endswith(SUFFIXES) and not _HIDDEN.search(name)]


def readable(name: str) -> str:
    """Return a file name with invalid UTF-8 replaced, for messages and texts."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
