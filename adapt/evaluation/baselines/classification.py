"""Class means and nearest neighbour, the classifiers of the baselines, in NumPy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from adapt.adapters.ops import normalize_numpy

_BLOCK_ROWS = 1024  # queries that are compared with the support at a time


def nearest_mean(support: np.ndarray, labels: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Return the class of the mean that is nearest to each query by the cosine, `[queries]`.

    `support` `[n, dim]` with `labels` `[n]` and `queries` `[queries, dim]` are features of any length. The mean of the
    support is subtracted and rows are scaled to length 1, before and after averaging (SimpleShot's CL2N,
    arXiv 1911.04623). Among equally near classes, the first is returned.
    """
    support, queries = _center(support, queries)
    classes, places = np.unique(labels, return_inverse=True)
    means = np.zeros((len(classes), support.shape[1]))
    np.add.at(means, places, support)
    return classes[_most_similar(queries, normalize_numpy(means))]


def nearest_neighbour(support: np.ndarray, labels: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Return the class of the support row that is nearest to each query, `[queries]`; features as in `nearest_mean`."""
    support, queries = _center(support, queries)
    return labels[_most_similar(queries, support)]


CLASSIFIERS: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {
    "class means": nearest_mean,
    "nearest neighbour": nearest_neighbour,
}


def _center(support: np.ndarray, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean = support.mean(axis=0, dtype=np.float64)
    return normalize_numpy(support - mean), normalize_numpy(queries - mean)


def _most_similar(queries: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Return the row of `keys` with the largest inner product for each query, the first of equal ones."""
    starts = range(0, len(queries), _BLOCK_ROWS)
    blocks = [np.argmax(queries[start : start + _BLOCK_ROWS] @ keys.T, axis=1) for start in starts]
    return np.concatenate([np.zeros(0, np.int64), *blocks])
