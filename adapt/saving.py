"""Classifiers as files: `classifier.json` says what it is, `classifier.safetensors` holds its arrays."""

from __future__ import annotations

import json
import os
import pathlib
import tempfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from adapt.adapter import Classifier, Support
from adapt.registry import create, name_of, settings_of
from models.json_files import read_json

JSON_FILE, ARRAYS_FILE = "classifier.json", "classifier.safetensors"
MOST_CLASSES = 1 << 24  # of a classifier in a file; logits of more take 64 MB a query
_FORMAT = 1


def save(classifier: Classifier, path: str | os.PathLike) -> None:
    """Writes a classifier to the folder `path`, which is made; files of an earlier one are replaced.

    Raises `ValueError` for stacked classifiers: save them one by one.
    """
    from safetensors.numpy import save as to_bytes

    support = classifier.support
    if support.features.ndim != 2:
        raise ValueError(f"{support.features.shape[0]} classifiers are stacked here; save them one by one")
    arrays = {"support.features": support.features, "support.labels": support.labels}
    if support.class_text_features is not None:
        arrays["support.class_text_features"] = support.class_text_features
    arrays |= {f"state.{name}": array for name, array in classifier.state.items()}
    described = {
        "format": _FORMAT,
        "method": name_of(classifier.adapter),
        "settings": {name: _plain(value) for name, value in settings_of(classifier.adapter).items()},
        "classes": support.num_classes,
        "dim": int(support.features.shape[1]),
        "logit_scale": float(support.logit_scale),
    }
    path = pathlib.Path(path)
    path.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path) as folder:
        temporary = pathlib.Path(folder)
        content = to_bytes({name: np.ascontiguousarray(array) for name, array in arrays.items()})
        (temporary / ARRAYS_FILE).write_bytes(content)  # with the access rights that files have here
        (temporary / JSON_FILE).write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
        for file in (ARRAYS_FILE, JSON_FILE):
            os.replace(temporary / file, path / file)


def load(path: str | os.PathLike) -> Classifier:
    """Returns the classifier that `Classifier.save` wrote; raises `ValueError` or `OSError` where there is none."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = pathlib.Path(path)
    if not (path / JSON_FILE).is_file():
        raise FileNotFoundError(f"{path} holds no {JSON_FILE}; `classifier.save` and `launch.py adapt` write one")
    try:
        described = read_json(path / JSON_FILE)
        if described["format"] != _FORMAT:
            raise ValueError(f"format {described['format']} is not {_FORMAT}; it is of another version")
        adapter = create(described["method"], **described["settings"])
        arrays = {name: jnp.asarray(array) for name, array in load_file(path / ARRAYS_FILE).items()}
        support = Support(
            arrays["support.features"],
            arrays["support.labels"],
            arrays.get("support.class_text_features"),
            jnp.float32(described["logit_scale"]),
            num_classes=described["classes"],
        )
        classes = described["classes"]
        if not isinstance(classes, int) or not support.labels.max(initial=0) < classes <= MOST_CLASSES:
            raise ValueError(f"{classes!r} is not the number of classes")
        if not np.isfinite(support.logit_scale):
            raise ValueError(f"logit_scale {described['logit_scale']} is not finite")
        if support.class_text_features is not None and len(support.class_text_features) != classes:
            raise ValueError(f"{classes} classes have {len(support.class_text_features)} texts")
        if support.features.shape[1] != described["dim"]:
            raise ValueError(f"features have {support.features.shape[1]} dimensions, not {described['dim']}")
        state = {name.removeprefix("state."): array for name, array in arrays.items() if name.startswith("state.")}
        expected = jax.eval_shape(lambda: adapter.learn(support, key=jax.random.key(0)))
        if jax.tree.map(jnp.shape, state) != jax.tree.map(jnp.shape, expected):
            raise ValueError(f"its arrays are not those of {described['method']}")
        return Classifier(adapter, support, state)
    except (SafetensorError, TypeError, KeyError, ValueError, OverflowError) as error:
        raise ValueError(f"{path} does not hold a classifier that can be opened: {error}") from error


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float) else np.asarray(value).item()
