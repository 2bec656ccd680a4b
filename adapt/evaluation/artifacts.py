"""What a report shows beside accuracies: a picture of each class, and how far queries are from the examples seen."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence

import numpy as np

from adapt.embedding.cache import save_array
from adapt.evaluation.results import PREDICTIONS
from data.fewshot.labelled import LabelledImages
from data.io.fingerprint import fingerprint
from data.pipeline.thumbnails import data_uri
from foundation.atomic import write_text

CLASSES = "classes"
_PIXELS = 64
_MOST = 400  # classes with a picture
_BLOCK = 4096  # queries


def write_classes(out: pathlib.Path, class_names: Sequence[str], images: LabelledImages) -> str:
    """Writes names and a picture of each class, unless they are there; returns the name of the file."""
    name = f"{fingerprint(images.fingerprint, *class_names)}.json"
    path = out / CLASSES / name
    if not path.is_file():
        first = {int(label): row for row, label in reversed(list(enumerate(images.labels)))}
        rows = [first.get(label) if label < _MOST else None for label in range(len(class_names))]
        pictures = [None if row is None else data_uri(images.image(row), _PIXELS, quality=80) for row in rows]
        write_text(path, json.dumps({"names": list(class_names), "pictures": pictures}, ensure_ascii=False))
    return name


def write_distances(out: pathlib.Path, key: str, supports: Sequence[np.ndarray], queries: np.ndarray) -> str:
    """Writes 1 − cosine of each query and its nearest example, `[cases, queries]`, unless it is there already.

    `supports` `[n, dim]` and `queries` `[queries, dim]` are raw features, `key` is a hash of both. Returns the
    name of the file.
    """
    name = f"distances-{key}.npy"
    path = out / PREDICTIONS / name
    if not path.is_file():
        unit = lambda x: x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)  # noqa: E731
        x = unit(queries)
        found = np.empty((len(supports), len(queries)), np.float32)
        for row, support in enumerate(supports):
            s = unit(support).T
            for start in range(0, len(x), _BLOCK):
                found[row, start : start + _BLOCK] = 1 - (x[start : start + _BLOCK] @ s).max(axis=1)
        save_array(path, found)
    return name
