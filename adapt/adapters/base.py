"""The definition of an adapter: settings, and pure functions from a support set to the logits of queries.

A new adapter is a subclass of `Adapter` decorated with `pytree`; docs/guides/extending.md shows a complete one.
Adapters, support sets and classifiers are pytrees, so that `jax.vmap` can map over seeds, shots and settings in one
compiled call. Support rows with label −1 are padding.
"""

from __future__ import annotations

import dataclasses
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from adapt.adapters.classifier_files import write_classifier
from adapt.adapters.ops import in_blocks, normalize
from adapt.adapters.pytrees import pytree, settings_of
from adapt.adapters.support import FOLDS, Support, extend_support, make_support, over_fold_rows
from adapt.adapters.validation import check_features
from foundation.deprecation import warn_renamed

State = dict[str, jax.Array]
Terms = tuple[jax.Array, ...]

_RENAMED = {
    "check": "check_settings",
    "learn": "fit_state",
    "learn_more": "extend_state",
    "terms": "logit_terms",
    "left_out": "leave_one_out",
    "left_out_by_folds": "leave_fold_out",
    "weights": "term_weights",
}


class Adapter:
    """Base class of all adapters.

    The settings of a subclass are its dataclass fields. It overrides `logit_terms`, and where needed:

    - `fit_state`: what is computed or trained once from the support set;
    - `extend_state`: the same after support examples were added (default: fit again);
    - `leave_one_out`: the logit terms of each support row without that row, in closed form, for selection;
    - `check_settings` and `check_support`: errors for invalid input.

    The logits are `terms[0] + Σ_j w_j · terms[j]`, where w_j is the setting `term_weights[j − 1]`; a subclass that
    combines its terms in another way overrides `logits`. Terms do not depend on these settings, so selection computes
    them once for all values. All methods but the checks are pure and traceable by JAX.
    """

    name: ClassVar[str]  # in METHODS, reports and files
    training_free: ClassVar[bool] = True  # no gradient descent
    local: ClassVar[bool] = False  # changes predictions only near the support examples
    needs_text: ClassVar[bool] = False  # class_text_features are required
    text_logits: ClassVar[bool] = True  # with class texts, logits are zero-shot logits plus a correction
    transductive: ClassVar[bool] = False  # the logits of a query depend on the other queries, with these settings
    select_by_folds: ClassVar[bool] = False  # selection leaves out folds, although there is a closed form
    term_weights: ClassVar[tuple[str, ...]] = ()  # settings that multiply the terms after the first
    grid: ClassVar[Mapping[str, tuple[Any, ...]]] = {}  # values that selection tries per setting, the default first

    @property
    def closed_form(self) -> bool:
        """Whether `leave_one_out` leaves out single rows, at about the cost of one fit."""
        return type(self).leave_one_out is not Adapter.leave_one_out

    def check_settings(self) -> None:
        """Raise `ValueError` for a setting outside its range."""

    def check_support(self, support: Support) -> None:
        """Raise `ValueError` if the method cannot work with this support set."""
        if self.needs_text and support.class_text_features is None:
            raise ValueError(
                f"{type(self).__name__} needs class_text_features. Pass the embeddings of the class texts, or use a "
                "method that works without."
            )

    def fit_state(self, support: Support, *, key: jax.Array, start: State | None = None) -> State:
        """Return the arrays that are computed once from the support set.

        `key` is the source of randomness. `start` is the state in which training begins (default: the method's own).
        """
        return {}

    def extend_state(self, state: State, old: Support, new: Support, *, key: jax.Array) -> State:
        """Return the state for the support set `new`, given the `state` fitted on `old`.

        `new` begins with the rows and the classes of `old`.
        """
        return self.fit_state(new, key=key)

    def logit_terms(self, state: State, support: Support, x: jax.Array) -> Terms:
        """Return the terms of the logits of queries `x`, `[queries, classes]` each.

        `x` `[queries, dim]` has rows of length 1; `state` is the result of `fit_state`.
        """
        raise TypeError(f"{type(self).__name__} does not define logit_terms")

    def leave_one_out(self, support: Support, *, key: jax.Array) -> Terms:
        """Return the logit terms of every support row, `[n, classes]` each, from a fit without that row.

        Methods without a closed form inherit this default, which leaves out folds.
        """
        return self.leave_fold_out(support, key=key)

    def leave_fold_out(self, support: Support, *, key: jax.Array) -> Terms:
        """Return the logit terms of every support row, `[n, classes]` each, from a fit without the row's fold.

        Every class is split evenly into `FOLDS` folds.
        """

        def terms_of(rest: Support, x: jax.Array) -> Terms:
            return self.logit_terms(self.fit_state(rest, key=key), rest, x)

        if self.transductive:
            return over_folds(lambda rest: terms_of(rest, support.features), support)
        features = support.features
        return over_fold_rows(lambda fold: terms_of(support.take(fold.others), features[fold.rows]), support)

    def logits(self, terms: Terms) -> jax.Array:
        """Return the weighted sum of the terms, `[queries, classes]`."""
        first, *others = terms
        return first + sum(getattr(self, name) * term for name, term in zip(self.term_weights, others, strict=True))

    def with_term_weights(self, values: Sequence[Any]) -> Adapter:
        """Return the adapter with `values` of the settings `term_weights`."""
        return dataclasses.replace(self, **dict(zip(self.term_weights, values, strict=True)))

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
        """Return the classifier fitted on a support set.

        support_features: embeddings `[n, dim]` of the support images; they need not be normalised.
        support_labels: integers `[n]` in [0, classes).
        class_text_features: embeddings `[classes, dim]` of the class texts, if the method uses them.
        num_classes: number of classes (default: rows of `class_text_features`, or the largest label plus one).
        logit_scale: factor of the cosines between images and texts.
        key: random key or seed, for methods with random initialisation.

        Raises `ValueError` for arrays or settings that are invalid or do not match.
        """
        support = make_support(
            support_features,
            support_labels,
            class_text_features=class_text_features,
            num_classes=num_classes,
            logit_scale=logit_scale,
        )
        self.check_support(support)
        check_not_stacked(self)
        return Classifier(self, support, _fit_state(self, support, as_key(key)))

    def fit_support(self, support: Support, *, key: jax.Array | None = None) -> Classifier:
        """Return the classifier fitted on a `Support`, without checks; for use inside `jax.jit` and `jax.vmap`."""
        key = jax.random.key(0) if key is None else key
        return Classifier(self, support, self.fit_state(support, key=key))

    def __init_subclass__(cls, **options: Any) -> None:
        """Accept the former names of overridden methods and attributes, with a warning."""
        super().__init_subclass__(**options)
        for old, new in _RENAMED.items():
            if old in cls.__dict__ and new not in cls.__dict__ and old not in inspect.get_annotations(cls):
                warn_renamed(f"Adapter.{old}", f"Adapter.{new}")
                setattr(cls, new, cls.__dict__[old])
        if isinstance(cls.__dict__.get("per_query"), bool):
            warn_renamed("Adapter.per_query", "Adapter.transductive, its opposite")
            cls.transductive = not cls.__dict__["per_query"]

    def __getattr__(self, name: str) -> Any:
        if name not in _RENAMED:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        warn_renamed(f"Adapter.{name}", f"Adapter.{_RENAMED[name]}")
        return getattr(self, _RENAMED[name])


@pytree
class Classifier:
    """A fitted adapter. Call it with features `[queries, dim]` for logits `[queries, classes]`.

    It is a pytree: it can be passed into compiled functions, and a stack of classifiers can be mapped over.
    """

    adapter: Adapter
    support: Support
    state: State

    def __call__(self, features: Any) -> jax.Array:
        """Return the logits `[queries, classes]` of features `[queries, dim]`, which need not be normalised.

        Raises `ValueError` for features that are not finite or have another `dim` than the support set.
        """
        self._check_not_stacked()
        return _logits(self, check_features(features, self.support.features.shape[-1], "query"))

    def unit_logits(self, x: jax.Array) -> jax.Array:
        """Return the logits `[queries, classes]` of rows of length 1, `x` `[queries, dim]`, without checks.

        For use inside `jax.jit` and `jax.vmap`.
        """
        adapter, support = self.adapter, self.support

        def logits(x: jax.Array) -> jax.Array:
            return adapter.logits(adapter.logit_terms(self.state, support, x))

        if adapter.transductive:
            return logits(x)
        return in_blocks(logits, max(support.features.shape[0], support.num_classes), x)

    def predict(self, features: Any) -> jax.Array:
        """Return the most likely class of each query, `[queries]`; the first of equally likely ones."""
        return jnp.argmax(self(features), axis=-1)

    def predict_proba(self, features: Any) -> jax.Array:
        """Return the softmax of the logits, `[queries, classes]`.

        The scale of the logits differs between methods, so these are not calibrated; those of
        `adapt.FewShotClassifier` are.
        """
        return jax.nn.softmax(self(features), axis=-1)

    def extend(self, features: Any, labels: Any, *, class_text_features: Any = None) -> Classifier:
        """Return the classifier with more support examples, of known classes or of new ones.

        New classes are numbered after the known ones. If the classifier has class texts, new classes need theirs,
        `class_text_features` `[new classes, dim]`, and may have no support examples. Training-free methods give the
        same result as `fit` on all examples; trained methods continue from their present state.
        """
        self._check_not_stacked()
        new = extend_support(self.support, features, labels, class_text_features=class_text_features)
        state = _extend_state(self.adapter, self.state, self.support, new, jax.random.key(0))
        return Classifier(self.adapter, new, state)

    def save(self, path: str | os.PathLike) -> None:
        """Write the classifier to a folder that `adapt.load` opens.

        The folder, which is created, gets `classifier.json` and `classifier.safetensors`.
        """
        self._check_not_stacked()
        write_classifier(
            path,
            method=self.adapter.name,
            settings=settings_of(self.adapter),
            support=self.support,
            state=self.state,
        )

    def __repr__(self) -> str:
        return f"Classifier({self.adapter!r}, {self.support!r})"

    def _check_not_stacked(self) -> None:
        if self.support.features.ndim != 2:
            raise ValueError(
                f"{self.support.features.shape[0]} classifiers are stacked. Use jax.vmap, or take one out first."
            )


def over_folds(terms_of: Callable[[Support], Terms], support: Support) -> Terms:
    """Return the terms of every row from `terms_of(support without the row's fold)`."""
    fold = support.folds
    folds = jax.lax.map(lambda number: terms_of(support.without(fold == number)), jnp.arange(FOLDS))
    return tuple(term[fold, jnp.arange(len(fold))] for term in folds)


def as_key(key: jax.Array | int | None) -> jax.Array:
    """Return a random key: `key` itself, or the key of a seed (default: 0)."""
    return key if isinstance(key, jax.Array) else jax.random.key(0 if key is None else key)


def check_not_stacked(adapter: Adapter) -> None:
    """Raise `ValueError` for an adapter with arrays of settings, or with a setting outside its range."""
    leaves = jax.tree.leaves(adapter)
    if any(np.ndim(leaf) for leaf in leaves):
        raise ValueError(f"settings of {type(adapter).__name__} are stacked. Map over them with jax.vmap.")
    if not any(isinstance(leaf, jax.Array | np.ndarray) for leaf in leaves):
        adapter.check_settings()


@jax.jit
def _fit_state(adapter: Adapter, support: Support, key: jax.Array) -> State:
    return adapter.fit_state(support, key=key)


@jax.jit
def _extend_state(adapter: Adapter, state: State, old: Support, new: Support, key: jax.Array) -> State:
    return adapter.extend_state(state, old, new, key=key)


@jax.jit
def _logits(classifier: Classifier, features: jax.Array) -> jax.Array:
    return classifier.unit_logits(normalize(features))
