"""The features of the pictures, and the classifier that is fitted again after every label."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from adapt.labelling.methods import Fit, Labelled, choose, logits_of
from adapt.model_selection.calibration import Calibration, fit_on_left_out, fit_on_support
from adapt.photos.classified_pictures import ClassifiedPictures
from adapt.photos.outliers import far_threshold


@dataclasses.dataclass(frozen=True, kw_only=True)
class PicturePredictions(ClassifiedPictures):
    """The classification of all embedded pictures by a classifier that was fitted on the labelled ones.

    `fit` is the method, `labelled` what it was fitted on, and `rows` `[n]` the rows of the labelled pictures. `logits`
    are `[pictures, classes]` and float32, as are the probabilities.
    """

    fit: Fit
    labelled: Labelled
    rows: np.ndarray
    logits: np.ndarray


class LabellingModel:
    """Unit features of up to `capacity` pictures, row by row as they are embedded, and predictions for them.

    For each labelled picture, the cosines to all pictures are kept: 4 bytes each.
    """

    def __init__(self, capacity: int, dim: int):
        self._features = np.zeros((capacity, dim), np.float32)
        self._columns: dict[int, np.ndarray] = {}
        self.count = 0

    @property
    def features(self) -> np.ndarray:
        """The features `[pictures, dim]`, a view."""
        return self._features[: self.count]

    def add(self, features: np.ndarray) -> None:
        """Append unit features `[rows, dim]`."""
        start, self.count = self.count, self.count + len(features)
        self._features[start : self.count] = features
        for row, column in self._columns.items():
            column[start : self.count] = features @ self._features[row]

    def cosines(self, row: int) -> np.ndarray:
        """Return the cosines `[pictures]` of all pictures to one of them, which are kept until `fit` forgets it."""
        if row not in self._columns:
            column = np.zeros(len(self._features), np.float32)
            column[: self.count] = self.features @ self._features[row]
            self._columns[row] = column
        return self._columns[row][: self.count]

    def fit(
        self, labels: Mapping[int, int], *, texts: np.ndarray | None, num_classes: int
    ) -> PicturePredictions | None:
        """Return predictions, given the class number of each labelled row; None if there is nothing to tell apart.

        `texts` are class text features `[classes, dim]` of length 1, or None. Without them, two classes need labels.
        """
        for row in set(self._columns) - set(labels):
            del self._columns[row]
        if not self.count or num_classes < 2 or (texts is None and len(set(labels.values())) < 2):
            return None
        labelled = self.labelled(labels, texts=texts, num_classes=num_classes)
        columns = [self.cosines(row) for row in labels]
        fit = choose(labelled)
        logits = logits_of(fit, labelled, self.features, columns)
        calibration = self._calibrate(fit, labelled, logits[list(labels)])
        scaled = np.float32(calibration.factor) * (logits - logits.max(axis=1, keepdims=True))
        probabilities = np.exp(scaled, out=scaled)
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        nearest = np.full(self.count, -1, np.float32)
        for column in columns:
            np.maximum(nearest, column, out=nearest)
        return PicturePredictions(
            fit=fit,
            labelled=labelled,
            rows=np.array(list(labels), np.int64),
            logits=logits,
            probabilities=probabilities,
            calibration=calibration,
            cosines=nearest,
            far_threshold=far_threshold(labelled.features) if len(labels) else -1.0,
        )

    def labelled(self, labels: Mapping[int, int], *, texts: np.ndarray | None, num_classes: int) -> Labelled:
        """Return the labelled pictures, given the class number of each labelled row."""
        features = self._features[np.array(list(labels), np.int64)]
        return Labelled(features, np.array(list(labels.values()), np.int64), texts, num_classes)

    @staticmethod
    def _calibrate(fit: Fit, labelled: Labelled, own_logits: np.ndarray) -> Calibration:
        """Return the factor of the logits, as `adapt.model_selection.calibration.calibrate` does."""
        several = labelled.counts[labelled.labels] > 1
        if several.any():
            factor = fit_on_left_out(fit.left_out[several], labelled.labels[several])
            return Calibration(factor, "left-out labelled pictures")
        if labelled.texts is not None and fit.method != "prototypes":
            return Calibration(1.0, "the scale of the text logits")
        return Calibration(fit_on_support(own_logits, labelled.labels), "the labelled pictures themselves")


def stack_texts(texts: Mapping[str, np.ndarray], names: Sequence[str]) -> np.ndarray | None:
    """Return the text features of classes `[classes, dim]`; None unless every class has them."""
    if not names or any(name not in texts for name in names):
        return None
    return np.stack([texts[name] for name in names])
