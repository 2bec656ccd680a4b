"""Which example is nearest to a picture, and from where on a picture is far from every example."""

from __future__ import annotations

import numpy as np

FAR_SHARE = 5  # percent of the examples
_COPY = 1 - 1e-5  # cosine above which two pictures are one
_ROWS = 4096  # of a block


def nearest(features: np.ndarray, examples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns for each of unit rows `[n, dim]` the number of the nearest of `examples` `[m, dim]`, and its cosine."""
    numbers, cosines = [np.empty(0, np.int64)], [np.empty(0, np.float32)]
    for start in range(0, len(features), _ROWS):
        similarity = features[start : start + _ROWS] @ examples.T
        numbers.append(similarity.argmax(axis=1))
        cosines.append(similarity.max(axis=1))
    return np.concatenate(numbers), np.concatenate(cosines)


def far_below(examples: np.ndarray) -> float:
    """Returns the cosine to its nearest example below which a picture is far from every one of them.

    It is the 5th percentile of the cosines that the examples `[m, dim]` have to the nearest other one, of whatever
    class, as the nearest of a picture may be of any: of pictures like the examples about one in twenty falls below.
    Copies are passed over, since a picture that is there twice says nothing about others. Where there are only copies
    it is −1, below which no cosine is.
    """
    found = []
    for start in range(0, len(examples), _ROWS):
        rows = np.arange(start, min(start + _ROWS, len(examples)))
        similarity = examples[rows] @ examples.T
        similarity[similarity > _COPY] = -np.inf  # the example itself among them
        similarity[rows - start, rows] = -np.inf
        found.append(similarity.max(axis=1))
    cosines = np.concatenate(found)
    cosines = cosines[np.isfinite(cosines)]
    return float(np.percentile(cosines, FAR_SHARE)) if len(cosines) else -1.0
