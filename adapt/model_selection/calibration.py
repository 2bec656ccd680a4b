"""Calibrated probabilities: softmax(τ · logits), with one factor τ per classifier, fitted on the support set."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import numpy as np
from scipy.optimize import brentq, minimize_scalar

from adapt.adapters.base import Adapter, Classifier
from adapt.adapters.support import Support

PSEUDO_EXAMPLES = 2  # as in Platt's targets
SUPPORT_CONFIDENCE = 0.9
_SCALE_RANGE = (1e-4, 1e5)  # searched range of τ times the spread of the logits
_TOLERANCE = 1e-10  # of log τ


class Calibration(NamedTuple):
    """The `factor` τ of the logits, and in words the `source` on which it was fitted."""

    factor: float
    source: str


def calibrate(classifier: Classifier, left_out: np.ndarray | None) -> Calibration:
    """Return the factor τ of the logits of a classifier, given the result of `left_out_logits` on its support set.

    It is fitted on left-out support examples of classes with two or more: without its only example, a class is unknown
    to the classifier. If nothing can be left out, τ is 1 for logits on the scale of text logits, and otherwise it is
    fitted on the support examples themselves.

    Raises `ValueError` for logits that are not finite.
    """
    labels = np.asarray(classifier.support.labels)
    several = np.bincount(labels)[labels] > 1
    if left_out is not None:
        return Calibration(fit_on_left_out(left_out[several], labels[several]), "held-out support images")
    if classifier.support.class_text_features is not None and classifier.adapter.text_logits:
        return Calibration(1.0, "the scale of the text logits")
    factor = fit_on_support(np.asarray(classifier(classifier.support.features)), labels)
    return Calibration(factor, "the support images themselves")


def left_out_logits(adapter: Adapter, support: Support, *, key: jax.Array) -> np.ndarray | None:
    """Return the logits `[n, classes]` of the support examples by fits without the example's fold.

    None if no class has two examples, so that nothing can be left out.
    """
    if not np.bincount(np.asarray(support.labels)).max() > 1:
        return None
    return np.asarray(_left_out_logits(adapter, support, key))


def probabilities(logits: np.ndarray, factor: float) -> np.ndarray:
    """Return softmax(factor · logits) of each row, `[n, classes]`, in float64."""
    scaled = factor * np.asarray(logits, np.float64)
    scaled = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return scaled / scaled.sum(axis=1, keepdims=True)


def fit_on_left_out(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the τ > 0 that minimises the negative log-likelihood of left-out support examples.

    logits: `[n, classes]`, from classifiers fitted without the respective row.
    labels: `[n]`.

    This is temperature scaling (arXiv 1706.04599, section 4.2) with Platt's targets (*Probabilistic outputs for support
    vector machines*, 1999, section 2.2): (n + 2 / classes) / (n + 2) for the row's class and (2 / classes) / (n + 2)
    for every other class, as if there were two more examples of unknown class. Without them, τ would be infinite
    whenever all rows are classified correctly. If no τ is better than chance, τ is so small that all classes are about
    equally likely. If the logits of every row are equal, τ is 1.

    Raises `ValueError` without rows, or for logits that are not finite.
    """
    logits = np.asarray(logits, np.float64)
    if not len(logits) or not np.isfinite(logits).all():
        raise ValueError("cannot calibrate: the left-out logits are empty or not finite")
    count, classes = logits.shape
    targets = np.full(logits.shape, PSEUDO_EXAMPLES / classes / (count + PSEUDO_EXAMPLES))
    targets[np.arange(count), labels] += count / (count + PSEUDO_EXAMPLES)
    logits = logits - logits.max(axis=1, keepdims=True)

    def loss(log_factor: float) -> float:  # convex in τ, so it has one minimum in log τ
        scaled = math.exp(log_factor) * logits
        return float(np.mean(np.log(np.exp(scaled).sum(axis=1)) - (targets * scaled).sum(axis=1)))

    bounds = _log_factor_bounds(logits)
    if bounds is None:
        return 1.0
    return math.exp(minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": _TOLERANCE}).x)


def fit_on_support(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the τ with which the support examples have a mean probability of 0.9 for their class.

    logits: `[n, classes]`, of the support examples by a classifier fitted on them.
    labels: `[n]`.

    This is for support sets of one example per class, from which nothing can be left out. No query is nearer to an
    example than the example itself, so few queries get a probability far above `SUPPORT_CONFIDENCE`. If no τ reaches
    it, the τ that comes nearest is returned; if the logits of every row are equal, 1.
    """
    logits = np.asarray(logits, np.float64)
    logits = logits - logits.max(axis=1, keepdims=True)
    rows = np.arange(len(logits))

    def excess(log_factor: float) -> float:
        return probabilities(logits, math.exp(log_factor))[rows, labels].mean() - SUPPORT_CONFIDENCE

    bounds = _log_factor_bounds(logits)
    if bounds is None:
        return 1.0
    if excess(bounds[0]) < 0 < excess(bounds[1]):
        return math.exp(brentq(excess, *bounds, xtol=_TOLERANCE))
    nearest = minimize_scalar(
        lambda log_factor: abs(excess(log_factor)), bounds=bounds, method="bounded", options={"xatol": _TOLERANCE}
    )
    return math.exp(nearest.x)


def _log_factor_bounds(logits: np.ndarray) -> tuple[float, float] | None:
    """Return the range of log τ to search, relative to the spread of the logits; None if these have no spread."""
    spread = float(np.mean(logits.max(axis=1) - logits.min(axis=1)))
    if not spread > 0:
        return None
    low, high = (math.log(scale / spread) for scale in _SCALE_RANGE)
    return low, high


@jax.jit
def _left_out_logits(adapter: Adapter, support: Support, key: jax.Array) -> jax.Array:
    return adapter.logits(adapter.leave_fold_out(support, key=key))
