"""The result of classifying a folder of images."""

from __future__ import annotations

import dataclasses

import numpy as np

from adapt.model_selection.calibration import Calibration
from adapt.model_selection.methods import MethodChoice
from adapt.photos.expected_accuracy import ExpectedAccuracy, expect_accuracy
from adapt.photos.folders import EmbeddedFolder, LeftOut


@dataclasses.dataclass(frozen=True, kw_only=True)
class SortingResult:
    """The predictions for query images, with everything that explains them.

    `labels` `[support]` are class numbers; `probabilities` is `[queries, classes]`. `nearest` `[queries]` are the rows
    of the nearest support images and `cosines` `[queries]` the cosines to them; a query below `far_threshold` is far.
    `checkpoint` is the name of the encoder, or None for stored features.
    """

    class_names: list[str]
    support: EmbeddedFolder
    labels: np.ndarray
    query: EmbeddedFolder
    choice: MethodChoice
    calibration: Calibration
    probabilities: np.ndarray
    nearest: np.ndarray
    cosines: np.ndarray
    far_threshold: float
    checkpoint: str | None = None

    @property
    def predicted(self) -> np.ndarray:
        """The predicted class numbers, `[queries]`."""
        return self.probabilities.argmax(axis=1)

    @property
    def confidence(self) -> np.ndarray:
        """The probability of the predicted class, `[queries]`."""
        return self.probabilities.max(axis=1)

    @property
    def far(self) -> np.ndarray:
        """The mask of queries that are far from every support image, `[queries]`."""
        return self.cosines < self.far_threshold

    @property
    def expected_accuracy(self) -> ExpectedAccuracy | None:
        """The accuracy to expect, or None if no support image could be held out."""
        return expect_accuracy(self.choice.chosen.accuracy, self.labels)

    @property
    def left_out(self) -> list[LeftOut]:
        """The files that could not be used."""
        return list(dict.fromkeys(self.support.left_out + self.query.left_out))
