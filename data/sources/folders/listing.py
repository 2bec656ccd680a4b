"""List folders, local or remote: their folders, images and shards."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence

from data.io.storage import filesystem, is_remote
from data.sources.image_folders import SUFFIXES, is_folder_entry, is_hidden, readable

_SHOWN = 5


def with_images(root: str, names: Sequence[str]) -> Iterator[str]:
    """Yield those of the folders `names` in `root` that have images, in them or below."""
    return (name for name in names if has_images(f"{root}/{name}"))


def has_content(path: str) -> bool:
    """Return whether a folder has shards, or images in it or below."""
    return shards(path) is not None or has_images(path)


def shards(path: str) -> str | None:
    """Return the pattern of the shards in a folder, or None."""
    return f"{path}/*.tar" if any(name.endswith(".tar") for name in files(path)) else None


def has_images(path: str) -> bool:
    """Return whether there is an image in a folder or below; stops at the first one."""
    return has_own_images(path) or any(has_images(f"{path}/{name}") for name in subfolders(path))


def has_own_images(path: str) -> bool:
    """Return whether there is an image directly in a folder."""
    return any(name.lower().endswith(SUFFIXES) for name in files(path))


def subfolders(path: str) -> list[str]:
    """Return the sorted names of the folders in a folder, without hidden ones and links to parents."""
    return _list(path)[0]


def files(path: str) -> list[str]:
    """Return the sorted names of the files in a folder, without hidden ones."""
    return _list(path)[1]


def as_source(folder: str) -> str:
    """Return the name of a folder as a source: that of a remote one ends in a slash."""
    return f"{folder.rstrip('/')}/" if is_remote(folder) else folder


def first_two(found: Iterable[str]) -> list[str]:
    """Return up to two items, to tell one from several."""
    return [name for name, _ in zip(found, range(2), strict=False)]


def listed(names: Iterable[str]) -> str:
    """Return names for a message: the first ones, and how many there are more."""
    names = [readable(name) for name in names]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _list(path: str) -> tuple[list[str], list[str]]:
    if is_remote(path):
        system, inner = filesystem(path.rstrip("/"))
        entries = [
            (each["name"].rstrip("/").rpartition("/")[2], each["type"] == "directory")
            for each in system.ls(inner, detail=True)
        ]
    else:
        real = os.path.join(os.path.realpath(path), "")
        with os.scandir(path) as found:
            entries = [
                (entry.name, is_folder_entry(entry))
                for entry in found
                if not entry.is_symlink() or not real.startswith(os.path.join(os.path.realpath(entry.path), ""))
            ]
    visible = sorted(entry for entry in entries if entry[0] and not is_hidden(entry[0]))
    return [name for name, folder in visible if folder], [name for name, folder in visible if not folder]
