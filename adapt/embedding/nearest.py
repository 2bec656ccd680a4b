"""Exact nearest neighbours among stored features of any number, which stay on disk."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from adapt.adapters.ops import TopK, cosines, in_blocks, normalize, top_k
from data.features.arrays import open_array
from data.features.open import find_features

_BLOCK_BYTES = 8 << 20  # of stored features as float32, which stay in the processor's cache


class NearestRows(NamedTuple):
    """The stored rows nearest to each query `[queries, k]`, the nearest first, and the cosines to them."""

    rows: np.ndarray
    cosines: np.ndarray


def nearest(features: str | os.PathLike | Sequence[str | os.PathLike], queries: np.ndarray, k: int = 10) -> NearestRows:
    """Return the `k` stored rows with the largest cosines to each of `queries` `[queries, dim]`.

    `features` is a folder that `launch.py embed --images` wrote, a `.npy` or `.safetensors` file, or several of them,
    whose rows are numbered one after the other. They are mapped into memory and read in blocks of 8 MB: memory does
    not depend on their number, and each call reads all of them once. The search is exact, with cosines in float32. Rows
    whose cosines differ by less than their rounding, such as copies, come in any order, and any of them are returned
    where there are more than `k`. The id of a row is its line in `images.ids.jsonl`.

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
    if not np.isfinite(queries).all():
        raise _not_finite("the queries")
    queries = normalize(queries)
    best = NearestRows(np.zeros((len(queries), 0), np.int64), np.zeros((len(queries), 0), np.float32))
    first = 0
    for path, part in zip(paths, parts, strict=True):
        step = max(min(_BLOCK_BYTES // (4 * part.shape[1]), len(part)), 1)
        for start in range(0, len(part), step):
            own = open_array(path)[start : start + step]  # mapped for this block alone: its pages are released after it
            block = np.pad(own, [(0, step - len(own)), (0, 0)]) if len(own) < step else np.asarray(own)
            found, finite = jax.device_get(_search_block(queries, block, len(own), min(int(k), step)))
            if not finite:
                raise _not_finite(f"rows of {path} from {start:,} on")
            rows = found.index.astype(np.int64) + first + start
            best = _merge(best, NearestRows(rows[:, : len(own)], found.values[:, : len(own)]), k)
        first += len(part)
    return best


@functools.partial(jax.jit, static_argnums=3)
def _search_block(queries: jax.Array, block: jax.Array, present: jax.Array, k: int) -> tuple[TopK, jax.Array]:
    """Return the `k` rows of a block nearest to each query, and whether all values of the block are finite.

    `queries` `[queries, dim]` have length 1. Of the rows of `block` `[rows, dim]`, the first `present` exist.
    """
    unit, is_present = normalize(block), jnp.arange(len(block)) < present

    def nearest_in_block(queries: jax.Array) -> TopK:
        return top_k(jnp.where(is_present, cosines(queries, unit), -jnp.inf), k)

    return in_blocks(nearest_in_block, len(block), queries), jnp.all(jnp.isfinite(block))


def _merge(one: NearestRows, other: NearestRows, k: int) -> NearestRows:
    """Return the `k` nearest rows of both, the nearest first, of equal ones those of `one`."""
    rows = np.concatenate([one.rows, other.rows], axis=1)
    found = np.concatenate([one.cosines, other.cosines], axis=1)
    order = np.argsort(-found, axis=1, kind="stable")[:, :k]
    return NearestRows(np.take_along_axis(rows, order, axis=1), np.take_along_axis(found, order, axis=1))


def _not_finite(what: str) -> ValueError:
    return ValueError(f"{what} have a value that is not finite. Compute the features again, or leave the row out.")
