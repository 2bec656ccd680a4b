"""A few-shot classifier with the interface of scikit-learn, around the adapters."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from typing import Any, Self

import jax
import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from adapt.adapters.base import Classifier
from adapt.adapters.pytrees import settings_of
from adapt.adapters.registry import METHODS, create
from adapt.adapters.serialization import load
from adapt.estimators.class_file import NamedClasses, read_classes, write_classes
from adapt.model_selection.calibration import Calibration, calibrate, left_out_logits, probabilities

UNCALIBRATED = Calibration(1.0, "not calibrated")
_DTYPES = (np.float32, np.float64)
_MIN_ROWS, _MAX_ROWS = 64, 4096  # queries are padded to a power of two between these, or to a multiple of the last


class FewShotClassifier(ClassifierMixin, BaseEstimator):
    """A scikit-learn classifier of features by one of the methods of `adapt.methods()`.

    method: a name in `adapt.METHODS`.
    class_text_features: text features `[dim]` by class name, such as `dict(zip(names, encoder.embed_texts(names)))`,
        for methods that use texts. The names are the classes; those without examples are predicted by their texts.
    logit_scale: factor of the cosines between images and texts.
    calibrate: calibrate `predict_proba` on held-out support examples, which fits the method four more times.
    random_state: seed of methods with random initialisation.
    settings: settings of the method, such as `alpha=1.0`, with the method's defaults for the rest. As with other
        parameters, `set_params` and grids of scikit-learn set them.

    After `fit`:

    classes_: class names or numbers `[classes]`, sorted; `partial_fit` appends new ones.
    classifier_: the fitted `adapt.Classifier`, a pytree that maps features to logits.
    calibration_: the factor of the logits, and on which examples it was fitted.
    n_features_in_: dimensions of the features.

    The texts are an argument of the constructor, by class name, and not of `fit`: so each fold of a cross-validation
    finds the texts of the classes that it has, and neither pipelines nor searches need to route metadata.
    """

    def __init__(
        self,
        method: str = "prototypes",
        *,
        class_text_features: Mapping[Any, Any] | None = None,
        logit_scale: float = 100.0,
        calibrate: bool = True,
        random_state: int | np.random.RandomState | None = 0,
        **settings: Any,
    ):
        self.method = method
        self.class_text_features = class_text_features
        self.logit_scale = logit_scale
        self.calibrate = calibrate
        self.random_state = random_state
        for name, value in settings.items():
            setattr(self, name, value)

    def fit(self, X: Any, y: Any) -> Self:
        """Fit the method on features `[n, dim]`, which need not be normalised, and labels `[n]`, names or numbers.

        Raises `ValueError` for unknown settings and for arrays that are invalid or do not match.
        """
        X, y = self._check_examples(X, y, reset=True)
        return self._fit(X, y, np.unique(y))

    def partial_fit(self, X: Any, y: Any, classes: Any = None) -> Self:
        """Add examples of known classes or of new ones, as `Classifier.extend` does; the first call fits.

        Training-free methods give the same result as `fit` on all examples, trained ones continue from their present
        state. New classes follow the known ones in `classes_`, so that the columns of probabilities keep their places.
        With class texts, add those of new classes to the parameter `class_text_features` first.

        classes: all classes, if the first call lacks examples of some. Later calls may leave it out.
        """
        first = not hasattr(self, "classifier_")
        X, y = self._check_examples(X, y, reset=first)
        named = np.unique(y) if classes is None else np.unique(np.concatenate([np.unique(classes), np.unique(y)]))
        if first:
            return self._fit(X, y, named)
        texts = self._texts(named)
        known = set(self.classes_.tolist())
        new = [name for name in (named.tolist() if texts is None else sorted(texts)) if name not in known]
        if texts is None and not set(new) <= set(y.tolist()):
            raise ValueError(f"new classes {sorted(set(new) - set(y.tolist()))} have no examples. Leave them out.")
        names = np.concatenate([self.classes_, np.asarray(new)]) if new else self.classes_
        text_rows = None if texts is None or not new else _stack(texts, new)
        classifier = self.classifier_.extend(X, _numbers(names, y), class_text_features=text_rows)
        return self._set_classifier(classifier, names)

    def predict(self, X: Any) -> np.ndarray:
        """Return the most likely class of each query, `[queries]`, for features `[queries, dim]`."""
        numbers = np.argmax(self._logits(X), axis=1)
        return self.classes_[numbers]

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of each class in the order of `classes_`, `[queries, classes]`.

        It is softmax(τ · logits), with the factor τ in `calibration_`.
        """
        logits = self._logits(X)
        return probabilities(logits, self.calibration_.factor)

    def save(self, path: str | os.PathLike) -> None:
        """Write the classifier with its class names and calibration to a folder, which `load` opens.

        `adapt.load` opens the same folder as an `adapt.Classifier`, which numbers the classes.
        """
        check_is_fitted(self)
        self.classifier_.save(path)
        write_classes(path, NamedClasses(self.classes_, self.calibration_))

    @classmethod
    def load(cls, path: str | os.PathLike) -> Self:
        """Return the classifier in a folder that `save`, `Classifier.save` or `launch.py adapt` wrote.

        Without class names in the folder, the classes are numbers, and the calibration is fitted again. Raises
        `FileNotFoundError` or `ValueError` as `adapt.load` does, and for class names of another classifier.
        """
        classifier = load(path)
        support = classifier.support
        named = read_classes(path, support.num_classes)
        names = np.arange(support.num_classes) if named is None else named.names
        texts = support.class_text_features
        estimator = cls(
            classifier.adapter.name,
            class_text_features=None if texts is None else dict(zip(names.tolist(), np.asarray(texts), strict=True)),
            logit_scale=float(support.logit_scale),
            calibrate=named is None or named.calibration != UNCALIBRATED,
            **settings_of(classifier.adapter),
        )
        estimator.n_features_in_ = support.features.shape[1]
        estimator._set_classifier(classifier, names, None if named is None else named.calibration)
        return estimator

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters of the constructor, among them the settings of the method that were passed."""
        return super().get_params(deep) | self._settings

    def set_params(self, **params: Any) -> Self:
        """Set parameters of the constructor or settings of the method; raises `ValueError` for unknown settings."""
        settings = {name: params.pop(name) for name in list(params) if name not in self._get_param_names()}
        super().set_params(**params)
        if settings and isinstance(self.method, str) and self.method in METHODS:
            create(self.method, **self._settings | settings)
        for name, value in settings.items():
            setattr(self, name, value)
        return self

    @property
    def _settings(self) -> dict[str, Any]:
        """The settings of the method: scikit-learn's fitted attributes end with, and private ones begin with, "_"."""
        own = set(self._get_param_names())
        names = (name for name in vars(self) if name not in own and name[0] != "_" and name[-1] != "_")
        return {name: getattr(self, name) for name in names}

    def __repr__(self, N_CHAR_MAX: int = 700) -> str:
        defaults = {name: each.default for name, each in inspect.signature(type(self)).parameters.items()}
        changed = {"method": self.method} | {
            name: value
            for name, value in self.get_params(False).items()
            if name not in defaults or (type(value), repr(value)) != (type(defaults[name]), repr(defaults[name]))
        }
        if self.class_text_features is not None:
            changed["class_text_features"] = _Abbreviated(f"<{len(self.class_text_features)} classes>")
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in changed.items())})"

    def _check_examples(self, X: Any, y: Any, *, reset: bool) -> tuple[np.ndarray, np.ndarray]:
        X, y = validate_data(self, X, y, reset=reset, dtype=_DTYPES)
        check_classification_targets(y)
        return X, y

    def _fit(self, X: np.ndarray, y: np.ndarray, names: np.ndarray) -> Self:
        texts = self._texts(names)
        if texts is not None:
            names = np.unique(np.asarray(list(texts)))
        classifier = create(self.method, **self._settings).fit(
            X,
            _numbers(names, y),
            class_text_features=None if texts is None else _stack(texts, names.tolist()),
            num_classes=len(names),
            logit_scale=self.logit_scale,
            key=self._key(),
        )
        return self._set_classifier(classifier, names)

    def _set_classifier(
        self, classifier: Classifier, names: np.ndarray, calibration: Calibration | None = None
    ) -> Self:
        if calibration is None and self.calibrate:
            left_out = left_out_logits(classifier.adapter, classifier.support, key=self._key())
            calibration = calibrate(classifier, left_out)
        self.classes_ = names
        self.classifier_ = classifier
        self.calibration_ = calibration or UNCALIBRATED
        return self

    def _texts(self, names: np.ndarray) -> Mapping[Any, Any] | None:
        """Return the class texts by name, after a check that there is one for each of `names`."""
        texts = self.class_text_features
        if texts is None:
            return None
        if not isinstance(texts, Mapping):
            raise ValueError(
                f"class_text_features is a {type(texts).__name__}. Pass a mapping from class name to features, such as "
                "dict(zip(names, features))."
            )
        missing = [name for name in names.tolist() if name not in texts]
        if missing:
            raise ValueError(
                f"class_text_features lacks {len(missing)} classes, first {missing[0]!r}. Add their texts."
            )
        return texts

    def _logits(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=_DTYPES)
        if self.classifier_.adapter.transductive:
            return np.asarray(self.classifier_(X))
        unit = min(max(1 << (len(X) - 1).bit_length(), _MIN_ROWS), _MAX_ROWS)  # few shapes: each new one is compiled
        return np.asarray(self.classifier_(np.pad(X, [(0, -len(X) % unit), (0, 0)])))[: len(X)]

    def _key(self) -> jax.Array:
        return jax.random.key(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))


class _Abbreviated(str):
    """Text that is its own `repr`."""

    def __repr__(self) -> str:
        return str(self)


def _numbers(names: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the class number of each label, `[n]`."""
    numbers = {name: number for number, name in enumerate(names.tolist())}
    return np.array([numbers[label] for label in y.tolist()], np.int32)


def _stack(texts: Mapping[Any, Any], names: list[Any]) -> np.ndarray:
    """Return the texts of the classes `names`, `[classes, dim]`."""
    rows = [np.asarray(texts[name]) for name in names]
    shapes = {row.shape for row in rows}
    if len(shapes) > 1 or rows[0].ndim != 1:
        shape, name = next(
            (row.shape, name) for row, name in zip(rows, names, strict=True) if row.ndim != 1 or len(shapes) > 1
        )
        raise ValueError(f"class_text_features of {name!r} have shape {list(shape)}, expected [dim], the same for all.")
    return np.stack(rows)
