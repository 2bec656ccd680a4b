"""The features of the pictures, and the classifier that is fitted again after every label."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from adapt.labelling.classifier.methods import Fit, Labelled, choose, logits_of
from adapt.labelling.classifier.similarities import KERNELS, LabelledSimilarities
from adapt.model_selection.calibration import Calibration, fit_on_left_out, fit_on_support
from adapt.photos.classified_pictures import ClassifiedPictures
from adapt.photos.outliers import FAR_PERCENTILE


@dataclasses.dataclass(frozen=True, kw_only=True)
class PicturePredictions(ClassifiedPictures):
    """The classification of all embedded pictures by a classifier that was fitted on the labelled ones.

    `names` are the classes, and `fit` is the method. `labels` `[n]` are the class numbers of the labelled pictures,
    `rows` `[n]` their rows, and `texts` the class text features `[classes, dim]`, or None. `logits` are
    `[pictures, classes]` and float32, as are the probabilities.
    """

    names: tuple[str, ...]
    fit: Fit
    labels: np.ndarray
    rows: np.ndarray
    texts: np.ndarray | None
    logits: np.ndarray


class LabellingModel:
    """Unit features of up to `capacity` pictures, row by row as they are embedded, and predictions for them.

    A label costs a time that grows with the pictures, and with the labels times the classes, but not with the pictures
    times the labels: see `LabelledSimilarities`.
    """

    def __init__(self, capacity: int, dim: int):
        self._features = np.zeros((capacity, dim), np.float32)
        self._similarities = LabelledSimilarities(self._features)
        self._texts: dict[str, np.ndarray] = {}  # features [dim] of class texts
        self._text_cosines: dict[str, np.ndarray] = {}  # [capacity]
        self.count = 0

    @property
    def features(self) -> np.ndarray:
        """The features `[pictures, dim]`, a view."""
        return self._features[: self.count]

    @property
    def nearest(self) -> np.ndarray:
        """The cosine of each picture to the nearest labelled one at the last `fit`, `[pictures]`; −∞ without labels."""
        return self._similarities.nearest.cosines[: self.count]

    def add(self, features: np.ndarray) -> None:
        """Append unit features `[rows, dim]`."""
        start, self.count = self.count, self.count + len(features)
        self._features[start : self.count] = features
        self._similarities.add(len(features))
        for name, text in self._texts.items():
            self._text_cosines[name][start : self.count] = features @ text

    def add_text(self, name: str, text: np.ndarray) -> None:
        """Note the text features `[dim]` of a class, of length 1."""
        cosines = np.zeros(len(self._features), np.float32)
        cosines[: self.count] = self.features @ text
        self._texts[name], self._text_cosines[name] = text, cosines

    def has_text(self, name: str) -> bool:
        """Whether the text of a class is known."""
        return name in self._texts

    def rename_class(self, name: str, new: str) -> None:
        """Give the labelled pictures of a class another class, which has none; saves time before `fit`."""
        self._similarities.rename_class(name, new)

    def fit(self, classes: Mapping[int, str], names: Sequence[str]) -> PicturePredictions | None:
        """Return predictions, given the class of each labelled row, one of `names`, or None with too few classes.

        Unless all classes have texts, two classes need labels.
        """
        self._similarities.update(classes)
        with_texts = all(name in self._texts for name in names)
        if not self.count or len(names) < 2 or (not with_texts and len(set(classes.values())) < 2):
            return None
        number_of = {name: number for number, name in enumerate(names)}
        rows = np.fromiter(classes, np.int64)
        labels = np.fromiter((number_of[name] for name in classes.values()), np.int64)
        of, everything = self._similarities.sums.of, slice(0, self.count)
        texts = np.stack([self._text_cosines[name][: self.count] for name in names], axis=1) if with_texts else None
        sums = np.stack([of(names, kernel, rows) for kernel in range(KERNELS)])
        labelled = Labelled(labels, sums, None if texts is None else texts[rows])
        fit = choose(labelled)
        sums = of(names, fit.kernel, everything)
        sums[rows, labels] += 1  # the kernel of a picture with itself
        logits = logits_of(fit, labelled, sums, texts)
        calibration = self._calibrate(fit, labelled, logits[rows])
        scaled = np.float32(calibration.factor) * (logits - logits.max(axis=1, keepdims=True))
        probabilities = np.exp(scaled, out=scaled)
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        return PicturePredictions(
            names=tuple(names),
            fit=fit,
            labels=labels,
            rows=rows,
            texts=np.stack([self._texts[name] for name in names]) if with_texts else None,
            logits=logits,
            probabilities=probabilities,
            calibration=calibration,
            cosines=self.nearest.copy(),
            far_threshold=self._far_threshold(rows),
        )

    def _far_threshold(self, rows: np.ndarray) -> float:
        """Return `adapt.photos.outliers.far_threshold` of the labelled pictures."""
        if not len(rows):
            return -np.inf  # nothing is far from no picture
        cosines = self._similarities.nearest.others[rows]
        cosines = cosines[np.isfinite(cosines)]
        return float(np.percentile(cosines, FAR_PERCENTILE)) if len(cosines) else -1.0

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
