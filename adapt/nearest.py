"""Which example is nearest to a picture, and from where on a picture is far from every example."""

from __future__ import annotations

import numpy as np

FAR_SHARE = 2  # percent of the examples
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


def far_below(examples: np.ndarray, labels: np.ndarray) -> float:
    """Returns the cosine to its nearest example below which a picture is far from every one of them.

    It is the 2nd percentile of the cosines that the examples `[m, dim]` themselves have to the nearest other one of
    their class: what is less like any example than all but the oddest examples are like their own class. An example
    that is alone in its class has no say, nor has a copy: a picture twice in a folder says nothing about others. Where
    no example has a say, the nearest of any class counts: far is then what is less like any example than the classes
    are like each other. Where that says nothing either, it is −1, below which no cosine is.
    """
    for only_own in (True, False):
        found = []
        for start in range(0, len(examples), _ROWS):
            rows = np.arange(start, min(start + _ROWS, len(examples)))
            similarity = examples[rows] @ examples.T
            similarity[similarity > _COPY] = -np.inf  # the example itself among them
            similarity[rows - start, rows] = -np.inf
            if only_own:
                similarity[labels[rows, None] != labels] = -np.inf
            found.append(similarity.max(axis=1))
        cosines = np.concatenate(found)
        cosines = cosines[np.isfinite(cosines)]
        if len(cosines):
            return float(np.percentile(cosines, FAR_SHARE))
    return -1.0
