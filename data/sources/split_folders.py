"""Tell the splits of a dataset from its classes in a folder of folders, and find the class folders."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from data.io.storage import filesystem, is_remote
from data.sources.folders.levels import check_classes, find_class_first, shared_classes
from data.sources.folders.listing import (
    as_source,
    files,
    first_two,
    has_content,
    has_images,
    listed,
    shards,
    subfolders,
    with_images,
)
from data.sources.folders.split_names import CLASSES_TOO, possible_roles, shard_splits, split_roles

logger = logging.getLogger(__name__)

_CONTAINERS = {"images", "imgs", "img", "jpegimages", "annotations", "masks"}  # hardly the name of a class


class FolderLayout(NamedTuple):
    """The content of a folder: either `splits` in `root`, or class folders in `root`.

    splits: name of each split → the folder of its class folders or the pattern of its shards; None without either.
    roles: name of each split → "train", "validation" or "test".
    note: what was taken for classes, or left out, where that is not plain.
    doubt: a warning where other folders may be the classes.
    """

    root: str
    splits: dict[str, str | None]
    roles: dict[str, str]
    note: str = ""
    doubt: str = ""

    def labelled(self, role: str) -> list[str]:
        """Return the splits of a role that have class folders or shards."""
        return [name for name, other in self.roles.items() if other == role and self.splits[name] is not None]


class TrainingFolder(NamedTuple):
    """The folder with the class folders, `notes` where it is not the one that was named, and a `doubt` as a warning.

    split: the folder within each class folder that has its images, or empty if all belong to the class.
    """

    path: str
    notes: tuple[str, ...]
    split: str = ""
    doubt: str = ""

    def log(self) -> None:
        """Log notes and doubt."""
        for note in self.notes:
            logger.info(note)
        if self.doubt:
            logger.warning(self.doubt)


def find_layout(root: str) -> FolderLayout:
    """Return the splits in a folder, or the folder of its class folders, which may lie deeper (`root/images/CLASS`).

    Splits in the class folders (`root/CLASS/train/1.jpg`) have the pattern `root/*/train` as their folder. Raises
    `ValueError` where folders can be splits or classes.
    """
    root = root.rstrip("/") or root
    names = subfolders(root)
    roles = {name: role for name, role in split_roles(names).items() if has_content(f"{root}/{name}")}
    if len(set(roles.values())) < 2:
        roles = _roles_by_content(root, names) or roles
    if not roles:
        return _without_splits(root, names)
    others = [name for name in names if name not in roles and has_images(f"{root}/{name}")]
    splits = {name: shards(f"{root}/{name}") or _class_root(f"{root}/{name}") for name in roles}
    nested = any(source is not None for source in splits.values())
    if not others and not nested:
        raise ValueError(
            f"{root} has the splits {listed(roles)}, but their images are not in class folders, so they have neither "
            f"labels nor captions. Sort the images into one folder per class. If they are the classes, give {root}/*."
        )
    if not others or (nested and len(set(roles.values())) > 1):
        unused = f"{root}: {listed(others)} next to the splits {listed(roles)} is not used" if others else ""
        return FolderLayout(root, splits, roles, unused)
    if not nested and len(roles) == 1 and next(iter(roles)).casefold() in CLASSES_TOO:
        return FolderLayout(
            root, {}, {}, f"{root}: {listed(roles)} is taken for a class, as the folders next to it are"
        )
    raise ValueError(
        f"{root} has folders that are named like splits ({listed(roles)}) next to others ({listed(others)}). Give the "
        f"folder of one split, or, if all are classes, {root}/*."
    )


def _roles_by_content(root: str, names: Sequence[str]) -> dict[str, str]:
    """Return the roles of folders such as `train_v1` and `test_v2`, or none.

    They are splits if there are no folders with other names, or if they have class folders in common.
    """
    possible = possible_roles(names)
    if len(set(possible.values())) < 2:
        return {}
    roles = {name: role for name, role in possible.items() if has_content(f"{root}/{name}")}
    others = with_images(root, [name for name in names if name not in roles])
    if len(set(roles.values())) < 2 or (first_two(others) and not shared_classes(root, list(roles))):
        return {}
    return roles


def find_splits(root: str, wanted: Iterable[str]) -> dict[str, str]:
    """Return the folders in `root` that have images or shards, whatever their names, with the source of each.

    If some of `wanted` are not among them, splits in the class folders are included (`root/*/train`).
    """
    root = root.rstrip("/") or root
    names = subfolders(root)
    paths = {name: f"{root}/{name}" for name in names}
    found = {name: shards(path) or as_source(path) for name, path in paths.items() if has_content(path)}
    if set(wanted) <= found.keys():
        return found
    return {split: f"{root}/*/{split}" for split in find_class_first(root, names)} | found


def splits_with_images(root: str) -> list[str]:
    """Return the folders in `root` that are named like splits and have images."""
    return list(with_images(root, list(split_roles(subfolders(root)))))


def training_folder(root: str) -> TrainingFolder:
    """Return the folder with the class folders for training: `root`, one below it, or that of its training split.

    `root` may also be a pattern, see `class_pattern`. Raises `ValueError` where there are splits but not exactly one
    training split with classes, and if it consists of shards.
    """
    found = training_source(root)
    if found.path.endswith(".tar"):
        raise ValueError(f"{root} has shards ({found.path}), not folders. Give a folder with one folder per class.")
    return found


def training_source(root: str) -> TrainingFolder:
    """Return the same as `training_folder`, or the pattern of the shards of the training split as path."""
    pattern = class_pattern(root)
    if pattern is not None:
        return pattern
    own = own_shards(root)
    if own is not None:
        return own
    layout = find_layout(root)
    if not layout.splits:
        deeper = f"{root}: the class folders are in {layout.root}" if layout.root != root.rstrip("/") else ""
        return TrainingFolder(layout.root, tuple(filter(None, (layout.note, deeper))), doubt=layout.doubt)
    names = layout.labelled("train") if len(layout.splits) > 1 else list(layout.splits)
    source = layout.splits[names[0]] if len(names) == 1 else None
    if source is None:
        raise ValueError(
            f"{layout.root} has the splits {listed(layout.splits)}, and not exactly one for training that has class "
            f"folders or shards. Give one of them, such as {_any_source(layout)}."
        )
    rest = [name for name in layout.splits if name not in names]
    what = "shards" if source.endswith(".tar") else "images"
    taken = f"{layout.root}: {what} from the split {names[0]}" + (f", none from {listed(rest)}" if rest else "")
    notes = (taken, *filter(None, [layout.note]))
    if source.endswith(".tar"):
        return TrainingFolder(source, notes)
    inner = training_source(source)
    return inner._replace(notes=(*notes, *inner.notes))


def class_pattern(name: str) -> TrainingFolder | None:
    """Return the class folders of a pattern: all of `ROOT/*`, or a split within each, `ROOT/*/train`; None for others.

    The folders that match `*` are the classes, whatever their names are and whatever folders are in them.
    """
    root, star, split = name.rstrip("/").rpartition("/*")
    if not star or "*" in root or split.count("/") != (1 if split else 0) or "*" in split or split.endswith(".tar"):
        return None
    split = split.removeprefix("/")
    if not _is_folder(root) or not (split or not files(root)):
        return None
    found = any(not split or _is_folder(f"{root}/{each}/{split}") for each in subfolders(root))
    notes = () if split else (f"{root}: {listed(with_images(root, subfolders(root)))} are taken for the classes",)
    return TrainingFolder(root, notes, split) if found else None


def own_shards(root: str) -> TrainingFolder | None:
    """Return the pattern of the shards that lie directly in a folder without images, of one split if there are several.

    Raises `ValueError` if there are several splits but not exactly one for training.
    """
    root = root.rstrip("/") or root
    names = [name for name in files(root) if name.endswith(".tar")]
    if not names or any(has_content(f"{root}/{name}") for name in subfolders(root)):
        return None
    splits = shard_splits(names)
    roles = split_roles(splits)
    if len(set(roles.values())) < 2:
        return TrainingFolder(f"{root}/*.tar", ())
    training = [name for name, role in roles.items() if role == "train"]
    if len(training) != 1:
        raise ValueError(
            f"{root} has shards of {listed(splits)}, and not exactly one split for training. Give the shards of one, "
            f"such as {root}/{splits[next(iter(splits))]}."
        )
    rest = [name for name in splits if name != training[0]]
    note = f"{root}: shards from the split {training[0]}, none from {listed(rest)}"
    return TrainingFolder(f"{root}/{splits[training[0]]}", (note,))


def _is_folder(path: str) -> bool:
    if is_remote(path):
        system, inner = filesystem(path)
        return bool(system.isdir(inner))
    return os.path.isdir(path)


def _any_source(layout: FolderLayout) -> str:
    return next((source for source in layout.splits.values() if source), layout.root)


def _without_splits(root: str, names: Sequence[str]) -> FolderLayout:
    """Return the layout of a folder without splits: its only folder may contain them or the classes."""
    containers = [name for name in names if name.casefold() in _CONTAINERS and has_images(f"{root}/{name}")]
    first = first_two(with_images(root, names))
    if len(first) == 1:
        inner = find_layout(f"{root}/{first[0]}")
        several = len(first_two(with_images(inner.root, subfolders(inner.root)))) > 1
        return inner if inner.splits or several else FolderLayout(root, {}, {})
    if containers:
        others = [name for name in names if name not in containers and has_images(f"{root}/{name}")]
        raise ValueError(
            f"{root} has images in {listed(containers)}{' and in ' if others else ''}{listed(others)}, which does "
            f"not look like one folder per class. Give the folder with the class folders."
        )
    roles = find_class_first(root, names)
    if roles:
        note = f"{root}: the class folders {listed(first)}, … have the splits {listed(roles)} in them"
        return FolderLayout(root, {split: f"{root}/*/{split}" for split in roles}, roles, note)
    return FolderLayout(root, {}, {}, doubt=check_classes(root, names))


def _class_root(split: str) -> str | None:
    """Return the folder of the class folders in a split, or None if its images are not in folders."""
    layout = find_layout(split)
    if len(layout.splits) > 1:
        raise ValueError(f"{split} has the splits {listed(layout.splits)} inside of a split. Give the folder of one.")
    if layout.splits:
        return next(iter(layout.splits.values()))
    return as_source(layout.root) if first_two(with_images(layout.root, subfolders(layout.root))) else None
