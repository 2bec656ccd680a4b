"""Identical pictures in two sets of images, found by their embeddings and confirmed by their pixels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

from adapt.adapters.ops import normalize_numpy

_TOLERANCE = 1e-4  # between unit embeddings of the same picture, which may be rounded differently
_DIRECTIONS = 8  # of the projection in which neighbours are searched


def find_identical(
    support: np.ndarray,
    queries: np.ndarray,
    support_image: Callable[[int], Image.Image],
    query_image: Callable[[int], Image.Image],
    *,
    own_rows: np.ndarray | None = None,
) -> np.ndarray:
    """Return the row of a support image with the pixels of each query, or −1, `[queries]`.

    `support` `[n, dim]` and `queries` `[queries, dim]` are embeddings by one checkpoint. `own_rows` `[queries]` are the
    rows of the queries in the support where both are drawn from one pool: an image is not compared with itself.
    """
    from scipy.spatial import cKDTree

    found = np.full(len(queries), -1)
    if not len(support) or not len(queries):
        return found
    dim = support.shape[1]
    directions = np.linalg.qr(np.random.default_rng(0).standard_normal((dim, min(dim, _DIRECTIONS))))[0]
    tree = cKDTree(normalize_numpy(support) @ directions)  # a projection brings no two points further apart
    neighbours = 1 if own_rows is None else 2
    _, rows = tree.query(
        normalize_numpy(queries) @ directions, k=[*range(1, neighbours + 1)], distance_upper_bound=_TOLERANCE
    )
    for query, candidates in enumerate(rows):
        for row in candidates[candidates < len(support)]:
            itself = own_rows is not None and row == own_rows[query]
            if not itself and _same(support_image(int(row)), query_image(query)):
                found[query] = row
                break
    return found


def _same(one: Image.Image, other: Image.Image) -> bool:
    return one.size == other.size and np.array_equal(np.asarray(one), np.asarray(other))
