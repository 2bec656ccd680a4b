"""Tell the splits of a dataset from its classes in a folder of folders, and find the class folders."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from data.io.storage import filesystem, is_remote
from data.sources.image_folders import SUFFIXES, is_folder_entry, is_hidden, readable

_ROLES = {
    **dict.fromkeys(("train", "training", "trainval", "trn"), "train"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "eval", "evaluation"), "validation"),
}
_WORD = re.compile(rf"({'|'.join(_ROLES)})(set|split|data|images|imgs|img|dir|folder)?")
_NEUTRAL = {"set", "split", "data", "dataset", "images", "image", "imgs", "img"}
_CLASSES_TOO = {"train", "training", "valid"}  # a vehicle, an activity, a verdict
_CONTAINERS = {"images", "imgs", "img", "jpegimages", "annotations", "masks"}  # hardly the name of a class
_SHOWN = 5


class FolderLayout(NamedTuple):
    """The content of a folder: either `splits` in `root`, or class folders in `root`.

    splits: name of each split → the folder of its class folders or the pattern of its shards; None without either.
    roles: name of each split → "train", "validation" or "test".
    note: what was taken for classes, or left out, where that is not plain.
    """

    root: str
    splits: dict[str, str | None]
    roles: dict[str, str]
    note: str = ""

    def labelled(self, role: str) -> list[str]:
        """Return the splits of a role that have class folders or shards."""
        return [name for name, other in self.roles.items() if other == role and self.splits[name] is not None]


class TrainingFolder(NamedTuple):
    """The folder with the class folders, and `notes` for the user where it is not the one that was named."""

    path: str
    notes: tuple[str, ...]


def split_roles(names: Iterable[str]) -> dict[str, str]:
    """Return the role of each name of a split: "train", "validation" or "test"; other names are left out.

    Recognised are the usual words in any case, such as `Training`, `valid` or `TEST`, alone or with a neutral word or a
    year (`train_images`, `val2017`), and with another word if two names share it (`cars_train`, `cars_test`).
    """
    parsed = {name: found for name in names if (found := _parse(name))}
    shared: dict[tuple, set[str]] = {}
    for role, rest in parsed.values():
        shared.setdefault(rest, set()).add(role)
    return {name: role for name, (role, rest) in parsed.items() if not rest or len(shared[rest]) > 1}


def _parse(name: str) -> tuple[str, tuple[str, ...]] | None:
    """Return the role in a name and the other words, or None."""
    separated = re.sub("(?<=[a-z])(?=[A-Z])", "_", name)  # carsTrain
    words = re.findall(r"[^\W\d_]+|\d+", separated.casefold())
    matches = {word: match for word in words if (match := _WORD.fullmatch(word))}
    roles = {_ROLES[match[1]] for match in matches.values()}
    rest = tuple(
        word
        for word in words
        if word not in matches and word not in _NEUTRAL and not re.fullmatch("[12][0-9]{3}", word)
    )
    if not roles or (len(roles) > 1 and roles != {"train", "validation"}):
        return None
    return "train" if "train" in roles else roles.pop(), rest


def find_layout(root: str) -> FolderLayout:
    """Return the splits in a folder, or the folder of its class folders, which may lie deeper (`root/images/CLASS`).

    Raises `ValueError` where folders can be splits or classes.
    """
    root = root.rstrip("/") or root
    names = _subfolders(root)
    roles = {name: role for name, role in split_roles(names).items() if _has_content(f"{root}/{name}")}
    if not roles:
        return _without_splits(root, names)
    others = [name for name in names if name not in roles and _has_images(f"{root}/{name}")]
    splits = {name: _shards(f"{root}/{name}") or _class_root(f"{root}/{name}") for name in roles}
    nested = any(source is not None for source in splits.values())
    if not others and not nested:
        raise ValueError(
            f"{root} has the splits {_listed(roles)}, but their images are not in class folders, so they have neither "
            "labels nor captions. Sort the images into one folder per class."
        )
    if not others or (nested and len(set(roles.values())) > 1):
        unused = f"{root}: {_listed(others)} next to the splits {_listed(roles)} is not used" if others else ""
        return FolderLayout(root, splits, roles, unused)
    if not nested and len(roles) == 1 and next(iter(roles)).casefold() in _CLASSES_TOO:
        return FolderLayout(
            root, {}, {}, f"{root}: {_listed(roles)} is taken for a class, as the folders next to it are"
        )
    raise ValueError(
        f"{root} has folders that are named like splits ({_listed(roles)}) next to others ({_listed(others)}). Give "
        "the folder of one split, or rename the folders that are classes."
    )


def find_splits(root: str) -> dict[str, str]:
    """Return the folders in `root` that have images or shards, whatever their names, with the source of each."""
    paths = {name: f"{root}/{name}" for name in _subfolders(root)}
    return {name: _shards(path) or as_source(path) for name, path in paths.items() if _has_content(path)}


def as_source(folder: str) -> str:
    """Return the name of a folder as a source: that of a remote one ends in a slash."""
    return f"{folder.rstrip('/')}/" if is_remote(folder) else folder


def splits_with_images(root: str) -> list[str]:
    """Return the folders in `root` that are named like splits and have images."""
    return list(_with_images(root, list(split_roles(_subfolders(root)))))


def training_folder(root: str) -> TrainingFolder:
    """Return the folder with the class folders for training: `root`, one below it, or that of its training split.

    Raises `ValueError` where there are splits but not exactly one training split with classes.
    """
    layout = find_layout(root)
    if not layout.splits:
        deeper = f"{root}: the class folders are in {layout.root}" if layout.root != root.rstrip("/") else ""
        return TrainingFolder(layout.root, tuple(filter(None, (layout.note, deeper))))
    names = layout.labelled("train") if len(layout.splits) > 1 else list(layout.splits)
    source = layout.splits[names[0]] if len(names) == 1 else None
    if source is None or source.endswith(".tar"):
        raise ValueError(
            f"{layout.root} has the splits {_listed(layout.splits)}, and not exactly one for training that has class "
            "folders. Give the folder or the shards of one split."
        )
    rest = [name for name in layout.splits if name not in names]
    taken = f"{layout.root}: images from the split {names[0]}" + (f", none from {_listed(rest)}" if rest else "")
    inner = training_folder(source)
    return TrainingFolder(inner.path, (taken, *filter(None, [layout.note]), *inner.notes))


def _without_splits(root: str, names: Sequence[str]) -> FolderLayout:
    """Return the layout of a folder without splits: its only folder may contain them or the classes."""
    containers = [name for name in names if name.casefold() in _CONTAINERS and _has_images(f"{root}/{name}")]
    first = _first(_with_images(root, names))
    if len(first) == 1:
        inner = find_layout(f"{root}/{first[0]}")
        several = len(_first(_with_images(inner.root, _subfolders(inner.root)))) > 1
        return inner if inner.splits or several else FolderLayout(root, {}, {})
    if containers:
        others = [name for name in names if name not in containers and _has_images(f"{root}/{name}")]
        raise ValueError(
            f"{root} has images in {_listed(containers)}{' and in ' if others else ''}{_listed(others)}, which does "
            f"not look like one folder per class. Give the folder with the class folders."
        )
    inner_names = [set(_subfolders(f"{root}/{name}")) for name in first if not _has_own_images(f"{root}/{name}")]
    shared = set.intersection(*inner_names) if len(inner_names) > 1 else set()
    note = f"{root}: {_listed(first)}, … are taken for the classes, not the folders in them ({_listed(sorted(shared))})"
    return FolderLayout(root, {}, {}, note if len(shared) > 1 else "")


def _class_root(split: str) -> str | None:
    """Return the folder of the class folders in a split, or None if its images are not in folders."""
    layout = find_layout(split)
    if len(layout.splits) > 1:
        raise ValueError(f"{split} has the splits {_listed(layout.splits)} inside of a split. Give the folder of one.")
    if layout.splits:
        return next(iter(layout.splits.values()))
    return as_source(layout.root) if _first(_with_images(layout.root, _subfolders(layout.root))) else None


def _first(found: Iterable[str]) -> list[str]:
    """Return up to two items, to tell one from several."""
    return [name for name, _ in zip(found, range(2), strict=False)]


def _with_images(root: str, names: Sequence[str]) -> Iterator[str]:
    return (name for name in names if _has_images(f"{root}/{name}"))


def _has_content(path: str) -> bool:
    return _shards(path) is not None or _has_images(path)


def _shards(path: str) -> str | None:
    """Return the pattern of the shards in a folder, or None."""
    return f"{path}/*.tar" if any(name.endswith(".tar") for name in _list(path)[1]) else None


def _has_images(path: str) -> bool:
    """Return whether there is an image in a folder or below; stops at the first one."""
    return _has_own_images(path) or any(_has_images(f"{path}/{name}") for name in _subfolders(path))


def _has_own_images(path: str) -> bool:
    return any(name.lower().endswith(SUFFIXES) for name in _list(path)[1])


def _subfolders(path: str) -> list[str]:
    return _list(path)[0]


def _list(path: str) -> tuple[list[str], list[str]]:
    """Return the sorted names of the folders and files in a folder, without hidden ones and links to parents."""
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


def _listed(names: Iterable[str]) -> str:
    names = [readable(name) for name in names]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
