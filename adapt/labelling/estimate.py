"""The accuracy to expect, from labelled pictures that are classified without their own labels."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from adapt.photos.expected_accuracy import wilson_interval


class Estimate(NamedTuple):
    """The number of left-out labelled pictures that are classified correctly, and Wilson's interval at 95 %."""

    correct: int
    total: int
    low: float
    high: float

    @property
    def accuracy(self) -> float:
        """The share of correct ones."""
        return self.correct / self.total


def estimate_accuracy(left_out: np.ndarray, labels: np.ndarray) -> Estimate | None:
    """Return the estimate from logits `[n, classes]` of labelled pictures without their labels `[n]`.

    Classes with one labelled picture are not counted: without it, they are unknown. None if no class has two.

    The labelled pictures are not a random sample: those that are hard to classify are shown first, so the accuracy on
    all pictures is usually higher.
    """
    several = np.bincount(labels)[labels] > 1
    total = int(several.sum())
    if not total:
        return None
    correct = int((left_out.argmax(axis=1) == labels)[several].sum())
    low, high = wilson_interval(correct, total)
    return Estimate(correct, total, low, high)
