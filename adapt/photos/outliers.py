"""Nearest support images, and the threshold below which a query is far from all of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

FAR_PERCENTILE = 5
_DUPLICATE = 1 - 1e-5  # cosine above which two images count as the same
_ROWS = 4096  # of a block


class Nearest(NamedTuple):
    """The row of the nearest support image of each query `[queries]`, and the cosine to it `[queries]`."""

    rows: np.ndarray
    cosines: np.ndarray


def find_nearest(queries: np.ndarray, support: np.ndarray) -> Nearest:
    """Return the nearest of unit features `support` `[m, dim]` for each of unit features `queries` `[n, dim]`."""
    rows, cosines = [np.empty(0, np.int64)], [np.empty(0, np.float32)]
    for start in range(0, len(queries), _ROWS):
        similarity = queries[start : start + _ROWS] @ support.T
        rows.append(similarity.argmax(axis=1))
        cosines.append(similarity.max(axis=1))
    return Nearest(np.concatenate(rows), np.concatenate(cosines))


def far_threshold(support: np.ndarray) -> float:
    """Return the cosine to the nearest support image below which a query is far from the support set.

    It is the 5th percentile of the cosines between each support image `[m, dim]` and the nearest other one, of any
    class, because the nearest support image of a query may be of any class. About one in twenty images that resemble
    the support set falls below. Duplicates are ignored, because a copy says nothing about other images. If there are
    only duplicates, the threshold is −1, below which no cosine falls.
    """
    found = []
    for start in range(0, len(support), _ROWS):
        rows = np.arange(start, min(start + _ROWS, len(support)))
        similarity = support[rows] @ support.T
        similarity[similarity > _DUPLICATE] = -np.inf  # among them the image itself
        similarity[rows - start, rows] = -np.inf
        found.append(similarity.max(axis=1))
    cosines = np.concatenate(found)
    cosines = cosines[np.isfinite(cosines)]
    return float(np.percentile(cosines, FAR_PERCENTILE)) if len(cosines) else -1.0
