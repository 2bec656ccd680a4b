"""The published split lists of CoOp: `split_zhou_*.json`, which name the pictures of the splits one by one."""

from __future__ import annotations

import json
import os
import re

from data.io.storage import is_remote, read_file
from data.sources.split_lists import ImageList, ListedImage

PREFIX = "coop:"
SPLITS = ("train", "val", "test")
_NAME = re.compile(r"(?P<list>.+\.json):(?P<folder>.+):(?P<split>[^:/]+)")


class CoopSplit(ImageList):
    """A split of such a list, `SPLIT_JSON:IMAGES_FOLDER:train`, `…:val` or `…:test`: a `Source` in the list's order.

    The list has `{"train": [[path, class number, class name], …], "val": …, "test": …}` with paths within the folder,
    as https://github.com/KaiyangZhou/CoOp writes it. Raises `FileNotFoundError` where list or folder are not there, and
    `ValueError` for a list of another form.
    """

    def __init__(self, name: str):
        path, folder, split = parse(name)
        path, folder = os.path.expanduser(path), os.path.expanduser(folder)
        try:
            text = read_file(path)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{path} is not there; https://github.com/KaiyangZhou/CoOp/blob/main/DATASETS.md has the lists"
            ) from error
        if not is_remote(folder) and not os.path.isdir(folder):
            raise FileNotFoundError(f"{folder} is no folder; name the one that the paths in {path} start from")
        splits = _read(path, text)
        if split not in splits:
            raise ValueError(f"{path} has no split {split!r}; it has {', '.join(splits)}")
        super().__init__(folder, [ListedImage(row[0], row[1]) for row in splits[split]], _class_names(path, splits))


def parse(name: str) -> tuple[str, str, str]:
    """Returns list, folder and split of a name without its prefix; raises `ValueError` where it is not made so."""
    match = _NAME.fullmatch(name)
    if not match or match["split"] not in SPLITS:
        raise ValueError(
            f"{PREFIX}{name} names no list, folder and split; write {PREFIX}SPLIT_JSON:IMAGES_FOLDER:SPLIT with a "
            f"SPLIT of {', '.join(SPLITS)}"
        )
    return match["list"], match["folder"], match["split"]


def _read(path: str, text: bytes) -> dict[str, list[tuple[str, int, str]]]:
    try:
        return {
            split: [(str(picture), int(label), str(name)) for picture, label, name in rows]
            for split, rows in json.loads(text).items()
        }
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is no split list ({error}); expected "
            '{"train": [["PATH", NUMBER, "CLASS"], ...], "val": [...], "test": [...]}'
        ) from error


def _class_names(path: str, splits: dict[str, list[tuple[str, int, str]]]) -> list[str]:
    names: dict[int, str] = {}
    for rows in splits.values():
        for picture, label, name in rows:
            if names.setdefault(label, name) != name:
                raise ValueError(f"{path}: class {label} is {names[label]!r}, and {name!r} of {picture}; mend the list")
    if sorted(names) != list(range(len(names))):
        raise ValueError(f"{path}: its {len(names)} classes are not numbered 0 to {len(names) - 1}; mend the list")
    return [names[label] for label in range(len(names))]
