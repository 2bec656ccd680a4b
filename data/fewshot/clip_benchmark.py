"""Text files that CLIP_benchmark keeps with its shards: class names, prompt templates and the number of shards.

The layout is `classnames.txt` and `zeroshot_classification_templates.txt` in a folder, with shards `0.tar` … and
`nshards.txt` in its folders `train/` and `test/` (https://github.com/LAION-AI/CLIP_benchmark).
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Iterator
from typing import NamedTuple

from data.fewshot.labelled import DatasetSettings
from data.io.storage import find_files, is_remote, read_file

logger = logging.getLogger(__name__)

CLASS_NAMES = "classnames.txt"
TEMPLATES = "zeroshot_classification_templates.txt"
_NUM_SHARDS = "nshards.txt"


class TextLines(NamedTuple):
    """The path and the lines of a text file, without blanks at their ends."""

    path: str
    lines: tuple[str, ...]


def find_class_names(source: str) -> TextLines | None:
    """Return the class names of a source of shards in the order of their labels, or None if there is no file.

    The file is looked for in the folder of the shards and in the one above. Raises `ValueError` for a blank line.
    """
    found = _find(source, CLASS_NAMES)
    if found and "" in found.lines:
        raise ValueError(f"{found.path}: line {found.lines.index('') + 1} is blank. Write one class name per line.")
    return found


def with_templates(settings: DatasetSettings) -> DatasetSettings:
    """Return the settings with the prompt templates of a file next to the shards or above, if there is one.

    Templates have `{c}` or `{}` for the class name. The single template is that of the settings if the file has it,
    otherwise the first one. Raises `ValueError` for a template without place for the class name.
    """
    found = _find(settings.support or settings.query or "", TEMPLATES)
    templates = tuple(line.replace("{c}", "{}") for line in found.lines if line) if found else ()
    if not templates:
        return settings
    single = settings.template if settings.template in templates else templates[0]
    return dataclasses.replace(settings, template=single, templates=templates)


def check_num_shards(source: str) -> None:
    """Log a warning if a source has another number of shards than the file in their folder says."""
    found = _read(f"{source.rpartition('/')[0]}/{_NUM_SHARDS}") if _is_shards(source) else None
    if found and found.lines[0].isdecimal():
        count = len(find_files(source))
        if count != int(found.lines[0]):
            logger.warning(f"{source} has {count} shards, but {found.path} says {found.lines[0]}; using {count}")


def _find(source: str, name: str) -> TextLines | None:
    paths = (f"{folder}/{name}" for folder in _folders(source))
    return next(filter(None, map(_read, paths)), None) if _is_shards(source) else None


def _is_shards(source: str) -> bool:
    return source.endswith(".tar") and "/" in source


def _folders(source: str) -> Iterator[str]:
    folder = source.rpartition("/")[0]
    yield folder
    yield folder.rpartition("/")[0]


def _read(path: str) -> TextLines | None:
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
