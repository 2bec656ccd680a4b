"""Exact nearest neighbours among stored features of any number, which stay on disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from adapt.adapters.ops import normalize_numpy
from data.features.arrays import open_array
from data.features.open import find_features

_BLOCK_BYTES = 64 << 20  # of stored features as float32, and of their cosines to some of the queries


class NearestRows(NamedTuple):
    """The stored rows nearest to each query `[queries, k]`, the nearest first, and the cosines to them."""

    rows: np.ndarray
    cosines: np.ndarray


def nearest(features: str | os.PathLike | Sequence[str | os.PathLike], queries: np.ndarray, k: int = 10) -> NearestRows:
    """Return the `k` stored rows with the largest cosines to each of `queries` `[queries, dim]`.

    `features` is a folder that `launch.py embed --images` wrote, a `.npy` or `.safetensors` file, or several of them,
    whose rows are numbered one after the other. They are mapped into memory and read in blocks of 64 MB: memory does
    not depend on their number, and each call reads all of them once. The search is exact, by NumPy, or by faiss where
    it is installed, with cosines in float32. Rows whose cosines differ by less than their rounding, such as copies,
    come in any order, and any of them are returned where there are more than `k`. The id of a row is its line in
    `images.ids.jsonl`.

    Raises `FileNotFoundError` and `ValueError` for files that are missing or do not fit the queries or each other, for
    values that are not finite, and unless `k` is a whole number from 1 to the number of rows.
    """
    if isinstance(features, np.ndarray):
        raise ValueError(
            f"features is an array of {list(features.shape)}; nearest takes files. Write it with numpy.save, and pass "
            "the path."
        )
    names = [features] if isinstance(features, str | os.PathLike) else list(features)
    paths = [find_features(name, kind="images") for name in names]
    parts = [open_array(path) for path in paths]
    total = sum(map(len, parts))
    queries = np.asarray(queries, np.float32)
    if queries.ndim != 2 or any(part.shape[1] != queries.shape[1] for part in parts):
        shapes = ", ".join(str(list(part.shape)) for part in parts)
        raise ValueError(
            f"queries have shape {list(queries.shape)}, and the stored features {shapes}. Both are [rows, dim] of one "
            "encoder."
        )
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 1 <= k <= total:
        raise ValueError(f"k is {k!r}, and there are {total:,} stored rows. Use a whole number from 1 to that.")
    _check_finite(queries, "the queries")
    queries, search = normalize_numpy(queries), _search()
    best = NearestRows(np.zeros((len(queries), 0), np.int64), np.zeros((len(queries), 0), np.float32))
    first = 0
    for path, part in zip(paths, parts, strict=True):
        step = max(_BLOCK_BYTES // (4 * part.shape[1]), 1)
        for start in range(0, len(part), step):
            own = open_array(path)[start : start + step]  # mapped for this block alone: its pages are released after it
            block = np.asarray(own, np.float32)
            _check_finite(block, f"rows of {path} from {start:,} on")
            found = search(queries, normalize_numpy(block), min(k, len(block)))
            best = _merge(best, found._replace(rows=found.rows + first + start), k)
        first += len(part)
    return best


def _search() -> Callable[[np.ndarray, np.ndarray, int], NearestRows]:
    """Return the search in a block: that of faiss if it is installed."""
    try:
        import faiss
    except ImportError:
        return _search_numpy

    def search_faiss(queries: np.ndarray, block: np.ndarray, k: int) -> NearestRows:
        cosines, rows = faiss.knn(queries, block, k, metric=faiss.METRIC_INNER_PRODUCT)
        return NearestRows(rows.astype(np.int64), cosines)

    return search_faiss


def _search_numpy(queries: np.ndarray, block: np.ndarray, k: int) -> NearestRows:
    """Return the nearest rows of a block, in any order, for some queries at a time."""
    size = max(_BLOCK_BYTES // (4 * len(block)), 1)
    rows, cosines = np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32)
    for start in range(0, len(queries), size):
        some = slice(start, start + size)
        found = queries[some] @ block.T
        rows[some] = np.argpartition(found, -k, axis=1)[:, -k:]
        cosines[some] = np.take_along_axis(found, rows[some], axis=1)
    return NearestRows(rows, cosines)


def _merge(one: NearestRows, other: NearestRows, k: int) -> NearestRows:
    """Return the `k` nearest rows of both, the nearest first."""
    rows = np.concatenate([one.rows, other.rows], axis=1)
    cosines = np.concatenate([one.cosines, other.cosines], axis=1)
    order = np.lexsort((rows, -cosines), axis=1)[:, :k]
    return NearestRows(np.take_along_axis(rows, order, axis=1), np.take_along_axis(cosines, order, axis=1))


def _check_finite(values: np.ndarray, what: str) -> None:
    if not np.isfinite(values).all():
        raise ValueError(f"{what} have a value that is not finite. Compute the features again, or leave the row out.")
