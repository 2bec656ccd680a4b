"""What every adapter is: settings, and pure functions from labelled examples to logits of queries.

Adapters, supports and classifiers are pytrees, so that seeds, shots and settings can be mapped over in one compiled
call. A support row whose label is −1 is not there; that is how supports of different size share one shape.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from adapt.checks import check_features, check_setting, check_support
from adapt.features import cosines, in_blocks, normalize, one_hot

T = TypeVar("T")
State = dict[str, jax.Array]
Terms = tuple[jax.Array, ...]

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


class Adapter:
    """Base of all adapters. A subclass has settings as fields and says what it learns and how it classifies.

    Logits are `terms[0] + Σ_j weights[j] · terms[j]`, where `weights` names the settings that the terms do not depend
    on; so selection computes the terms once for all values of those. `grid` lists the values of each setting that
    selection tries, the default first.
    """

    training_free: ClassVar[bool] = True
    local: ClassVar[bool] = False
    needs_text: ClassVar[bool] = False
    text_logits: ClassVar[bool] = True  # where there is text, logits are those of the texts and what is added
    closed_form: ClassVar[bool] = True  # `left_out` leaves out one row, and costs about as much as none
    select_by_folds: ClassVar[bool] = False  # though there is a closed form
    per_query: ClassVar[bool] = True  # logits of a query do not depend on the others
    weights: ClassVar[tuple[str, ...]] = ()
    grid: ClassVar[Mapping[str, tuple[Any, ...]]] = {}

    def check(self) -> None:
        """Raises `ValueError` for a setting outside its range."""

    def learn(self, support: Support, *, key: jax.Array, start: State | None = None) -> State:
        """Returns what is computed from the support once; `key` is the randomness, `start` what was learned before.

        Pure, and traceable by JAX.
        """
        return {}

    def learn_more(self, state: State, old: Support, new: Support, *, key: jax.Array) -> State:
        """Returns what is computed from `new`, whose first rows are those of `old`, `state` being that of `old`."""
        return self.learn(new, key=key)

    def terms(self, state: State, support: Support, x: jax.Array) -> Terms:
        """Returns the terms of the logits of unit rows `x` `[queries, dim]`, `[queries, classes]` each."""
        raise TypeError(f"{type(self).__name__} lacks terms")

    def left_out(self, support: Support, *, key: jax.Array) -> Terms:
        """Returns the terms of each support row's logits, `[n, classes]`, by what is learned without that row.

        Methods without a closed form leave out folds instead.
        """
        return self.left_out_by_folds(support, key=key)

    def left_out_by_folds(self, support: Support, *, key: jax.Array) -> Terms:
        """Returns the same by what is learned without the row's fold: one of `FOLDS` equal shares of every class."""

        def terms(others: Support) -> Terms:
            return self.terms(self.learn(others, key=key), others, support.features)

        return by_folds(terms, support)

    def logits(self, terms: Terms) -> jax.Array:
        """Returns the logits that the terms make up."""
        first, *others = terms
        return first + sum(getattr(self, name) * term for name, term in zip(self.weights, others, strict=True))

    def fit_support(self, support: Support, *, key: jax.Array | None = None) -> Classifier:
        """Returns the classifier; pure, and traceable by JAX."""
        key = jax.random.key(0) if key is None else key
        return Classifier(self, support, self.learn(support, key=key))

    def fit(
        self,
        support_features: Any,
        support_labels: Any,
        *,
        class_text_features: Any = None,
        num_classes: int | None = None,
        logit_scale: float = 100.0,
        key: jax.Array | int | None = None,
    ) -> Classifier:
        """Returns the classifier of examples `[n, dim]`, of any length, with labels `[n]` in [0, classes).

        The number of classes is that of `class_text_features` `[classes, dim]`, or `num_classes`, or the largest label
        plus one. `key`, a random key or a seed, is the randomness of methods that have any. Raises `ValueError` for
        input that does not fit together.
        """
        support = make_support(
            support_features,
            support_labels,
            class_text_features=class_text_features,
            num_classes=num_classes,
            logit_scale=logit_scale,
        )
        self.check_support(support)
        check_single(self)
        return Classifier(self, support, _learn(self, support, as_key(key)))

    def check_support(self, support: Support) -> None:
        """Raises `ValueError` where the method cannot work with this support."""
        if self.needs_text and support.class_text_features is None:
            raise ValueError(f"{type(self).__name__} needs class_text_features")


@pytree
class Classifier:
    """An adapter with what it learned: maps features `[queries, dim]`, of any length, to logits `[queries, classes]`.

    A pytree: it can be passed into compiled functions, and stacked ones mapped over.
    """

    adapter: Adapter
    support: Support
    state: State

    def __call__(self, features: Any) -> jax.Array:
        """Returns logits; raises `ValueError` for features that are not finite or have another `dim`."""
        self._check_single()
        return _apply(self, check_features(features, self.support.features.shape[-1], "query"))

    def extend(self, features: Any, labels: Any, *, class_text_features: Any = None) -> Classifier:
        """Returns the classifier with more examples, of classes it knows or of new ones, whose numbers follow.

        Where classes have text, new ones need theirs: `class_text_features` `[new classes, dim]`; a new class with
        text needs no example. The methods with a cache and the Gaussian ones give the same as `fit` on all examples;
        the trained ones start from what they learned.
        """
        self._check_single()
        old, text = self.support, class_text_features
        num_classes, dim = old.num_classes, old.features.shape[-1]
        if old.class_text_features is not None and text is not None:
            text = normalize(check_features(text, dim, "class text"))
            text = jnp.concatenate([old.class_text_features, text])
            num_classes = len(text)
        elif text is not None:
            raise ValueError("class_text_features are for classifiers that have text of all their classes")
        elif old.class_text_features is not None:
            text = old.class_text_features
        if len(features) or num_classes == old.num_classes:
            features, labels, known = check_support(features, labels, dim=dim, num_classes=None)
            if old.class_text_features is None:
                num_classes = max(num_classes, known)
            elif known > num_classes:
                raise ValueError(
                    f"class {known - 1} is new and classes have text; give class_text_features [new classes, {dim}] of "
                    f"the classes from {old.num_classes} on"
                )
        else:  # a class by its text alone
            features, labels = np.zeros((0, dim), np.float32), np.zeros(0, np.int32)
        new = Support(
            jnp.concatenate([old.features, normalize(features)]),
            jnp.concatenate([old.labels, jnp.asarray(labels, jnp.int32)]),
            text,
            old.logit_scale,
            num_classes=num_classes,
        )
        return Classifier(self.adapter, new, _learn_more(self.adapter, self.state, old, new, jax.random.key(0)))

    def _check_single(self) -> None:
        if self.support.features.ndim != 2:
            raise ValueError(
                f"{self.support.features.shape[0]} classifiers are stacked here; map over them with jax.vmap"
            )

    def save(self, path: str | os.PathLike) -> None:
        """Writes a folder that `adapt.load` opens: `classifier.json`, and `classifier.safetensors` with the arrays."""
        from adapt.saving import save

        save(self, path)


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


def by_folds(terms: Callable[[Support], Terms], support: Support) -> Terms:
    """Returns of each row what `terms` gives for the support without the row's fold."""
    fold = support.folds
    folds = jax.lax.map(lambda number: terms(support.without(fold == number)), jnp.arange(FOLDS))
    return tuple(term[fold, jnp.arange(len(fold))] for term in folds)


def as_key(key: jax.Array | int | None) -> jax.Array:
    """Returns a random key: that of a seed, 0 if None."""
    return key if isinstance(key, jax.Array) else jax.random.key(0 if key is None else key)


def check_single(adapter: Adapter) -> None:
    """Raises `ValueError` for an adapter outside its range, or with settings to be mapped over."""
    leaves = jax.tree.leaves(adapter)
    if any(np.ndim(leaf) for leaf in leaves):
        raise ValueError(f"settings of {type(adapter).__name__} are stacked here; map over them with jax.vmap")
    if not any(isinstance(leaf, jax.Array | np.ndarray) for leaf in leaves):
        adapter.check()


@jax.jit
def _learn(adapter: Adapter, support: Support, key: jax.Array) -> State:
    return adapter.learn(support, key=key)


@jax.jit
def _learn_more(adapter: Adapter, state: State, old: Support, new: Support, key: jax.Array) -> State:
    return adapter.learn_more(state, old, new, key=key)


@jax.jit
def _apply(classifier: Classifier, features: jax.Array) -> jax.Array:
    adapter, support = classifier.adapter, classifier.support
    if not adapter.per_query:
        return adapter.logits(adapter.terms(classifier.state, support, normalize(features)))
    columns = max(support.features.shape[0], support.num_classes)
    return in_blocks(
        lambda x: adapter.logits(adapter.terms(classifier.state, support, x)), columns, normalize(features)
    )
