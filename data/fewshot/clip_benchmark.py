"""Text files that CLIP_benchmark keeps with its shards: class names, prompt templates and the number of shards.

The layout is `classnames.txt` and `zeroshot_classification_templates.txt` in a folder, with shards `0.tar` … and
`nshards.txt` in its folders `train/` and `test/` (https://github.com/LAION-AI/CLIP_benchmark).
"""

from __future__ import annotations

import dataclasses
import logging
import re

from data.fewshot.labelled import DEFAULT_TEMPLATE, DatasetSettings
from data.io.storage import find_files
from data.sources.folders.text_files import (
    DATASET_TYPE,
    MULTILABEL,
    RETRIEVAL,
    TextLines,
    dataset_type,
    find_text_file,
    read_lines,
)

logger = logging.getLogger(__name__)

CLASS_NAMES = "classnames.txt"
TEMPLATES = "zeroshot_classification_templates.txt"
_NUM_SHARDS = "nshards.txt"


def find_class_names(source: str) -> TextLines | None:
    """Return the class names of a source of shards in the order of their labels, or None if there is no file.

    The file is looked for in the folder of the shards and in the one above. Raises `ValueError` for a blank line.
    """
    found = find_text_file(source, CLASS_NAMES)
    if found and "" in found.lines:
        raise ValueError(f"{found.path}: line {found.lines.index('') + 1} is blank. Write one class name per line.")
    return found


def with_templates(settings: DatasetSettings) -> DatasetSettings:
    """Return the settings with the prompt templates of a file next to the shards or above, if there is one.

    Templates have `{c}` or `{}` for the class name. The single template is that of the settings if the file has it,
    otherwise the first one. Raises `ValueError` for a template without place for the class name.
    """
    found = find_text_file(settings.support or settings.query or "", TEMPLATES)
    templates = tuple(line.replace("{c}", "{}") for line in found.lines if line) if found else ()
    if not templates:
        return settings
    wanted = settings.template or DEFAULT_TEMPLATE
    single = wanted if wanted in templates else templates[0]
    return dataclasses.replace(settings, template=single, templates=templates)


def check_num_shards(source: str) -> None:
    """Log a warning if a source has another number of shards than the file in their folder says."""
    found = read_lines(f"{source.rpartition('/')[0]}/{_NUM_SHARDS}") if _is_shards(source) else None
    if found and re.fullmatch("[0-9]+", found.lines[0]):
        count = len(find_files(source))
        if count != int(found.lines[0]):
            logger.warning(f"{source} has {count} shards, but {found.path} says {found.lines[0]}; using {count}")


def check_type(name: str, source: str) -> None:
    """Raise `ValueError` if shards are not for classification according to their `dataset_type.txt`."""
    kind = dataset_type(source)
    if kind == RETRIEVAL:
        raise ValueError(
            f"{name} has captions, not classes ({DATASET_TYPE} says {kind}). Give its shards to --retrieval instead of "
            f"--datasets: --retrieval={source}"
        )
    if kind == MULTILABEL:
        raise ValueError(
            f"{name} has several labels per image ({DATASET_TYPE} says {kind}), which is not supported. Use datasets "
            "with one label per image."
        )


def _is_shards(source: str) -> bool:
    return source.endswith(".tar") and "/" in source
