"""Identical rows in two sets of features."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np

_BLOCK = 4096  # rows


def find_identical_rows(support: np.ndarray, queries: np.ndarray, *, own_rows: np.ndarray | None = None) -> np.ndarray:
    """Return the first row of `support` `[n, dim]` that is equal to each row of `queries`, or −1, `[queries]`.

    `own_rows` `[queries]` are the rows of the queries in the support where both are one pool: a row is not compared
    with itself.
    """
    rows: dict[bytes, list[int]] = {}
    for row, content in enumerate(_contents(support)):
        first = rows.setdefault(content, [])
        if len(first) < 2:  # two suffice: one of them is not the query itself
            first.append(row)
    found = np.full(len(queries), -1)
    for query, content in enumerate(_contents(queries)):
        own = -1 if own_rows is None else own_rows[query]
        found[query] = next((row for row in rows.get(content, ()) if row != own), -1)
    return found


def _contents(features: np.ndarray) -> Iterator[bytes]:
    """Yield a hash of each row."""
    for start in range(0, len(features), _BLOCK):
        for row in features[start : start + _BLOCK] + 0.0:  # −0.0 equals 0.0
            yield hashlib.blake2b(row.tobytes(), digest_size=16).digest()
