"""Files that a report shows in addition to accuracies: class thumbnails, and distances from queries to the support."""

from __future__ import annotations

import json
import logging
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from adapt.adapters.ops import normalize_numpy
from adapt.evaluation.results import PREDICTIONS
from data.fewshot.labelled import LabelledImages
from data.io.fingerprint import fingerprint
from data.pipeline.thumbnails import data_uri
from foundation.files.array_files import load_array, save_array
from foundation.files.atomic import write_text

logger = logging.getLogger(__name__)

CLASSES, EXAMPLES = "classes", "examples"
_AGAIN = "Run the same `launch.py evaluate` command to write it again."
_PIXELS = 64
_MOST = 400  # classes with a thumbnail
_BLOCK = 4096  # queries


def write_classes(out: pathlib.Path, class_names: Sequence[str], *, images: LabelledImages) -> str:
    """Write the names and a thumbnail of each class, unless they are there; return the name of the file.

    There are no thumbnails of stored features.
    """
    name = f"{fingerprint(images.fingerprint, *class_names)}.json"
    path = out / CLASSES / name
    if not path.is_file() or read_classes(path) is None:
        first = {int(label): row for row, label in reversed(list(enumerate(images.labels)))}
        rows = [first.get(label) if label < _MOST else None for label in range(len(class_names))]
        pictures = [
            None if row is None or images.image is None else data_uri(images.image(row), _PIXELS, quality=80)
            for row in rows
        ]
        write_text(path, json.dumps({"names": list(class_names), "pictures": pictures}, ensure_ascii=False))
    return name


def read_classes(path: pathlib.Path) -> dict[str, Any] | None:
    """Return `names` and `pictures` of the classes, or None if the file is missing or damaged, which is logged."""

    def is_valid(content: Any) -> bool:
        return len(content["names"]) == len(content["pictures"])

    return _read(path, is_valid, loss="The worst-classified classes are left out.")


def read_examples(path: pathlib.Path) -> list[dict[str, Any]] | None:
    """Return the examples of a retrieval set, or None if the file is missing or damaged, which is logged."""

    def is_valid(content: Any) -> bool:
        return isinstance(content, list) and all({"text", "images"} <= set(each) for each in content)

    return _read(path, is_valid, loss="The examples of retrieval are left out.")


def read_predictions(path: pathlib.Path) -> np.ndarray | None:
    """Return predictions, labels or distances, or None if the file is missing or damaged, which is logged."""
    return load_array(path, advice=_AGAIN)


def has_all_files(out: pathlib.Path, row: Mapping[str, Any]) -> bool:
    """Return whether the files that a row of results names can be read; what is damaged is logged."""
    arrays = (row[field] for field in ("predictions", "labels", "distances") if field in row)
    return (
        all(load_array(out / PREDICTIONS / name) is not None for name in arrays)
        and ("classes_file" not in row or read_classes(out / CLASSES / row["classes_file"]) is not None)
        and ("examples" not in row or read_examples(out / EXAMPLES / f"{row['examples']}.json") is not None)
    )


def _read(path: pathlib.Path, is_valid: Callable[[Any], bool], *, loss: str) -> Any:
    try:
        content = json.loads(path.read_bytes())
        if is_valid(content):
            return content
        problem = "is damaged"
    except FileNotFoundError:
        problem = "is missing"
    except (ValueError, TypeError, KeyError, RecursionError):
        problem = "is damaged"
    logger.warning(f"{path} {problem}. {loss} {_AGAIN}")
    return None


def write_distances(out: pathlib.Path, key: str, *, supports: Sequence[np.ndarray], queries: np.ndarray) -> str:
    """Write 1 − cosine of each query and its nearest support image, `[sets, queries]`, unless they are there.

    `supports` `[n, dim]` and `queries` `[queries, dim]` are raw features; `key` is a hash of both. Returns the name of
    the file.
    """
    name = f"distances-{key}.npy"
    path = out / PREDICTIONS / name
    if load_array(path) is None:
        unit_queries = normalize_numpy(queries)
        distances = np.empty((len(supports), len(queries)), np.float32)
        for row, support in enumerate(supports):
            unit_support = normalize_numpy(support).T
            for start in range(0, len(queries), _BLOCK):
                cosines = unit_queries[start : start + _BLOCK] @ unit_support
                distances[row, start : start + _BLOCK] = 1 - cosines.max(axis=1)
        save_array(path, distances)
    return name
