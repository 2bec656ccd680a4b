"""Similarities of all pictures to the labelled ones, kept up to date label by label.

A label costs one product of all features with its own. A label that is removed costs the same, and a few pictures are
compared again with all labelled ones: those whose nearest it was, and those whose sum was mostly its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

BETAS = (5.5, 1.0, 20.0, 80.0)
COSINE = 0  # the kernel that is the cosine itself
KERNELS = 1 + len(BETAS)  # kernel 1 + i is exp(BETAS[i] · (cosine − 1))
_BLOCK = 64  # labelled pictures at a time
_DUPLICATE = 1 - 1e-5  # cosine above which two pictures count as the same


class LabelledSimilarities:
    """Sums per class, and the nearest labelled picture, of all pictures: `sums` and `nearest`.

    `features` `[capacity, dim]` are rows of length 1. The first `count` rows are pictures; `add` makes more rows count.
    """

    def __init__(self, features: np.ndarray):
        self._features = features
        self._classes: dict[int, str] = {}  # of labelled rows
        self.count = 0
        self.sums = ClassSums(len(features))
        self.nearest = NearestLabelled(len(features))

    def add(self, rows: int) -> None:
        """Note that `features` has that many more pictures."""
        start, self.count = self.count, self.count + rows
        self._accumulate(_rows(self._classes), slice(start, self.count), (self.sums, self.nearest))

    def update(self, classes: Mapping[int, str]) -> None:
        """Make `classes` the class of each labelled row."""
        before, self._classes = self._classes, dict(classes)
        left = {row: name for row, name in before.items() if classes.get(row) != name}
        for name in set(left.values()):
            stayed = [row for row, own in classes.items() if own == name == before.get(row)]
            self._subtract(_rows(row for row, own in left.items() if own == name), name, _rows(stayed))
        lost = self.nearest.forget(_rows(row for row in left if row not in classes), self.count)
        self._accumulate(_rows(row for row in classes if row in before), lost, (self.nearest,))
        everything = slice(0, self.count)
        self._accumulate(_rows(row for row in classes if row not in before), everything, (self.sums, self.nearest))
        self._accumulate(_rows(row for row in left if row in classes), everything, (self.sums,))

    def rename_class(self, name: str, new: str) -> None:
        """Give a class another name, which no class has."""
        self._classes = {row: new if own == name else own for row, own in self._classes.items()}
        self.sums.rename(name, new)

    def _subtract(self, rows: np.ndarray, name: str, rest: np.ndarray) -> None:
        """Remove rows from the sums of a class, which keeps `rest`."""
        if len(rows) >= len(rest):
            self.sums.clear(name)
            lost: slice | np.ndarray = slice(0, self.count)
        else:
            removed = ClassSums(len(self._features))
            self._accumulate(rows, slice(0, self.count), (removed,), dict.fromkeys(rows.tolist(), name))
            lost = self.sums.subtract(removed, name)
        self._accumulate(rest, lost, (self.sums,))

    def _accumulate(
        self,
        labelled: np.ndarray,
        pictures: slice | np.ndarray,
        results: Sequence[ClassSums | NearestLabelled],
        classes: Mapping[int, str] | None = None,
    ) -> None:
        """Add the cosines of some pictures to some labelled ones to the results."""
        classes = self._classes if classes is None else classes
        queries, rows = self._features[pictures], np.arange(len(self._features))[pictures]
        labelled = _rows(sorted(labelled.tolist(), key=classes.__getitem__))  # so that a block has few classes
        for start in range(0, len(labelled) if len(rows) else 0, _BLOCK):
            some = labelled[start : start + _BLOCK]
            block = _CosineBlock(
                labelled=some,
                names=[classes[row] for row in some.tolist()],
                pictures=pictures,
                cosines=self._features[some] @ queries.T,
                own=np.nonzero(some[:, None] == rows),
            )
            for result in results:
                result.add(block)


def _rows(rows: Iterable[int]) -> np.ndarray:
    return np.fromiter(rows, np.int64)


class _CosineBlock(NamedTuple):
    """Cosines `[labelled, pictures]` of some labelled pictures and some pictures.

    `labelled` are the rows of the former, `names` their classes, and `pictures` the rows of the latter. `own` are the
    places at which a picture is compared with itself.
    """

    labelled: np.ndarray
    names: Sequence[str]
    pictures: slice | np.ndarray
    cosines: np.ndarray
    own: tuple[np.ndarray, np.ndarray]


class ClassSums:
    """For each picture and class, the sum of each kernel over the labelled pictures of the class without the picture.

    These are the sums that leaving a labelled picture out asks for. Memory: 4 · `KERNELS` bytes per picture and class.
    """

    def __init__(self, capacity: int):
        self._capacity = capacity
        self._sums: dict[str, np.ndarray] = {}  # [kernels, capacity]

    def of(self, names: Sequence[str], kernel: int, rows: slice | np.ndarray) -> np.ndarray:
        """Return the sums of some classes for some pictures, `[rows, classes]`, zero without labelled pictures."""
        count = len(range(*rows.indices(self._capacity))) if isinstance(rows, slice) else len(rows)
        sums = np.zeros((len(names), count), np.float32)
        for place, name in enumerate(names):
            if name in self._sums:
                sums[place] = self._sums[name][kernel, rows]
        return np.ascontiguousarray(sums.T)

    def add(self, block: _CosineBlock) -> None:
        """Add the kernels of a block to the sums of its classes."""
        cosines = block.cosines
        members = {name: np.array([other == name for other in block.names]) for name in set(block.names)}
        for kernel in range(KERNELS):
            values = cosines.copy() if kernel == COSINE else np.exp(np.float32(BETAS[kernel - 1]) * (cosines - 1))
            values[block.own] = 0
            for name, chosen in members.items():
                sums = self._sums.setdefault(name, np.zeros((KERNELS, self._capacity), np.float32))
                sums[kernel, block.pictures] += values[chosen].sum(axis=0)

    def subtract(self, removed: ClassSums, name: str) -> np.ndarray:
        """Subtract sums of a class; set those that lose more than half to zero, and return their pictures."""
        sums, less = self._sums[name], removed._sums[name]
        sums -= less
        lost = np.flatnonzero((less[COSINE + 1 :] > sums[COSINE + 1 :]).any(axis=0))
        sums[:, lost] = 0
        return lost

    def clear(self, name: str) -> None:
        """Forget a class."""
        del self._sums[name]

    def rename(self, name: str, new: str) -> None:
        """Give a class another name."""
        if name in self._sums:
            self._sums[new] = self._sums.pop(name)


class NearestLabelled:
    """For each picture, the cosine to the nearest labelled picture, −∞ if there is none.

    cosines: `[capacity]`, 1 for labelled pictures.
    others: `[capacity]`, where the picture itself and its copies do not count.
    """

    def __init__(self, capacity: int):
        self._cosines = np.full((2, capacity), -np.inf, np.float32)
        self._rows = np.full((2, capacity), -1, np.int64)  # of the nearest

    @property
    def cosines(self) -> np.ndarray:
        """The cosines to the nearest labelled picture."""
        return self._cosines[0]

    @property
    def others(self) -> np.ndarray:
        """The cosines to the nearest one that is another picture."""
        return self._cosines[1]

    def add(self, block: _CosineBlock) -> None:
        """Take the largest cosines of a block where they are larger than those so far."""
        pictures = block.pictures
        others = np.where(block.cosines > _DUPLICATE, -np.inf, block.cosines)
        others[block.own] = -np.inf
        for kind, values in enumerate((block.cosines, others)):
            best = values.argmax(axis=0)
            value = values[best, np.arange(values.shape[1])]
            better = value > self._cosines[kind, pictures]
            self._cosines[kind, pictures] = np.where(better, value, self._cosines[kind, pictures])
            self._rows[kind, pictures] = np.where(better, block.labelled[best], self._rows[kind, pictures])

    def forget(self, rows: np.ndarray, count: int) -> np.ndarray:
        """Reset the pictures whose nearest is one of `rows`, and return them; they are to be added again."""
        lost = np.flatnonzero(np.isin(self._rows[:, :count], rows).any(axis=0))
        self._cosines[:, lost], self._rows[:, lost] = -np.inf, -1
        return lost
