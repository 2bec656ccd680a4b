"""Files that a report shows in addition to accuracies: class thumbnails, and distances from queries to the support."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence

import numpy as np

from adapt.adapters.ops import normalize_numpy
from adapt.evaluation.results import PREDICTIONS
from data.fewshot.labelled import LabelledImages
from data.io.fingerprint import fingerprint
from data.pipeline.thumbnails import data_uri
from foundation.files.array_files import save_array
from foundation.files.atomic import write_text

CLASSES = "classes"
_PIXELS = 64
_MOST = 400  # classes with a thumbnail
_BLOCK = 4096  # queries


def write_classes(out: pathlib.Path, class_names: Sequence[str], *, images: LabelledImages) -> str:
    """Write the names and a thumbnail of each class, unless the file exists; return the name of the file."""
    name = f"{fingerprint(images.fingerprint, *class_names)}.json"
    path = out / CLASSES / name
    if not path.is_file():
        first = {int(label): row for row, label in reversed(list(enumerate(images.labels)))}
        rows = [first.get(label) if label < _MOST else None for label in range(len(class_names))]
        pictures = [None if row is None else data_uri(images.image(row), _PIXELS, quality=80) for row in rows]
        write_text(path, json.dumps({"names": list(class_names), "pictures": pictures}, ensure_ascii=False))
    return name


def write_distances(out: pathlib.Path, key: str, *, supports: Sequence[np.ndarray], queries: np.ndarray) -> str:
    """Write 1 − cosine of each query and its nearest support image, `[sets, queries]`, unless the file exists.

    `supports` `[n, dim]` and `queries` `[queries, dim]` are raw features; `key` is a hash of both. Returns the name of
    the file.
    """
    name = f"distances-{key}.npy"
    path = out / PREDICTIONS / name
    if not path.is_file():
        unit_queries = normalize_numpy(queries)
        distances = np.empty((len(supports), len(queries)), np.float32)
        for row, support in enumerate(supports):
            unit_support = normalize_numpy(support).T
            for start in range(0, len(queries), _BLOCK):
                cosines = unit_queries[start : start + _BLOCK] @ unit_support
                distances[row, start : start + _BLOCK] = 1 - cosines.max(axis=1)
        save_array(path, distances)
    return name
