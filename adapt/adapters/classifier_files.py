"""The files of a saved classifier: `classifier.json` describes it, `classifier.safetensors` holds its arrays."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from adapt.adapters.support import Support
from foundation.files.atomic import atomic_files
from foundation.files.checksum_file import sha256_of

JSON_FILE, ARRAYS_FILE = "classifier.json", "classifier.safetensors"
CLASSES_FILE = "classes.json"  # class names and calibration, where they are known
FORMAT = 1  # version of the two files
MAX_CLASSES = 1 << 24  # of a loaded classifier: the logits of one query take 64 MB


def write_classifier(
    path: str | os.PathLike,
    *,
    method: str,
    settings: Mapping[str, Any],
    support: Support,
    state: Mapping[str, jax.Array],
) -> None:
    """Write the two files into the folder `path`, which is created; earlier ones are replaced atomically."""
    from safetensors.numpy import save

    arrays = {"support.features": support.features, "support.labels": support.labels}
    if support.class_text_features is not None:
        arrays["support.class_text_features"] = support.class_text_features
    arrays |= {f"state.{name}": array for name, array in state.items()}
    description = {
        "format": FORMAT,
        "method": method,
        "settings": {name: _to_json(value) for name, value in settings.items()},
        "classes": support.num_classes,
        "dim": int(support.features.shape[1]),
        "logit_scale": float(support.logit_scale),
    }
    path = pathlib.Path(path)
    with atomic_files(path / ARRAYS_FILE, path / JSON_FILE) as (arrays_file, json_file):
        # safetensors' own file writer would set access rights that differ from those of the JSON file.
        arrays_file.write_bytes(save({name: np.ascontiguousarray(array) for name, array in arrays.items()}))
        description["sha256"] = sha256_of(arrays_file)
        json_file.write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def _to_json(value: Any) -> Any:
    return value if isinstance(value, str | int | float) else np.asarray(value).item()
