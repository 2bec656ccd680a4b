"""The gate of Localized Latent Updates (arXiv 2212.06556), and the centres from which it measures.

    gate(x) = damp · exp(rbf · clamp(1 − max_j x·c_j, 0, 1)),    rbf ≤ 0

The gate is damp at a centre c_j, falls with the cosine distance to the nearest centre and is 0 without centres. The
functions here compute the exponential; the adapters multiply by damp.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from adapt.adapters.ops import cosines, matmul, normalize

_MAX_DISTANCE = 1.0  # beyond a right angle, the gate falls no further


def closeness(x: jax.Array, centers: jax.Array, present: jax.Array, rbf: jax.Array) -> jax.Array:
    """Return exp(rbf · clamp(1 − max_j x·c_j, 0, 1)), `[queries, 1]`.

    `x` `[queries, dim]` and `centers` `[m, dim]` have rows of length 1. Only the centres where `present` `[m]` is true
    count; without any, the closeness is 0.
    """
    return _closeness(jnp.where(present, cosines(x, centers), -jnp.inf), rbf)


def closeness_leave_one_out(x: jax.Array, present: jax.Array, rbf: jax.Array) -> jax.Array:
    """Return the closeness of each row of `x` `[n, dim]` to the other rows, `[n, 1]`."""
    others = present & ~jnp.eye(len(x), dtype=bool)
    return _closeness(jnp.where(others, cosines(x, x), -jnp.inf), rbf)


def _closeness(similarity: jax.Array, rbf: jax.Array) -> jax.Array:
    nearest = jnp.max(similarity, axis=1, keepdims=True)
    distance = _clamped_distance(jnp.where(jnp.isfinite(nearest), nearest, 0.0))
    return jnp.where(jnp.isfinite(nearest), jnp.exp(rbf * distance), 0.0)


def _clamped_distance(cosine: jax.Array) -> jax.Array:
    """Return the cosine distance, clamped: rounding can make it negative, and opposite rows have a distance of 2."""
    return jnp.clip(1 - cosine, 0.0, _MAX_DISTANCE)


class ClusterCenters(NamedTuple):
    """`centers` `[n, dim]` of length 1, and `present` `[n]`: which of them exist."""

    centers: jax.Array
    present: jax.Array


def cluster(rows: jax.Array, present: jax.Array, count: int) -> ClusterCenters:
    """Merge rows `[n, dim]` of length 1 into `count` centres by complete linkage on the cosine distance.

    Each centre is the normalised sum of its rows. If at most `count` rows are `present`, each is its own centre.
    """
    n = len(rows)

    def merge(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        distance, member_of = state
        a, b = jnp.unravel_index(jnp.argmin(distance), distance.shape)
        a, b = jnp.minimum(a, b), jnp.maximum(a, b)
        farther = jnp.maximum(distance[a], distance[b]).at[a].set(jnp.inf)
        distance = distance.at[a].set(farther).at[:, a].set(farther).at[b].set(jnp.inf).at[:, b].set(jnp.inf)
        return distance, jnp.where(member_of == b, a, member_of)

    pairs = present[:, None] & present & ~jnp.eye(n, dtype=bool)
    distance = jnp.where(pairs, 1 - cosines(rows, rows), jnp.inf)
    merges = jnp.maximum(jnp.sum(present) - count, 0)
    _, member_of = jax.lax.fori_loop(0, merges, lambda _, state: merge(state), (distance, jnp.arange(n)))
    belongs = jnp.where(present[:, None], member_of[:, None] == jnp.arange(n), False)
    return ClusterCenters(normalize(matmul(belongs.T.astype(jnp.float32), rows)), jnp.any(belongs, axis=0))
