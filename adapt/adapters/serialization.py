"""Loading of saved classifiers."""

from __future__ import annotations

import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from adapt.adapters.base import Classifier, State
from adapt.adapters.classifier_files import ARRAYS_FILE, FORMAT, JSON_FILE, MAX_CLASSES
from adapt.adapters.registry import create
from adapt.adapters.support import Support
from foundation.files.checksum_file import sha256_of
from foundation.files.safe_json import read_json


def load(path: str | os.PathLike) -> Classifier:
    """Return the classifier that `Classifier.save` wrote to the folder `path`.

    Raises `FileNotFoundError` if there is none, and `ValueError` if its files are damaged or of another version.
    """
    from safetensors import SafetensorError

    path = pathlib.Path(path)
    if not (path / JSON_FILE).is_file():
        raise FileNotFoundError(
            f"{path} has no {JSON_FILE}. Name a folder that `classifier.save` or `launch.py adapt` wrote."
        )
    try:
        return _read_classifier(path)
    except (SafetensorError, TypeError, KeyError, ValueError, OverflowError) as error:
        raise ValueError(f"{path} does not hold a valid classifier: {error}") from error


def _read_classifier(path: pathlib.Path) -> Classifier:
    from safetensors.numpy import load_file

    description = read_json(path / JSON_FILE)
    if description["format"] != FORMAT:
        raise ValueError(f"format {description['format']} is not {FORMAT}; another version of this project wrote it")
    expected = description.get("sha256")  # None in files of earlier versions
    if expected is not None and expected != sha256_of(path / ARRAYS_FILE):
        raise ValueError(f"{ARRAYS_FILE} is damaged: it does not have the checksum in {JSON_FILE}")
    adapter = create(description["method"], **description["settings"])
    arrays = {name: jnp.asarray(array) for name, array in load_file(path / ARRAYS_FILE).items()}
    support = Support(
        arrays["support.features"],
        arrays["support.labels"],
        arrays.get("support.class_text_features"),
        jnp.float32(description["logit_scale"]),
        num_classes=description["classes"],
    )
    _check_description(description, support)
    state = {name.removeprefix("state."): array for name, array in arrays.items() if name.startswith("state.")}
    if _shapes(state) != _shapes(jax.eval_shape(lambda: adapter.fit_state(support, key=jax.random.key(0)))):
        raise ValueError(f"its arrays do not have the shapes of {description['method']}")
    return Classifier(adapter, support, state)


def _check_description(description: dict, support: Support) -> None:
    """Raise `ValueError` for a description that does not match the arrays."""
    classes = description["classes"]
    if not isinstance(classes, int) or not support.labels.max(initial=0) < classes <= MAX_CLASSES:
        raise ValueError(f"classes {classes!r} is not a valid number of classes")
    if not np.isfinite(support.logit_scale):
        raise ValueError(f"logit_scale {description['logit_scale']} is not finite")
    if support.class_text_features is not None and len(support.class_text_features) != classes:
        raise ValueError(f"there are {classes} classes and {len(support.class_text_features)} class texts")
    if support.features.shape[1] != description["dim"]:
        raise ValueError(f"the features have {support.features.shape[1]} dimensions, not {description['dim']}")


def _shapes(state: State) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in state.items()}
