"""Nearest queries and sums over affinities, against dense matrices."""

import jax.numpy as jnp
import numpy as np
import pytest

from adapt.adapters import ops
from adapt.adapters.transductive import neighbors
from adapt.adapters.transductive.neighbors import nearest_queries, neighbor_sums
from adapt.adapters.transductive.queries import Queries
from tests.adapt.adapters.references import unit

RNG = np.random.default_rng(0)
X = unit(RNG.normal(size=(70, 9))).astype(np.float32)
PRESENT = RNG.random(70) < 0.8
QUERIES = Queries(jnp.asarray(X), jnp.asarray(PRESENT), jnp.ones(3, bool))


def dense(found, rows):
    w = np.zeros((rows, 70))
    np.add.at(w, (np.arange(rows)[:, None], np.asarray(found.index)), np.asarray(found.weight))
    return w


@pytest.mark.parametrize("block", [2**24, 100])
@pytest.mark.parametrize("own", [True, False])
def test_the_nearest_present_queries_are_found_in_blocks_of_any_size(own, block, monkeypatch):
    monkeypatch.setattr(ops, "_BLOCK_ENTRIES", block)
    rows = X if own else X[:20] + 0.1
    present = PRESENT if own else np.arange(20) != 3
    found = nearest_queries(jnp.asarray(rows), jnp.asarray(present), QUERIES, k=4, own=own)
    cosines = np.where(PRESENT, rows @ X.T, -np.inf)
    if own:
        np.fill_diagonal(cosines, -np.inf)
    expected = np.zeros_like(cosines)
    for row in np.flatnonzero(present):
        nearest = np.argsort(-cosines[row])[:4]
        expected[row, nearest] = np.maximum(cosines[row, nearest], 0)
    np.testing.assert_allclose(dense(found, len(rows)), expected, atol=1e-6)


@pytest.mark.parametrize("incoming", ["_incoming", "_incoming_by_rows"])
def test_sums_on_every_platform_equal_the_dense_matrix(incoming, monkeypatch):
    found = nearest_queries(QUERIES.features, QUERIES.present, QUERIES, k=4, own=True)
    values, w = RNG.random((70, 5), np.float32), dense(found, 70)
    np.testing.assert_allclose(getattr(neighbors, incoming)(found, jnp.asarray(values)), w.T @ values, atol=1e-5)
    for dense_rows in (1024, 0):
        monkeypatch.setattr(neighbors, "_DENSE_ROWS", dense_rows)
        np.testing.assert_allclose(neighbor_sums(found)(jnp.asarray(values)), (w + w.T) @ values, atol=1e-5)
