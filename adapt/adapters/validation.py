"""What adapters refuse: features, labels and settings that do not fit, each told in a sentence."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def check_features(features: Any, dim: int | None, name: str) -> Any:
    """Returns features as an array `[n, dim]`; raises `ValueError` for another shape and for what is not finite.

    Values that JAX traces cannot be looked at; of those only the shape is checked.
    """
    array = features if isinstance(features, jax.Array) else np.asarray(features)
    if not (jnp.issubdtype(array.dtype, jnp.floating) or np.issubdtype(array.dtype, np.integer)):
        raise ValueError(f"{name} features are {array.dtype}; they must be numbers")
    if array.ndim != 2 or dim not in (None, array.shape[1]) or not array.shape[1]:
        raise ValueError(
            f"{name} features {list(array.shape)} are not [{'n' if name != 'class text' else 'classes'}, "
            f"{'dim' if dim is None else dim}]"
        )
    if not isinstance(array, jax.core.Tracer):
        finite = np.isfinite(np.asarray(array)).all(axis=1)
        if not finite.all():
            raise ValueError(f"row {int(np.flatnonzero(~finite)[0])} of the {name} features is not finite")
    if isinstance(array, np.ndarray) and array.dtype == np.float64:  # float32 cannot hold every length
        largest = np.max(np.abs(array), axis=1, keepdims=True, initial=0.0)
        array = array / np.where(largest > 0, largest, 1.0)
    return array


def check_support(
    features: Any, labels: Any, *, dim: int | None, num_classes: int | None
) -> tuple[Any, np.ndarray, int]:
    """Returns examples, their labels and the number of classes; raises `ValueError` for what does not fit together."""
    try:
        features, labels = np.asarray(features), np.asarray(labels)
    except ValueError as error:
        raise ValueError("support features or labels have rows of different lengths") from error
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise ValueError(
            f"support features {list(features.shape)} and labels {list(labels.shape)} are not [n, dim] and [n]"
        )
    if not len(features):
        raise ValueError("the support is empty; give at least one example")
    features = check_features(features, dim, "support")
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"support labels are {labels.dtype}; they must be integers")
    num_classes = int(labels.max()) + 1 if num_classes is None else num_classes
    if labels.min() < 0 or labels.max() >= num_classes:
        outside = labels[(labels < 0) | (labels >= num_classes)][0]
        raise ValueError(f"support label {outside} is not within [0, {num_classes})")
    return features, labels, num_classes


def check_setting(name: str, value: Any, default: Any) -> None:
    """Raises `ValueError` for a setting whose value is not of the kind of its default, or not finite."""
    if isinstance(default, str):
        if not isinstance(value, str):
            raise ValueError(f"{name} {value!r} is not a string")
    elif isinstance(default, float | int):
        if isinstance(value, bool | np.bool) or not isinstance(value, float | int | np.integer | np.floating):
            raise ValueError(f"{name} {value!r} is not a number")
        if not abs(value) <= float(np.finfo(np.float32).max):
            raise ValueError(f"{name} {value} is not finite in float32")
        if isinstance(default, int) and value != int(value):
            raise ValueError(f"{name} {value} is not a whole number")


def check_at_least(adapter: Any, least: float, *names: str) -> None:
    """Raises `ValueError` for a setting below `least`."""
    for name in names:
        if not getattr(adapter, name) >= least:
            raise ValueError(f"{name} {getattr(adapter, name)} is less than {least:g}")


def check_positive(adapter: Any, *names: str) -> None:
    """Raises `ValueError` for a setting that is not above zero."""
    for name in names:
        if not getattr(adapter, name) > 0:
            raise ValueError(f"{name} {getattr(adapter, name)} is not positive")


def check_one_of(adapter: Any, name: str, known: Any) -> None:
    """Raises `ValueError` for a setting that is none of the known values."""
    if getattr(adapter, name) not in known:
        raise ValueError(f"unknown {name} {getattr(adapter, name)!r}; known: {', '.join(map(str, known))}")


def check_gate(adapter: Any) -> None:
    """Raises `ValueError` for a gate that grows with distance or goes beyond the adapted prediction."""
    if not adapter.rbf <= 0:
        raise ValueError(f"rbf {adapter.rbf} is above 0; the gate would grow with distance")
    if not 0 <= adapter.damp <= 1:
        raise ValueError(f"damp {adapter.damp} is not within [0, 1]")
