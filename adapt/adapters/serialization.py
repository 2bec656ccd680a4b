"""Classifiers as files: `classifier.json` says what it is, `classifier.safetensors` holds its arrays."""

from __future__ import annotations

import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from adapt.adapters.base import ARRAYS_FILE, FORMAT, JSON_FILE, MOST_CLASSES, Classifier
from adapt.adapters.registry import create
from adapt.adapters.support import Support
from foundation.safe_json import read_json


def load(path: str | os.PathLike) -> Classifier:
    """Returns the classifier that `Classifier.save` wrote; raises `ValueError` or `OSError` where there is none."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = pathlib.Path(path)
    if not (path / JSON_FILE).is_file():
        raise FileNotFoundError(f"{path} holds no {JSON_FILE}; `classifier.save` and `launch.py adapt` write one")
    try:
        described = read_json(path / JSON_FILE)
        if described["format"] != FORMAT:
            raise ValueError(f"format {described['format']} is not {FORMAT}; it is of another version")
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
