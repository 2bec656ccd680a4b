"""Methods that refit in milliseconds while a person labels, chosen and calibrated by leave-one-out.

They are `zero_shot`, `prototypes` and `tip_adapter` of `adapt.adapters`, in NumPy and on cosines that are kept from
click to click: JAX would compile a program for each new number of labels. `adapt.create(fit.method, **fit.settings)` is
the adapter with the same logits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from adapt.adapters.ops import normalize_numpy

SCALE = 100.0  # of cosines, the adapters' default
TEXT_WEIGHTS = (0.0, 0.25, 0.5, 0.75)
ALPHAS = (1.0, 10.0, 100.0, 1000.0)
BETAS = (5.5, 1.0, 20.0, 80.0)


class Labelled(NamedTuple):
    """The labelled pictures.

    features: `[n, dim]`, rows of length 1.
    labels: class numbers `[n]`.
    texts: class text features `[classes, dim]` of length 1, or None.
    num_classes: the number of classes, among them those without labelled pictures.
    """

    features: np.ndarray
    labels: np.ndarray
    texts: np.ndarray | None
    num_classes: int

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


def logits_of(fit: Fit, labelled: Labelled, queries: np.ndarray, cosines: Sequence[np.ndarray]) -> np.ndarray:
    """Return the logits `[queries, classes]` float32 of features `[queries, dim]` of length 1.

    `cosines` are the cosines `[queries]` to each labelled picture.
    """
    if fit.method == "zero_shot":
        return SCALE * queries @ labelled.texts.T
    if fit.method == "prototypes":
        prototypes, known = _prototypes(labelled, **fit.settings)
        return SCALE * np.where(known, queries @ prototypes.T, np.float32(-1))
    logits = np.zeros((len(queries), labelled.num_classes), np.float32)
    if labelled.texts is not None:
        logits += SCALE * queries @ labelled.texts.T
    alpha, beta = np.float32(fit.settings["alpha"]), np.float32(fit.settings["beta"])
    for label, weight in enumerate(_class_weights(labelled.counts)):
        members = np.flatnonzero(labelled.labels == label)
        for row in members:
            logits[:, label] += alpha * np.float32(weight) * np.exp(beta * (cosines[row] - 1))
    return logits


def _left_out(labelled: Labelled) -> Iterator[tuple[str, dict[str, Any], np.ndarray]]:
    """Yield each method with settings, the simplest first, and the logits `[n, classes]` of left-out pictures."""
    gram = labelled.features @ labelled.features.T
    with_texts = labelled.texts is not None
    text_logits = SCALE * labelled.features @ labelled.texts.T if with_texts else 0.0
    tip_adapter = ("tip_adapter", lambda: _left_out_tip_adapter(labelled, gram, text_logits))
    prototypes = ("prototypes", lambda: _left_out_prototypes(labelled))
    methods: list[tuple[str, Callable[[], Iterator[tuple[dict[str, Any], np.ndarray]]]]]
    methods = [tip_adapter, prototypes] if with_texts else [prototypes, tip_adapter]
    if with_texts:
        methods.append(("zero_shot", lambda: iter([({}, text_logits)])))
    for name, settings_and_logits in methods:
        for settings, logits in settings_and_logits():
            yield name, settings, logits


def _prototypes(labelled: Labelled, *, text_weight: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the class vectors `[classes, dim]`, and the mask of the classes that have one."""
    sums = np.zeros((labelled.num_classes, labelled.features.shape[1]), np.float32)
    np.add.at(sums, labelled.labels, labelled.features)
    return _mixed(sums, labelled.counts, labelled.texts, text_weight)


def _mixed(
    sums: np.ndarray, counts: np.ndarray, texts: np.ndarray | None, text_weight: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return class vectors from the sums of their pictures and their texts, and the mask of those that are known."""
    means = normalize_numpy(sums)
    if texts is None:
        return means, counts > 0
    weight = np.where(counts == 0, 1.0, text_weight).astype(np.float32)[:, None]
    return normalize_numpy((1 - weight) * means + weight * texts), np.ones(len(counts), bool)


def _left_out_prototypes(labelled: Labelled) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    features, labels, counts = labelled.features, labelled.labels, labelled.counts
    sums = np.zeros((labelled.num_classes, features.shape[1]), np.float32)
    np.add.at(sums, labels, features)
    texts = labelled.texts
    for text_weight in TEXT_WEIGHTS if texts is not None else TEXT_WEIGHTS[:1]:
        vectors, known = _mixed(sums, counts, texts, text_weight)
        logits = np.where(known, features @ vectors.T, np.float32(-1))
        own_texts = None if texts is None else texts[labels]
        own, known = _mixed(sums[labels] - features, counts[labels] - 1, own_texts, text_weight)
        logits[np.arange(len(labels)), labels] = np.where(known, np.sum(features * own, axis=1), np.float32(-1))
        yield {"text_weight": text_weight}, SCALE * logits


def _left_out_tip_adapter(
    labelled: Labelled, gram: np.ndarray, text_logits: np.ndarray | float
) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    labels, counts = labelled.labels, labelled.counts
    members = np.eye(labelled.num_classes, dtype=np.float32)[labels]
    weights = np.stack([_class_weights(counts - own) for own in members.astype(np.int64)])
    for beta in BETAS:
        near = np.exp(np.float32(beta) * (gram - 1))
        np.fill_diagonal(near, 0)
        cache = (near @ members) * weights
        for alpha in ALPHAS if labelled.texts is not None else ALPHAS[:1]:
            yield {"alpha": alpha, "beta": beta}, text_logits + np.float32(alpha) * cache


def _class_weights(counts: np.ndarray) -> np.ndarray:
    """Return the weight of a picture of each class, `[classes]`: mean number of pictures divided by the class's own."""
    return (counts.sum() / max(np.count_nonzero(counts), 1) / np.maximum(counts, 1)).astype(np.float32)
