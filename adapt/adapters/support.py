"""Support sets: the labelled examples that adapters learn from, as pytrees with one static shape.

A row whose label is −1 is padding; that is how support sets of different sizes share one compiled program.
"""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from adapt.adapters.ops import cosines, normalize, one_hot
from adapt.adapters.validation import check_features, check_setting, check_support

T = TypeVar("T")

FOLDS = 4
CLASS_WEIGHTS = ("balanced", "none")


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

    @property
    def members(self) -> jax.Array:
        """Which class each row is of, `[n, classes]` zeros and ones."""
        return one_hot(self.labels, self.num_classes)

    @property
    def counts(self) -> jax.Array:
        """The number of examples of each class, `[classes]`."""
        return self.members.sum(axis=0)

    @property
    def folds(self) -> jax.Array:
        """The number of the fold of each row, `[n]`: its place among the rows of its class, modulo `FOLDS`."""
        members = self.members
        place = jnp.sum(members * (jnp.cumsum(members, axis=0) - members), axis=1)
        return place.astype(jnp.int32) % FOLDS

    def row_weights(self, class_weight: str) -> jax.Array:
        """Returns what each row counts, `[n]`: 1, or if "balanced" the mean number of examples of a class over its own.

        So that, as in scikit-learn, classes with few examples weigh as much as those with many; and so do classes that
        an example is left out of, which the others would outvote.
        """
        there = jnp.where(self.labels >= 0, 1.0, 0.0)
        if class_weight == "none":
            return there
        counts = self.counts
        mean = counts.sum() / jnp.maximum(jnp.sum(counts > 0), 1)
        return there * mean / jnp.maximum(counts[self.labels], 1)

    def left_out_weights(self, class_weight: str) -> jax.Array:
        """Returns what the rows of each class count when row i is left out, `[n, classes]`."""
        counts = self.counts
        if class_weight == "none":
            return jnp.ones((len(self.labels), self.num_classes))
        counts = counts - self.members
        mean = counts.sum(axis=1) / jnp.maximum(jnp.sum(counts > 0, axis=1), 1)
        return mean[:, None] / jnp.maximum(counts, 1)

    def zero_shot(self, x: jax.Array) -> jax.Array:
        """Returns scale · x·w_c of unit rows `x` `[queries, dim]`; zeros where classes have no text."""
        if self.class_text_features is None:
            return jnp.zeros((x.shape[0], self.num_classes))
        return self.logit_scale * cosines(x, self.class_text_features)

    def without(self, rows: jax.Array) -> Support:
        """Returns the support less the rows where `rows` `[n]` is true."""
        return dataclasses.replace(self, labels=jnp.where(rows, -1, self.labels))


def make_support(
    features: Any,
    labels: Any,
    *,
    class_text_features: Any = None,
    num_classes: int | None = None,
    logit_scale: float = 100.0,
) -> Support:
    """Returns a `Support` of normalised features; raises `ValueError` for input that does not fit together."""
    dim = None
    if class_text_features is not None:
        class_text_features = check_features(class_text_features, None, "class text")
        dim = class_text_features.shape[1]
        if not len(class_text_features):
            raise ValueError("there are no class text features; give one a class, or None")
        if num_classes not in (None, len(class_text_features)):
            raise ValueError(
                f"num_classes {num_classes} is not the number of class text features, {len(class_text_features)}"
            )
        num_classes = len(class_text_features)
    check_setting("logit_scale", logit_scale, 1.0)
    if not logit_scale > 0:
        raise ValueError(f"logit_scale {logit_scale} is not a positive number")
    if num_classes is not None:
        check_setting("num_classes", num_classes, 1)
        if num_classes < 1:
            raise ValueError(f"num_classes {num_classes} is not positive")
        num_classes = int(num_classes)
    features, labels, num_classes = check_support(features, labels, dim=dim, num_classes=num_classes)
    if num_classes < 2:
        raise ValueError("there is one class only, and nothing to choose between; give two or more, or their texts")
    return Support(
        features=normalize(features),
        labels=jnp.asarray(labels, jnp.int32),
        class_text_features=None if class_text_features is None else normalize(class_text_features),
        logit_scale=jnp.float32(logit_scale),
        num_classes=num_classes,
    )
