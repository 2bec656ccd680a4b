"""The published split lists of CoOp: `split_zhou_*.json`, which list the images of each split."""

from __future__ import annotations

import json
import os
import re
from typing import NamedTuple

from data.io.storage import is_remote, read_file
from data.sources.split_lists import ImageList, ListedImage

PREFIX = "coop:"
SPLITS = ("train", "val", "test")
_NAME = re.compile(r"(?P<list>.+\.json):(?P<folder>.+):(?P<split>[^:/]+)")


class CoopName(NamedTuple):
    """The parts of a source name `SPLIT_JSON:IMAGES_FOLDER:SPLIT`."""

    split_list: str
    folder: str
    split: str


class CoopSplit(ImageList):
    """A `Source` of one split of a list, `SPLIT_JSON:IMAGES_FOLDER:SPLIT` with split `train`, `val` or `test`.

    The list is `{"train": [[path, label, class name], …], "val": …, "test": …}` with paths within the folder, as
    https://github.com/KaiyangZhou/CoOp writes it. Raises `FileNotFoundError` if the list or the folder does not exist,
    and `ValueError` for a list of another form.
    """

    def __init__(self, name: str):
        path, folder, split = parse(name)
        path, folder = os.path.expanduser(path), os.path.expanduser(folder)
        try:
            text = read_file(path)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{path} does not exist. Download the list from "
                "https://github.com/KaiyangZhou/CoOp/blob/main/DATASETS.md."
            ) from error
        if not is_remote(folder) and not os.path.isdir(folder):
            raise FileNotFoundError(f"{folder} is not a folder. Give the folder that contains the paths in {path}.")
        splits = _parse_list(path, text)
        if split not in splits:
            raise ValueError(f"{path} has no split {split!r}. It has: {', '.join(splits)}.")
        images = [ListedImage(row[0], row[1]) for row in splits[split]]
        super().__init__(folder, images, class_names=_class_names(path, splits))


def parse(name: str) -> CoopName:
    """Parse a source name without its prefix; raises `ValueError` for an invalid one."""
    match = _NAME.fullmatch(name)
    if not match or match["split"] not in SPLITS:
        raise ValueError(
            f"{PREFIX}{name} is not of the form {PREFIX}SPLIT_JSON:IMAGES_FOLDER:SPLIT with split {', '.join(SPLITS)}"
        )
    return CoopName(match["list"], match["folder"], match["split"])


def _parse_list(path: str, text: bytes) -> dict[str, list[tuple[str, int, str]]]:
    try:
        return {
            split: [(str(image), int(label), str(name)) for image, label, name in rows]
            for split, rows in json.loads(text).items()
        }
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is not a split list ({error}). Expected "
            '{"train": [["PATH", NUMBER, "CLASS"], ...], "val": [...], "test": [...]}.'
        ) from error


def _class_names(path: str, splits: dict[str, list[tuple[str, int, str]]]) -> list[str]:
    names: dict[int, str] = {}
    for rows in splits.values():
        for image, label, name in rows:
            if names.setdefault(label, name) != name:
                raise ValueError(
                    f"{path}: label {label} is both {names[label]!r} and {name!r} ({image}). Fix the list."
                )
    if sorted(names) != list(range(len(names))):
        raise ValueError(f"{path}: its {len(names)} classes are not labelled 0 to {len(names) - 1}. Fix the list.")
    return [names[label] for label in range(len(names))]
