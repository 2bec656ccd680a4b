"""Predicted class, its probability and the far flag of pictures."""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import numpy as np

from adapt.model_selection.calibration import Calibration


class ClassifiedPicture(NamedTuple):
    """The predicted class number of a picture, its probability, and whether the picture is far from every example."""

    label: int
    probability: float
    far: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifiedPictures:
    """The classification of pictures by a classifier that was fitted on examples.

    `probabilities` `[pictures, classes]` follow from the logits and `calibration`. `cosines` `[pictures]` are those to
    the nearest example; a picture below `far_threshold` is far.
    """

    probabilities: np.ndarray
    calibration: Calibration
    cosines: np.ndarray
    far_threshold: float

    @functools.cached_property
    def predicted(self) -> np.ndarray:
        """The predicted class numbers, `[pictures]`: the most likely class, the first of equally likely ones."""
        return self.probabilities.argmax(axis=1)

    @functools.cached_property
    def confidence(self) -> np.ndarray:
        """The probability of the predicted class, `[pictures]`."""
        return self.probabilities.max(axis=1)

    @functools.cached_property
    def far(self) -> np.ndarray:
        """The mask of pictures that are far from every example, `[pictures]`."""
        return self.cosines < self.far_threshold

    def picture(self, row: int) -> ClassifiedPicture:
        """Return what the properties say about one picture, without computing them for all."""
        label = int(self.probabilities[row].argmax())
        far = bool(self.cosines[row] < self.far_threshold)
        return ClassifiedPicture(label, float(self.probabilities[row, label]), far)
