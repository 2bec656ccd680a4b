"""`classes.json` in the folder of a classifier: the class names and the calibration."""

from __future__ import annotations

import math
import os
import pathlib
from typing import Any, NamedTuple

import numpy as np

from adapt.adapters.classifier_files import ARRAYS_FILE, CLASSES_FILE
from adapt.model_selection.calibration import Calibration
from foundation.files.atomic import write_json
from foundation.files.checksum_file import sha256_of
from foundation.files.safe_json import read_json


class NamedClasses(NamedTuple):
    """The names of the classes in the order of their numbers, `[classes]`, and the calibration."""

    names: np.ndarray
    calibration: Calibration


def write_classes(folder: str | os.PathLike, named: NamedClasses) -> None:
    """Write the class names of the classifier in `folder`, with the checksum of its arrays.

    Raises `TypeError` for names that are neither strings nor numbers.
    """
    names = named.names.tolist()
    for name in names:
        check_name(name)
    description = {
        "classes": names,
        "calibration": named.calibration.factor,
        "calibrated_on": named.calibration.source,
        "classifier_sha256": sha256_of(pathlib.Path(folder) / ARRAYS_FILE),
    }
    write_json(pathlib.Path(folder) / CLASSES_FILE, description)


def check_name(name: Any) -> None:
    """Raise `TypeError` for a class name that JSON cannot keep."""
    if not isinstance(name, str | int | float):
        raise TypeError(f"class {name!r} is a {type(name).__name__} and cannot be saved. Use strings or numbers.")


def read_classes(folder: str | os.PathLike, num_classes: int) -> NamedClasses | None:
    """Return what `write_classes` or `launch.py adapt` wrote for a classifier of `num_classes`; None without a file.

    Raises `ValueError` for a file that does not belong to the classifier.
    """
    path = pathlib.Path(folder) / CLASSES_FILE
    if not path.is_file():
        return None
    description = read_json(path)
    try:
        return _named_classes(description, num_classes, sha256_of(path.parent / ARRAYS_FILE))
    except (KeyError, TypeError, ValueError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"{path} does not describe the classifier next to it: {reason}. Save it again.") from error


def _named_classes(description: dict[str, Any], num_classes: int, sha256: str) -> NamedClasses:
    names, factor = description["classes"], float(description["calibration"])
    if description.get("classifier_sha256", sha256) != sha256:
        raise ValueError("it was written for another one")
    if not isinstance(names, list) or len(names) != num_classes or len(set(names)) != num_classes:
        raise ValueError(f"it does not have {num_classes} different class names")
    for name in names:
        check_name(name)
    if not (math.isfinite(factor) and factor > 0):
        raise ValueError(f"calibration {factor} is not positive")
    return NamedClasses(np.asarray(names), Calibration(factor, str(description.get("calibrated_on", ""))))
