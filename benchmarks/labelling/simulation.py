"""Simulate a person who labels one picture after another, in several orders."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

from adapt.adapters.ops import normalize_numpy
from adapt.labelling.chooser import Chooser
from benchmarks.labelling.sets import LabelledSet

POOL_SHARE = 0.8  # of a set's pictures in each run
LEAST_RECENT = 5  # pictures of an estimate from the last third of the random share
RANDOM_EVERY = 5  # of the order "chooser, 1 in 5 random"
MIXED = f"chooser, 1 in {RANDOM_EVERY} random"
GRID_PLACES = 12
GRID = f"page, grid of {GRID_PLACES}"
ORDERS = ("random", "random again", "chooser", "representative", "uncertain", MIXED, GRID)


class NearestMeans:
    """Cosines of pictures to the normalised mean of each class labelled so far: adapt's `prototypes`, in NumPy.

    JAX would compile again for each number of labels. A label changes one column only.
    """

    def __init__(self, features: np.ndarray, num_classes: int):
        self.features = features
        self._cosines = np.full((len(features), num_classes), -1.0, np.float32)
        self._sums = np.zeros((num_classes, features.shape[1]), np.float32)
        self.counts = np.zeros(num_classes, np.int64)

    def add(self, row: int, label: int) -> None:
        """Label a picture."""
        self._sums[label] += self.features[row]
        self.counts[label] += 1
        self._cosines[:, label] = self.features @ normalize_numpy(self._sums[label])

    @property
    def cosines(self) -> np.ndarray:
        """The cosines `[n, classes known so far]`."""
        return self._cosines[:, self.counts > 0]

    def predict(self, rows: np.ndarray | slice) -> np.ndarray:
        """Return the predicted labels of pictures; a class without labels is never predicted."""
        return self._cosines[rows].argmax(axis=1)

    def left_out(self, rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Return whether each labelled picture is classified correctly without its own label, `[rows]`."""
        cosines = self._cosines[rows].copy()
        own = normalize_numpy(self._sums[labels] - self.features[rows])
        alone = self.counts[labels] == 1
        cosines[np.arange(len(rows)), labels] = np.where(alone, -1.0, np.sum(own * self.features[rows], axis=1))
        return (cosines.argmax(axis=1) == labels) & ~alone


class Picker(Protocol):
    """An order of labelling."""

    def pick(self, means: NearestMeans, labelled: list[int], free: np.ndarray) -> int:
        """Return the row of the next picture; `free` `[n]` masks those without label."""


class Shuffled:
    """A random order."""

    def __init__(self, count: int, seed: int):
        self._order = np.random.default_rng(seed).permutation(count)

    def pick(self, means: NearestMeans, labelled: list[int], free: np.ndarray) -> int:
        """Return the next row of a random order."""
        return int(self._order[free[self._order].argmax()])


class Suggested:
    """The first suggestion of a `Chooser`; without `weighted`, it does not see the classifier."""

    def __init__(self, pictures: np.ndarray, seed: int, *, weighted: bool = True, random_every: int = 0):
        self._pictures, self._weighted = pictures, weighted
        self._nearest = np.full(len(pictures), -np.inf, np.float32)  # cosine to the nearest labelled picture
        self._compared = 0  # labelled pictures in it
        self._chooser = Chooser(seed=seed, random_every=random_every)
        self._chooser.add(pictures)

    def pick(self, means: NearestMeans, labelled: list[int], free: np.ndarray) -> int:
        """Return the first suggestion."""
        logits = means.cosines[: len(free)] if self._weighted else None
        return int(self._suggest(1, labelled, logits, free)[0])

    def _suggest(self, count: int, labelled: list[int], logits: np.ndarray | None, free: np.ndarray) -> np.ndarray:
        for row in labelled[self._compared :]:
            np.maximum(self._nearest, self._pictures @ self._pictures[row], out=self._nearest)
        self._compared = len(labelled)
        suggested = self._chooser.choose(
            count,
            features=self._pictures,
            labelled=np.array(labelled, np.int64),
            nearest=self._nearest,
            logits=logits,
            open_rows=free,
        )
        return suggested.rows


class SuggestedInGrid(Suggested):
    """The page of `launch.py label`: suggestions keep their places in a grid and are labelled from place to place."""

    def __init__(self, pictures: np.ndarray, seed: int):
        super().__init__(pictures, seed, random_every=RANDOM_EVERY)
        self._places: list[int] = []
        self._next = 0

    def pick(self, means: NearestMeans, labelled: list[int], free: np.ndarray) -> int:
        """Return the picture in the next place, after labelled ones were replaced by the best new suggestions."""
        suggested = self._suggest(2 * GRID_PLACES, labelled, means.cosines[: len(free)], free)
        fresh = [row for row in suggested.tolist() if row not in self._places]
        kept = [row if free[row] else (fresh.pop(0) if fresh else -1) for row in self._places]
        self._places = [row for row in kept if row >= 0]
        self._places += fresh[: GRID_PLACES - len(self._places)]
        row = self._places[self._next % len(self._places)]
        self._next = (self._next + 1) % GRID_PLACES
        return row


class SmallestMargin:
    """The picture with the smallest margin; random until two classes are known."""

    def __init__(self, count: int, seed: int):
        self._random = Shuffled(count, seed)

    def pick(self, means: NearestMeans, labelled: list[int], free: np.ndarray) -> int:
        """Return the row with the smallest margin."""
        if np.count_nonzero(means.counts) < 2:
            return self._random.pick(means, labelled, free)
        best = np.partition(means.cosines[: len(free)], -2, axis=1)[:, -2:]
        return int(np.where(free, best[:, 1] - best[:, 0], np.inf).argmin())


class Estimate(NamedTuple):
    """An estimate after some clicks: correct of total, and the true accuracy on the pictures without label."""

    kind: str
    clicks: int
    correct: int
    total: int
    truth: float


class Labelling(NamedTuple):
    """A simulated session: after each click, mean accuracy on the queries and number of classes found `[clicks]`."""

    accuracy: np.ndarray
    classes: np.ndarray
    estimates: list[Estimate]


def simulate(found: LabelledSet, order: str, *, run: int, clicks: int, estimate_at: tuple[int, ...] = ()) -> Labelling:
    """Label `clicks` pictures of a random part of a set, in one of `ORDERS`; a run draws the same part for all.

    The accuracy is the mean of the classes' accuracies on all queries; those of unknown classes count as wrong.
    """
    rng = np.random.default_rng(run)
    part = rng.permutation(len(found.labels))[: round(POOL_SHARE * len(found.labels))]
    pictures, labels = found.pictures[part], found.labels[part]
    picker, count = _picker(order, pictures, seed=1000 * run), len(labels)
    means = NearestMeans(np.concatenate([pictures, found.queries]), found.num_classes)
    free, labelled = np.ones(count, bool), []
    accuracy, classes, estimates = [], [], []
    drawn: list[int] = []  # rows of the random share
    before: list[bool] = []  # whether the prediction for each of them was correct before the click
    for click in range(1, min(clicks, count) + 1):
        row = picker.pick(means, labelled, free)
        if click % RANDOM_EVERY == 0:
            drawn.append(row)
            before.append(bool(means.predict(np.array([row]))[0] == labels[row]))
        labelled.append(row)
        free[row] = False
        means.add(row, labels[row])
        right = means.predict(slice(count, None)) == found.query_labels
        accuracy.append(_class_mean(right, found.query_labels))
        classes.append(np.count_nonzero(means.counts))
        if click in estimate_at and free.any():
            truth = float((means.predict(np.flatnonzero(free)) == labels[free]).mean())
            samples = {"all labelled, left out": np.array(labelled)}
            if order == MIXED:
                samples["random share, left out"] = np.array(drawn)
                recent = before[-max(LEAST_RECENT, len(before) // 3) :]
                estimates += [
                    Estimate("random share, before the click", click, sum(before), len(before), truth),
                    Estimate("its last third, before the click", click, sum(recent), len(recent), truth),
                ]
            for kind, rows in samples.items():
                right = means.left_out(rows, labels[rows])
                estimates.append(Estimate(kind, click, int(right.sum()), len(rows), truth))
    return Labelling(np.array(accuracy), np.array(classes), estimates)


def _picker(order: str, pictures: np.ndarray, *, seed: int) -> Picker:
    if order.startswith("random"):
        return Shuffled(len(pictures), seed + (order == "random again"))
    if order == GRID:
        return SuggestedInGrid(pictures, seed)
    if order == "uncertain":
        return SmallestMargin(len(pictures), seed)
    return Suggested(
        pictures,
        seed,
        weighted=order != "representative",
        random_every=RANDOM_EVERY if order == MIXED else 0,
    )


def _class_mean(right: np.ndarray, labels: np.ndarray) -> float:
    counts = np.bincount(labels)
    return float(np.mean(np.bincount(labels, weights=right)[counts > 0] / counts[counts > 0]))
