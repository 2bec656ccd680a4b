"""Text files next to the shards of a dataset or in the folder above, as CLIP_benchmark writes them.

`dataset_type.txt` is `retrieval` where each `.txt` member has one caption per line, and `multilabel` where labels are
arrays in `.npy` members (https://github.com/LAION-AI/CLIP_benchmark).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

from data.io.storage import is_remote, read_file

DATASET_TYPE, RETRIEVAL, MULTILABEL = "dataset_type.txt", "retrieval", "multilabel"


class TextLines(NamedTuple):
    """The path and the lines of a text file, without blanks at their ends."""

    path: str
    lines: tuple[str, ...]


def find_text_file(shards: str, name: str) -> TextLines | None:
    """Return a text file next to shards, a path or a pattern, or in the folder above them; None if there is none."""
    paths = (f"{folder}/{name}" for folder in _folders(shards))
    return next(filter(None, map(read_lines, paths)), None) if shards.endswith(".tar") and "/" in shards else None


def dataset_type(shards: str) -> str:
    """Return the first word of the file `dataset_type.txt` of shards, or "" if there is no file."""
    found = find_text_file(shards, DATASET_TYPE)
    return found.lines[0].lower() if found else ""


def read_lines(path: str) -> TextLines | None:
    """Return the lines of a text file, None if it does not exist; raises `ValueError` if it is not UTF-8."""
    try:
        text = read_file(path if is_remote(path) else os.path.expanduser(path)).decode("utf-8-sig")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        if is_remote(path):  # servers answer in many ways for a file that they do not have
            return None
        raise
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error.reason}). Convert it.") from error
    return TextLines(path, tuple(line.strip() for line in text.rstrip().split("\n")))


def _folders(shards: str) -> Iterator[str]:
    folder = shards.rpartition("/")[0]
    yield folder
    yield folder.rpartition("/")[0]
