"""What every adapter is: settings, and a pure function from labelled features to a classifier.

Adapters, supports and classifiers are pytrees, so that seeds, shots and settings can be mapped over in one compiled
call. A support row whose label is −1 is not there; that is how supports of different size share one shape.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from adapt.features import normalize

T = TypeVar("T")


def static(default: Any) -> Any:
    """A dataclass field whose value is part of the compiled program."""
    return dataclasses.field(default=default, metadata={"static": True})


def pytree(cls: type[T]) -> type[T]:
    """Makes a class a frozen dataclass and a pytree."""
    return jax.tree_util.register_dataclass(dataclasses.dataclass(frozen=True)(cls))


@pytree
class Support:
    """Labelled examples: unit `features` `[n, dim]`, `labels` `[n]` (−1: not there), the classes' unit text features
    `[classes, dim]` or None, and the scale of text logits."""

    features: jax.Array
    labels: jax.Array
    class_text_features: jax.Array | None
    logit_scale: jax.Array
    num_classes: int = static(0)


class Classifier(Protocol):
    """Maps features `[queries, dim]`, normalised or not, to logits `[queries, classes]`."""

    def __call__(self, features: jax.Array) -> jax.Array: ...


class Adapter:
    """Base of all adapters; a subclass has settings as fields and `fit_support`.

    `grid` lists the values of each setting that selection tries, the default first.
    """

    needs_text: ClassVar[bool] = False
    grid: ClassVar[Mapping[str, tuple[Any, ...]]] = {}

    def check(self) -> None:
        """Raises `ValueError` for a setting outside its range."""

    def fit_support(self, support: Support) -> Classifier:
        """Returns the classifier; pure, and traceable by JAX."""
        raise TypeError(f"{type(self).__name__} lacks fit_support")

    def fit(
        self,
        support_features: Any,
        support_labels: Any,
        *,
        class_text_features: Any = None,
        num_classes: int | None = None,
        logit_scale: float = 100.0,
    ) -> Classifier:
        """Returns the classifier of examples `[n, dim]` with labels `[n]` in [0, classes).

        The number of classes is that of `class_text_features` `[classes, dim]`, or `num_classes`, or the largest label
        plus one. Raises `ValueError` for input that does not fit together.
        """
        support = check_support(
            support_features,
            support_labels,
            class_text_features=class_text_features,
            num_classes=num_classes,
            logit_scale=logit_scale,
        )
        if self.needs_text and support.class_text_features is None:
            raise ValueError(f"{type(self).__name__} needs class_text_features")
        return self.fit_support(support)


def check_support(
    support_features: Any,
    support_labels: Any,
    *,
    class_text_features: Any = None,
    num_classes: int | None = None,
    logit_scale: float = 100.0,
) -> Support:
    """Returns a `Support` of normalised features; raises `ValueError` for input that does not fit together."""
    features, labels = np.asarray(support_features, np.float32), np.asarray(support_labels)
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise ValueError(
            f"support features {list(features.shape)} and labels {list(labels.shape)} are not [n, dim] and [n]"
        )
    if not len(features):
        raise ValueError("the support is empty; give at least one example")
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"support labels are {labels.dtype}; they must be integers")
    if not np.isfinite(features).all():
        row = int(np.flatnonzero(~np.isfinite(features).all(axis=1))[0])
        raise ValueError(f"row {row} of the support features is not finite")
    text = None
    if class_text_features is not None:
        text = np.asarray(class_text_features, np.float32)
        if text.ndim != 2 or text.shape[1] != features.shape[1]:
            raise ValueError(f"class text features {list(text.shape)} are not [classes, {features.shape[1]}]")
        if not np.isfinite(text).all():
            raise ValueError("the class text features are not finite")
        if num_classes not in (None, len(text)):
            raise ValueError(f"num_classes {num_classes} is not the number of class text features, {len(text)}")
        num_classes = len(text)
    num_classes = int(labels.max()) + 1 if num_classes is None else num_classes
    if labels.min() < 0 or labels.max() >= num_classes:
        outside = labels[(labels < 0) | (labels >= num_classes)][0]
        raise ValueError(f"support label {outside} is not within [0, {num_classes})")
    return Support(
        features=normalize(features),
        labels=jnp.asarray(labels, jnp.int32),
        class_text_features=None if text is None else normalize(text),
        logit_scale=jnp.float32(logit_scale),
        num_classes=num_classes,
    )
