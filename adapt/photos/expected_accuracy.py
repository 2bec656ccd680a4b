"""The accuracy to expect on the query images, from cross-validation on the support set."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np

_LEAST_SKILL = 0.25  # of the way from chance to no error; below it, an accuracy is little better than chance


class ExpectedAccuracy(NamedTuple):
    """The number of held-out support images that are classified correctly, and what it says about other images.

    low, high: Wilson's interval of the accuracy at 95%.
    chance: the accuracy of always answering the largest class.
    """

    correct: int
    total: int
    low: float
    high: float
    chance: float

    @property
    def near_chance(self) -> bool:
        """Whether the accuracy is little better than chance, or may be by its interval."""
        skill = (self.correct / self.total - self.chance) / (1 - self.chance)
        return self.low <= self.chance or skill < _LEAST_SKILL


def expect_accuracy(accuracy: float, labels: np.ndarray) -> ExpectedAccuracy | None:
    """Return what `accuracy` on held-out support images with `labels` `[n]` predicts, or None if it is NaN.

    The interval is the score interval of E. B. Wilson (Journal of the American Statistical Association 22, 1927), which
    holds for few images and near 100%, where Student's does not. It takes the images as independent draws of what is
    to be classified, and includes neither the choice of the best method nor a change between the two folders.
    """
    if math.isnan(accuracy):
        return None
    total = len(labels)
    correct = round(accuracy * total)
    chance = float(np.bincount(labels).max()) / total
    return ExpectedAccuracy(correct, total, *wilson_interval(correct, total), chance)


@functools.lru_cache(maxsize=4096)
def wilson_interval(correct: int, total: int) -> tuple[float, float]:
    """Return the score interval at 95% of a share of `correct` ones in `total`."""
    from scipy.stats import binomtest

    interval = binomtest(correct, total).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)
