"""The nearest neighbours of rows among the queries, as arrays of indices and weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from adapt.adapters.ops import cosines, in_blocks, matmul, top_k
from adapt.adapters.transductive.queries import Queries

_DENSE_ROWS = 1024  # above, a product with all pairs of queries costs more than a loop over the neighbours


class Neighbors(NamedTuple):
    """The nearest queries of each row, `index` `[rows, k]`, with `weight` `[rows, k]`; weight 0 where there is none."""

    index: jax.Array
    weight: jax.Array


def nearest_queries(x: jax.Array, present: jax.Array, queries: Queries, *, k: int, own: bool) -> Neighbors:
    """Return the `k` nearest queries of the rows of `x` `[rows, dim]`, with max(0, cosine) as weight.

    Rows that are not `present` `[rows]` have no neighbours. With `own`, `x` are the queries, and no query is a
    neighbour of itself. Takes time for all cosines, and memory for a block of them.
    """
    k = min(k, len(queries.features))

    def block(rows: jax.Array, present: jax.Array, number: jax.Array) -> Neighbors:
        allowed = present[:, None] & queries.present
        if own:
            allowed &= number[:, None] != jnp.arange(len(queries.features))
        nearest, index = top_k(jnp.where(allowed, cosines(rows, queries.features), -jnp.inf), k)
        return Neighbors(index, jnp.maximum(nearest, 0.0))

    return in_blocks(block, len(queries.features), x, present, jnp.arange(len(x)))


def neighbor_sums(neighbors: Neighbors) -> Callable[[jax.Array], jax.Array]:
    """Return the function v ↦ (W + Wᵀ) v, `[queries, columns]`, where W are the affinities of the queries.

    Up to `_DENSE_ROWS` queries, it multiplies with a dense matrix.
    """
    rows = len(neighbors.index)
    if rows > _DENSE_ROWS:
        return lambda values: _sparse_sums(neighbors, values)
    affinities = (
        jnp.zeros((rows, rows), neighbors.weight.dtype)
        .at[jnp.arange(rows)[:, None], neighbors.index]
        .add(neighbors.weight)
    )
    return lambda values: matmul(affinities + affinities.T, values)


def _sparse_sums(neighbors: Neighbors, values: jax.Array) -> jax.Array:
    outgoing = sum(
        neighbors.weight[:, rank, None] * values[neighbors.index[:, rank]] for rank in range(neighbors.index.shape[1])
    )
    return outgoing + jax.lax.platform_dependent(neighbors, values, cpu=_incoming_by_rows, default=_incoming)


def _incoming(neighbors: Neighbors, values: jax.Array) -> jax.Array:
    """Return Wᵀ values."""
    sums = jnp.zeros_like(values)
    for rank in range(neighbors.index.shape[1]):
        sums = sums.at[neighbors.index[:, rank]].add(neighbors.weight[:, rank, None] * values)
    return sums


def _incoming_by_rows(neighbors: Neighbors, values: jax.Array) -> jax.Array:
    """Return Wᵀ values by a loop over the rows: on CPUs three times as fast as a scatter, which loops as well."""

    def add_row(number: jax.Array, sums: jax.Array) -> jax.Array:
        row = jax.lax.dynamic_slice_in_dim(values, number, 1)
        for rank in range(neighbors.index.shape[1]):
            place = neighbors.index[number, rank]
            before = jax.lax.dynamic_slice_in_dim(sums, place, 1)
            sums = jax.lax.dynamic_update_slice_in_dim(sums, before + neighbors.weight[number, rank] * row, place, 0)
        return sums

    return jax.lax.fori_loop(0, len(values), add_row, jnp.zeros_like(values))
