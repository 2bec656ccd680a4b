"""Probabilities from logits of any scale: one factor for all of them, found on examples that were left out."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

PSEUDO_EXAMPLES = 2  # as in Platt's targets
UNTESTED_CONFIDENCE = 0.9
_RANGE = (1e-4, 1e5)  # of the factor times the spread of the logits
_GOLDEN = (math.sqrt(5) - 1) / 2
_STEPS = 80  # of the search, each leaves 0.62 of the interval


class Calibration(NamedTuple):
    """The factor τ of logits, and what it was found on."""

    factor: float
    source: str


def probabilities(logits: np.ndarray, factor: float) -> np.ndarray:
    """Returns softmax(factor · logits) of rows `[n, classes]`, in float64."""
    scaled = factor * np.asarray(logits, np.float64)
    scaled = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return scaled / scaled.sum(axis=1, keepdims=True)


def factor_of_left_out(logits: np.ndarray, labels: np.ndarray) -> float:
    """Returns τ > 0 with the least negative log-likelihood of softmax(τ · logits) on left-out rows `[n, classes]`.

    That is temperature scaling (arXiv 1706.04599, section 4.2) with the targets of Platt (*Probabilistic outputs for
    support vector machines*, 1999, section 2.2): a row's class has (n + 2 / classes) / (n + 2) and every other
    2 / classes / (n + 2), as if two more examples had been seen of which nothing is known. Without them τ would be
    infinite wherever all n rows are right. The loss is convex in τ; its minimum is found by golden section on log τ.
    Where no τ tells classes apart better than chance, it is so small that all are equally probable. Raises `ValueError`
    where there are no rows, or logits that are not finite.
    """
    logits = np.asarray(logits, np.float64)
    if not len(logits) or not np.isfinite(logits).all():
        raise ValueError("left-out logits are not finite, or there are none; there is nothing to calibrate with")
    count, classes = logits.shape
    targets = np.full(logits.shape, PSEUDO_EXAMPLES / classes / (count + PSEUDO_EXAMPLES))
    targets[np.arange(count), labels] += count / (count + PSEUDO_EXAMPLES)
    logits = logits - logits.max(axis=1, keepdims=True)

    def loss(log_factor: float) -> float:
        scaled = math.exp(log_factor) * logits
        return float(np.mean(np.log(np.exp(scaled).sum(axis=1)) - (targets * scaled).sum(axis=1)))

    return _least(loss, logits)


def factor_of_examples(logits: np.ndarray, labels: np.ndarray) -> float:
    """Returns the τ with which examples `[n, classes]` that the classifier was made of have a mean of 0.9 for their
    class: `UNTESTED_CONFIDENCE`.

    For classifiers of one picture a class, where nothing can be left out: no query is nearer to an example than the
    example is to itself, so that none is believed much more than this.
    """
    logits = np.asarray(logits, np.float64)
    logits = logits - logits.max(axis=1, keepdims=True)
    rows = np.arange(len(logits))

    def loss(log_factor: float) -> float:
        return abs(probabilities(logits, math.exp(log_factor))[rows, labels].mean() - UNTESTED_CONFIDENCE)

    return _least(loss, logits)


def _least(loss: Callable[[float], float], logits: np.ndarray) -> float:
    """Returns the factor with the least loss, which falls and then rises; 1 where all logits of a row are equal."""
    spread = float(np.mean(logits.max(axis=1) - logits.min(axis=1)))
    if not spread > 0:
        return 1.0
    low, high = (math.log(end / spread) for end in _RANGE)
    inner = [high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)]
    losses = [loss(point) for point in inner]
    for _ in range(_STEPS):
        if losses[0] <= losses[1]:
            high, inner, losses = inner[1], [inner[1] - _GOLDEN * (inner[1] - low), inner[0]], [0.0, losses[0]]
            losses[0] = loss(inner[0])
        else:
            low, inner, losses = inner[0], [inner[1], inner[0] + _GOLDEN * (high - inner[0])], [losses[1], 0.0]
            losses[1] = loss(inner[1])
    return math.exp((low + high) / 2)
