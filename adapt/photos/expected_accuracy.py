"""The accuracy to expect on the query images, from cross-validation on the support set, and what is wrong with it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from adapt.photos.sorting_result import SortingResult

_LEAST_SKILL = 0.25  # of the way from chance to no error; below it, an accuracy is little better than chance
_SHOWN = 8  # names of empty classes in a warning


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
    from scipy.stats import binomtest

    total = len(labels)
    correct = round(accuracy * total)
    interval = binomtest(correct, total).proportion_ci(0.95, method="wilson")
    chance = float(np.bincount(labels).max()) / total
    return ExpectedAccuracy(correct, total, float(interval.low), float(interval.high), chance)


def find_problems(result: SortingResult) -> list[str]:
    """Return a sentence for each reason not to trust a result, with the way out."""
    problems = []
    expected = result.expected_accuracy
    better = _better_checkpoint(result.checkpoint)
    if expected is not None and expected.near_chance:
        problems.append(
            f"{expected.correct} of {expected.total} held-out support images are classified correctly, so the accuracy "
            f"is {expected.low:.0%} to {expected.high:.0%}, which may be little better than always answering the "
            f"largest class ({expected.chance:.0%}). Add support images{better}."
        )
    counts = np.bincount(result.predicted, minlength=len(result.class_names))
    empty = [name for name, count in zip(result.class_names, counts, strict=True) if not count]
    if empty:
        more = f" and {len(empty) - _SHOWN:,} more" if len(empty) > _SHOWN else ""
        problems.append(
            f"No image is classified as {', '.join(empty[:_SHOWN])}{more}. If there are such images, add support "
            f"images of the class{better}."
        )
    return problems


def _better_checkpoint(name: str | None) -> str:
    """Return ", or use a better checkpoint: …" for a checkpoint, or an empty string for features of any encoder."""
    if name is None:
        return ""
    last = name.rstrip("/").rpartition("/")[2]
    if last == "drawings":
        better = "checkpoints/photos for photos, google/siglip-base-patch16-224 for anything"
    elif "so400m" in last:
        return ", or larger pictures with --image_size"
    else:
        better = f"google/siglip-{'so400m-patch14-384' if 'siglip' in last else 'base-patch16-224'}"
    return f", or use a better checkpoint, such as {better}"
