"""The result of classifying a person's pictures."""

from __future__ import annotations

import dataclasses

import numpy as np

from adapt.model_selection.calibration import Calibration
from adapt.model_selection.methods import Choice
from adapt.photos.folders import Embedded


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """Everything that was found. `probabilities` `[queries, classes]`; `nearest` `[queries]` are numbers of support
    pictures, `cosines` those to them, and `far` tells which are below `far_below`."""

    class_names: list[str]
    support: Embedded
    labels: np.ndarray
    query: Embedded
    choice: Choice
    calibration: Calibration
    probabilities: np.ndarray
    nearest: np.ndarray
    cosines: np.ndarray
    far_below: float

    @property
    def predicted(self) -> np.ndarray:
        """The numbers of the predicted classes, `[queries]`."""
        return self.probabilities.argmax(axis=1)

    @property
    def far(self) -> np.ndarray:
        """Whether each query is far from every example, `[queries]`."""
        return self.cosines < self.far_below

    @property
    def left_out(self) -> list[tuple[str, str]]:
        """The pictures that could not be used, with the reason."""
        return list(dict.fromkeys(self.support.left_out + self.query.left_out))
