"""Checks of features, labels and settings; each failure is a `ValueError` that names the value and the remedy."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from foundation.suggestions import unknown_name


def check_features(features: Any, dim: int | None, name: str) -> Any:
    """Return `features` as an array `[n, dim]`, or `[n, any]` if `dim` is None.

    Raises `ValueError` for another shape, for values that are not numeric and for values that are not finite. Only the
    shape of a traced array is checked. `name` is the kind of the features in the error message.
    """
    array = features if isinstance(features, jax.Array) else np.asarray(features)
    if not (jnp.issubdtype(array.dtype, jnp.floating) or np.issubdtype(array.dtype, np.integer)):
        raise ValueError(f"{name} features have dtype {array.dtype}, which is not numeric. Pass floats or integers.")
    if array.ndim != 2 or dim not in (None, array.shape[1]) or not array.shape[1]:
        rows, columns = "classes" if name == "class text" else "n", "dim" if dim is None else dim
        reason = "" if dim is None else ": all features must come from the same checkpoint"
        raise ValueError(f"{name} features have shape {list(array.shape)}, expected [{rows}, {columns}]{reason}")
    if not isinstance(array, jax.core.Tracer):
        finite = np.isfinite(np.asarray(array)).all(axis=1)
        if not finite.all():
            row = int(np.flatnonzero(~finite)[0])
            raise ValueError(f"row {row} of the {name} features is not finite. Remove the row, or embed it again.")
    if isinstance(array, np.ndarray) and array.dtype == np.float64:  # lengths that float32 cannot represent
        largest = np.max(np.abs(array), axis=1, keepdims=True, initial=0.0)
        array = array / np.where(largest > 0, largest, 1.0)
    return array


class CheckedSupport(NamedTuple):
    """Valid support `features` `[n, dim]` with `labels` `[n]` in [0, `num_classes`)."""

    features: Any
    labels: np.ndarray
    num_classes: int


def check_support(features: Any, labels: Any, *, dim: int | None, num_classes: int | None) -> CheckedSupport:
    """Return the arrays of a support set and the number of classes, by default the largest label plus one.

    Raises `ValueError` for arrays that are invalid or do not match.
    """
    try:
        features, labels = np.asarray(features), np.asarray(labels)
    except ValueError as error:
        raise ValueError("support features or labels have rows of different lengths; pass [n, dim] and [n]") from error
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise ValueError(
            f"support features have shape {list(features.shape)} and labels {list(labels.shape)}, "
            "expected [n, dim] and [n]"
        )
    if not len(features):
        raise ValueError("the support set is empty. Pass at least one labelled example.")
    features = check_features(features, dim, "support")
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"support labels have dtype {labels.dtype}. Pass integers that number the classes from 0.")
    num_classes = int(labels.max()) + 1 if num_classes is None else num_classes
    if labels.min() < 0 or labels.max() >= num_classes:
        outside = labels[(labels < 0) | (labels >= num_classes)][0]
        raise ValueError(f"support label {outside} is outside [0, {num_classes}). Number the classes from 0.")
    return CheckedSupport(features, labels, num_classes)


def check_setting(name: str, value: Any, default: Any) -> None:
    """Raise `ValueError` for a setting that has another type than its default, or that is not finite."""
    if isinstance(default, str):
        if not isinstance(value, str):
            raise ValueError(f"{name} {value!r} is not a string")
    elif isinstance(default, float | int):
        if isinstance(value, bool | np.bool) or not isinstance(value, float | int | np.integer | np.floating):
            raise ValueError(f"{name} {value!r} is not a number")
        if not abs(value) <= float(np.finfo(np.float32).max):
            raise ValueError(f"{name} {value} is not finite in float32")
        if isinstance(default, int) and value != int(value):
            raise ValueError(f"{name} {value} is not an integer")


def check_at_least(adapter: Any, minimum: float, *names: str) -> None:
    """Raise `ValueError` for a setting below `minimum`."""
    for name in names:
        if not getattr(adapter, name) >= minimum:
            raise ValueError(f"{name} {getattr(adapter, name)} is less than {minimum:g}, the smallest valid value")


def check_positive(adapter: Any, *names: str) -> None:
    """Raise `ValueError` for a setting that is not above 0."""
    for name in names:
        if not getattr(adapter, name) > 0:
            raise ValueError(f"{name} {getattr(adapter, name)} is not positive; use a value above 0")


def check_fraction(adapter: Any, *names: str) -> None:
    """Raise `ValueError` for a setting outside [0, 1]."""
    for name in names:
        if not 0 <= getattr(adapter, name) <= 1:
            raise ValueError(f"{name} {getattr(adapter, name)} is outside [0, 1]")


def check_one_of(adapter: Any, name: str, known: Any) -> None:
    """Raise `ValueError` for a setting that is not one of the `known` values."""
    if getattr(adapter, name) not in known:
        raise ValueError(unknown_name(name, getattr(adapter, name), known))


def check_gate(adapter: Any) -> None:
    """Raise `ValueError` for a gate that grows with the distance, or with a `damp` outside [0, 1]."""
    if not adapter.rbf <= 0:
        raise ValueError(f"rbf {adapter.rbf} is above 0: the gate would grow with the distance. Use 0 or less.")
    check_fraction(adapter, "damp")
