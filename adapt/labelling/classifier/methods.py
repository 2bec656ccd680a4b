"""Methods that refit in milliseconds while a person labels, chosen and calibrated by leave-one-out.

They are `zero_shot`, `prototypes` and `tip_adapter` of `adapt.adapters`, in NumPy: JAX would compile a program for each
new number of labels. All they need are sums of similarities per class, which `similarities.py` keeps from click to
click. `adapt.create(fit.method, **fit.settings)` is the adapter with the same logits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from adapt.labelling.classifier.similarities import BETAS, COSINE

SCALE = np.float32(100)  # of cosines, the adapters' default
TEXT_WEIGHTS = (0.0, 0.25, 0.5, 0.75)
ALPHAS = (1.0, 10.0, 100.0, 1000.0)
_LEAST_LENGTH = 1e-12


class Labelled(NamedTuple):
    """The labelled pictures.

    labels: class numbers `[n]`.
    sums: `[kernels, n, classes]`, the sum of each kernel over the pictures of each class without the picture itself.
    texts: cosines to the class texts `[n, classes]`, or None.
    """

    labels: np.ndarray
    sums: np.ndarray
    texts: np.ndarray | None

    @property
    def num_classes(self) -> int:
        """The number of classes, among them those without labelled pictures."""
        return self.sums.shape[2]

    @property
    def counts(self) -> np.ndarray:
        """The number of labelled pictures of each class, `[classes]`."""
        return np.bincount(self.labels, minlength=self.num_classes)


class Fit(NamedTuple):
    """A method with its settings, and its logits of the labelled pictures without themselves, `[n, classes]`.

    accuracy: the share of the labelled pictures in classes with two or more that are classified correctly without
        their own label; NaN if there is no such class.
    tried: the number of methods and settings that were compared.
    """

    method: str
    settings: dict[str, Any]
    left_out: np.ndarray
    accuracy: float
    tried: int

    @property
    def kernel(self) -> int:
        """The kernel whose sums `logits_of` needs."""
        return 1 + BETAS.index(self.settings["beta"]) if self.method == "tip_adapter" else COSINE


def choose(labelled: Labelled) -> Fit:
    """Return the most accurate method and settings by leave-one-out, the first of equal ones.

    Only pictures of classes with two or more are counted: without its only label, a class is unknown. If there is none,
    the first is `tip_adapter` with class texts and `prototypes` without, with default settings. Without any labels, it
    is `zero_shot`.
    """
    if not len(labelled.labels):
        return Fit("zero_shot", {}, np.zeros((0, labelled.num_classes), np.float32), float("nan"), 0)
    several = labelled.counts[labelled.labels] > 1
    best: Fit | None = None
    tried = 0
    for method, settings, logits in _left_out(labelled):
        tried += 1
        right = logits.argmax(axis=1) == labelled.labels
        accuracy = float(right[several].mean()) if several.any() else float("nan")
        if best is None or accuracy > best.accuracy:
            best = Fit(method, settings, logits, accuracy, 0)
    assert best is not None
    return best._replace(tried=tried)


def logits_of(fit: Fit, labelled: Labelled, sums: np.ndarray, texts: np.ndarray | None) -> np.ndarray:
    """Return the logits `[pictures, classes]` float32.

    `sums` `[pictures, classes]` are those of the kernel `fit.kernel`, a labelled picture itself included, and `texts`
    the cosines to the class texts `[pictures, classes]`.
    """
    if fit.method == "zero_shot":
        return SCALE * texts
    if fit.method == "prototypes":
        return _prototype_logits(sums, texts, _Prototypes.of(labelled), **fit.settings)
    return _tip_adapter_logits(sums, texts, _class_weights(labelled.counts), alpha=fit.settings["alpha"])


def _left_out(labelled: Labelled) -> Iterator[tuple[str, dict[str, Any], np.ndarray]]:
    """Yield each method with settings, the simplest first, and the logits `[n, classes]` of left-out pictures."""
    methods: list[tuple[str, Callable[[Labelled], Iterator[tuple[dict[str, Any], np.ndarray]]]]]
    methods = [("prototypes", _left_out_prototypes), ("tip_adapter", _left_out_tip_adapter)]
    if labelled.texts is not None:
        methods = [*reversed(methods), ("zero_shot", lambda labelled: iter([({}, SCALE * labelled.texts)]))]
    for name, settings_and_logits in methods:
        for settings, logits in settings_and_logits(labelled):
            yield name, settings, logits


class _Prototypes(NamedTuple):
    """Of the sum of the features of a class: the number of summands, its length, and its product with the text."""

    counts: np.ndarray
    lengths: np.ndarray
    texts: np.ndarray

    @classmethod
    def of(cls, labelled: Labelled) -> _Prototypes:
        """Return those of each class, `[classes]`: ‖Σ x‖² = Σ x · Σ y, where x and y are the pictures of the class."""
        labels, counts = labelled.labels, labelled.counts
        rows = np.arange(len(labels))
        squares = counts + np.bincount(labels, labelled.sums[COSINE, rows, labels], len(counts))
        texts = (
            0 * squares if labelled.texts is None else np.bincount(labels, labelled.texts[rows, labels], len(counts))
        )
        return cls(counts, np.sqrt(np.maximum(squares, 0)), texts)

    def without(self, labelled: Labelled) -> _Prototypes:
        """Return those of the class of each labelled picture without the picture, `[n]`."""
        labels, rows = labelled.labels, np.arange(len(labelled.labels))
        squares = self.lengths[labels] ** 2 - 2 * labelled.sums[COSINE, rows, labels] - 1
        texts = self.texts[labels] - (0 if labelled.texts is None else labelled.texts[rows, labels])
        return _Prototypes(self.counts[labels] - 1, np.sqrt(np.maximum(squares, 0)), texts)


def _prototype_logits(
    sums: np.ndarray, texts: np.ndarray | None, prototypes: _Prototypes, *, text_weight: float
) -> np.ndarray:
    """Return SCALE times the cosines to (1 − w) m + w t, m the normalised mean and t the text of a class.

    w is 1 for a class without pictures. If there are no texts, its cosine is −1.
    """
    lengths = np.maximum(prototypes.lengths, _LEAST_LENGTH)
    near = sums / lengths.astype(np.float32)
    if texts is None:
        return SCALE * np.where(prototypes.counts > 0, near, np.float32(-1))
    weight = np.where(prototypes.counts == 0, 1.0, text_weight)
    squares = (1 - weight) ** 2 + 2 * weight * (1 - weight) * prototypes.texts / lengths + weight**2
    scale = SCALE / np.sqrt(np.maximum(squares, _LEAST_LENGTH))
    return (scale * (1 - weight)).astype(np.float32) * near + (scale * weight).astype(np.float32) * texts


def _left_out_prototypes(labelled: Labelled) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    rows, labels, texts = np.arange(len(labelled.labels)), labelled.labels, labelled.texts
    sums, prototypes = labelled.sums[COSINE], _Prototypes.of(labelled)
    own_sums, own = sums[rows, labels], prototypes.without(labelled)
    own_texts = None if texts is None else texts[rows, labels]
    for text_weight in TEXT_WEIGHTS if texts is not None else TEXT_WEIGHTS[:1]:
        logits = _prototype_logits(sums, texts, prototypes, text_weight=text_weight)
        logits[rows, labels] = _prototype_logits(own_sums, own_texts, own, text_weight=text_weight)
        yield {"text_weight": text_weight}, logits


def _tip_adapter_logits(sums: np.ndarray, texts: np.ndarray | None, weights: np.ndarray, *, alpha: float) -> np.ndarray:
    logits = np.float32(alpha) * (sums * weights)
    return logits if texts is None else SCALE * texts + logits


def _left_out_tip_adapter(labelled: Labelled) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    labels, counts = labelled.labels, labelled.counts
    without = counts - np.eye(labelled.num_classes, dtype=np.int64)  # a row for each class of the left-out picture
    weights = np.stack([_class_weights(row) for row in without])[labels]
    for beta, sums in zip(BETAS, labelled.sums[COSINE + 1 :], strict=True):
        for alpha in ALPHAS if labelled.texts is not None else ALPHAS[:1]:
            yield (
                {"alpha": alpha, "beta": beta},
                _tip_adapter_logits(sums, labelled.texts, weights, alpha=alpha),
            )


def _class_weights(counts: np.ndarray) -> np.ndarray:
    """Return the weight of a picture of each class, `[classes]`: mean number of pictures divided by the class's own."""
    return (counts.sum() / max(np.count_nonzero(counts), 1) / np.maximum(counts, 1)).astype(np.float32)
