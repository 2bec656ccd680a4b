"""Support sets: the labelled examples of a few-shot task, as pytrees of one static shape.

A row with label −1 is padding: support sets of different sizes can share one compiled program.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from adapt.adapters.ops import cosines, normalize, one_hot
from adapt.adapters.pytrees import pytree, static
from adapt.adapters.validation import check_features, check_setting, check_support

FOLDS = 4
CLASS_WEIGHTS = ("balanced", "none")


@pytree
class Support:
    """The support set of a few-shot task.

    features: `[n, dim]`, rows of length 1.
    labels: `[n]` class numbers; −1 marks padding.
    class_text_features: `[classes, dim]`, rows of length 1, or None for a task without class texts.
    logit_scale: factor of the text logits.
    num_classes: number of classes, including those without support examples.
    """

    features: jax.Array
    labels: jax.Array
    class_text_features: jax.Array | None
    logit_scale: jax.Array
    num_classes: int = static(0)

    @property
    def members(self) -> jax.Array:
        """The labels as one-hot rows `[n, classes]`; rows of zeros for padding."""
        return one_hot(self.labels, self.num_classes)

    @property
    def counts(self) -> jax.Array:
        """The number of support examples per class, `[classes]`."""
        return self.members.sum(axis=0)

    @property
    def folds(self) -> jax.Array:
        """The fold of each row, `[n]`: its position among the rows of its class, modulo `FOLDS`."""
        members = self.members
        position = jnp.sum(members * (jnp.cumsum(members, axis=0) - members), axis=1)
        return position.astype(jnp.int32) % FOLDS

    def row_weights(self, class_weight: str) -> jax.Array:
        """Return the weight of each row, `[n]`: 1 for "none", n̄ / n_c for "balanced".

        n_c is the number of examples of the row's class and n̄ the mean over classes with examples. As with
        scikit-learn's `class_weight="balanced"`, every class has the same total weight. Without it, a class that
        loses one of its examples in leave-one-out would be outvoted by the other classes.
        """
        present = jnp.where(self.labels >= 0, 1.0, 0.0)
        if class_weight == "none":
            return present
        counts = self.counts
        mean = counts.sum() / jnp.maximum(jnp.sum(counts > 0), 1)
        return present * mean / jnp.maximum(counts[self.labels], 1)

    def leave_one_out_weights(self, class_weight: str) -> jax.Array:
        """Return the weight of the rows of each class when row i is left out, `[n, classes]`."""
        counts = self.counts
        if class_weight == "none":
            return jnp.ones((len(self.labels), self.num_classes))
        counts = counts - self.members
        mean = counts.sum(axis=1) / jnp.maximum(jnp.sum(counts > 0, axis=1), 1)
        return mean[:, None] / jnp.maximum(counts, 1)

    def zero_shot(self, x: jax.Array) -> jax.Array:
        """Return the zero-shot logits scale · x·w_c, `[queries, classes]`; zeros without class texts.

        The rows of `x` `[queries, dim]` have length 1.
        """
        if self.class_text_features is None:
            return jnp.zeros((x.shape[0], self.num_classes))
        return self.logit_scale * cosines(x, self.class_text_features)

    def __repr__(self) -> str:
        shape = getattr(self.features, "shape", None)
        text = "no class texts" if self.class_text_features is None else "class texts"
        return f"Support(features {list(shape or ())}, {self.num_classes} classes, {text})"

    def take(self, rows: jax.Array) -> Support:
        """Return the support set of the rows numbered `rows` `[m]`; a number of `n` or more gives padding."""
        labels = jnp.where(rows < len(self.labels), self.labels.at[rows].get(mode="clip"), -1)
        return dataclasses.replace(self, features=self.features.at[rows].get(mode="clip"), labels=labels)

    def without(self, rows: jax.Array) -> Support:
        """Return the support set in which the rows where `rows` `[n]` is true are padding."""
        return dataclasses.replace(self, labels=jnp.where(rows, -1, self.labels))


class Fold(NamedTuple):
    """The numbers of the rows of a fold, `rows`, and of all other rows, `others`; both are padded with `n`."""

    rows: jax.Array
    others: jax.Array


def split_folds(support: Support) -> Fold:
    """Return the folds of a support set, stacked: `rows` and `others` are `[FOLDS, …]`, in ascending order."""
    n, margin = len(support.labels), (FOLDS - 1) * support.num_classes
    # Of the n_c examples of a class, a fold has at least (n_c − 3) / 4 and at most (n_c + 3) / 4.
    most = min(n, (n + margin) // FOLDS), min(n, ((FOLDS - 1) * n + margin) // FOLDS)
    is_member = support.folds == jnp.arange(FOLDS)[:, None]
    masks = (support.labels >= 0) & jnp.stack([is_member, ~is_member])
    rows, others = jnp.sort(jnp.where(masks, jnp.arange(n), n))
    return Fold(rows[:, : most[0]], others[:, : most[1]])


def over_fold_rows(terms_of: Callable[[Fold], tuple[jax.Array, ...]], support: Support) -> tuple[jax.Array, ...]:
    """Return the terms of every row, `[n, …]` each, from `terms_of(fold)`, the terms of the rows of a fold.

    The terms of padding have no meaning.
    """
    folds = split_folds(support)

    def by_row(term: jax.Array) -> jax.Array:
        empty = jnp.zeros((len(support.labels), *term.shape[2:]), term.dtype)
        return empty.at[folds.rows].set(term, mode="drop")

    return jax.tree.map(by_row, jax.lax.map(terms_of, folds))


def make_support(
    features: Any,
    labels: Any,
    *,
    class_text_features: Any = None,
    num_classes: int | None = None,
    logit_scale: float = 100.0,
) -> Support:
    """Return a `Support` with normalised features; arguments as in `Adapter.fit`.

    Raises `ValueError` for arrays or settings that are invalid or do not match.
    """
    dim = None
    if class_text_features is not None:
        class_text_features = check_features(class_text_features, None, "class text")
        dim = class_text_features.shape[1]
        if not len(class_text_features):
            raise ValueError("class_text_features is empty. Pass one row per class, or None.")
        if num_classes not in (None, len(class_text_features)):
            raise ValueError(
                f"num_classes {num_classes} differs from the {len(class_text_features)} rows of class_text_features. "
                "Leave num_classes out."
            )
        num_classes = len(class_text_features)
    check_setting("logit_scale", logit_scale, 1.0)
    if not logit_scale > 0:
        raise ValueError(f"logit_scale {logit_scale} is not positive; use a value above 0")
    if num_classes is not None:
        check_setting("num_classes", num_classes, 1)
        if num_classes < 1:
            raise ValueError(f"num_classes {num_classes} is not positive; use the number of classes")
        num_classes = int(num_classes)
    features, labels, num_classes = check_support(features, labels, dim=dim, num_classes=num_classes)
    if num_classes < 2:
        raise ValueError("there is only one class. Add support examples, or class texts, of at least one other class.")
    return Support(
        features=normalize(features),
        labels=jnp.asarray(labels, jnp.int32),
        class_text_features=None if class_text_features is None else normalize(class_text_features),
        logit_scale=jnp.float32(logit_scale),
        num_classes=num_classes,
    )


def extend_support(old: Support, features: Any, labels: Any, *, class_text_features: Any = None) -> Support:
    """Return the rows of `old` followed by new ones, which may belong to new classes.

    Arguments and errors as in `Classifier.extend`.
    """
    dim = old.features.shape[-1]
    text = _extend_texts(old, class_text_features)
    num_classes = old.num_classes if text is None else len(text)
    if not len(features) and num_classes > old.num_classes:  # new classes that have a text and no examples
        features, labels = np.zeros((0, dim), np.float32), np.zeros(0, np.int32)
    else:
        features, labels, needed = check_support(features, labels, dim=dim, num_classes=None)
        if text is None:
            num_classes = max(num_classes, needed)
        elif needed > num_classes:
            raise ValueError(
                f"label {needed - 1} is a new class without a class text. Pass class_text_features "
                f"[new classes, {dim}] for the classes from {old.num_classes} on."
            )
    return Support(
        features=jnp.concatenate([old.features, normalize(features)]),
        labels=jnp.concatenate([old.labels, jnp.asarray(labels, jnp.int32)]),
        class_text_features=text,
        logit_scale=old.logit_scale,
        num_classes=num_classes,
    )


def _extend_texts(old: Support, class_text_features: Any) -> jax.Array | None:
    """Return the normalised texts of the known classes followed by those of the new ones."""
    if class_text_features is None:
        return old.class_text_features
    if old.class_text_features is None:
        raise ValueError("this classifier was fitted without class texts. Leave class_text_features out.")
    added = normalize(check_features(class_text_features, old.features.shape[-1], "class text"))
    return jnp.concatenate([old.class_text_features, added])
