"""What every adapter is: settings, and pure functions from labelled examples to logits of queries.

Adapters, supports and classifiers are pytrees, so that seeds, shots and settings can be mapped over in one compiled
call. A support row whose label is −1 is not there; that is how supports of different size share one shape.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import tempfile
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from adapt.adapters.ops import in_blocks, normalize
from adapt.adapters.support import FOLDS, Support, make_support, pytree
from adapt.adapters.validation import check_features, check_support

JSON_FILE, ARRAYS_FILE = "classifier.json", "classifier.safetensors"
MOST_CLASSES = 1 << 24  # of a classifier in a file; logits of more take 64 MB a query
FORMAT = 1  # of the two files

State = dict[str, jax.Array]
Terms = tuple[jax.Array, ...]


class Adapter:
    """Base of all adapters. A subclass has settings as fields and says what it learns and how it classifies.

    Logits are `terms[0] + Σ_j weights[j] · terms[j]`, where `weights` names the settings that the terms do not depend
    on; so selection computes the terms once for all values of those. `grid` lists the values of each setting that
    selection tries, the default first.
    """

    name: ClassVar[str]
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
        save(self, path)


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
        "format": FORMAT,
        "method": classifier.adapter.name,
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


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float) else np.asarray(value).item()


def settings_of(adapter: Adapter) -> dict[str, Any]:
    """Returns the settings that `create` makes the adapter of."""
    settings = {field.name: getattr(adapter, field.name) for field in dataclasses.fields(adapter)}
    if "inner" in settings:
        inner = settings["inner"]
        settings |= {"inner": inner.name} | settings_of(inner)
    return settings
