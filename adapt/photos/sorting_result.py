"""The result of classifying a folder of images."""

from __future__ import annotations

import dataclasses

import numpy as np

from adapt.model_selection.methods import MethodChoice
from adapt.photos.classified_pictures import ClassifiedPictures
from adapt.photos.expected_accuracy import ExpectedAccuracy, expect_accuracy
from adapt.photos.folders import EmbeddedFolder, LeftOut


@dataclasses.dataclass(frozen=True, kw_only=True)
class SortingResult(ClassifiedPictures):
    """The classification of the query images, with everything that explains it.

    `labels` `[support]` are class numbers. `nearest` `[queries]` are the rows of the nearest support images.
    `checkpoint` is the name of the encoder, or None for stored features.
    """

    class_names: list[str]
    support: EmbeddedFolder
    labels: np.ndarray
    query: EmbeddedFolder
    choice: MethodChoice
    nearest: np.ndarray
    checkpoint: str | None = None

    @property
    def expected_accuracy(self) -> ExpectedAccuracy | None:
        """The accuracy to expect, or None if no support image could be held out."""
        return expect_accuracy(self.choice.chosen.accuracy, self.labels)

    @property
    def left_out(self) -> list[LeftOut]:
        """The files that could not be used."""
        return list(dict.fromkeys(self.support.left_out + self.query.left_out))
