"""How near a query is to the examples: the gate of Localized Latent Updates, and the centres it measures from."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from adapt.adapters.ops import cosines, matmul, normalize


def closeness(x: jax.Array, centers: jax.Array, present: jax.Array, rbf: jax.Array) -> jax.Array:
    """Returns exp(rbf · clamp(1 − max_j x·c_j, 0, 1)) `[queries, 1]`: 1 at a centre, less away from it, rbf ≤ 0.

    x `[queries, dim]` and centres `[m, dim]` are unit rows; those that are not `present` `[m]` do not count. Without
    any, the closeness is 0.
    """
    return _closeness(jnp.where(present, cosines(x, centers), -jnp.inf), rbf)


def closeness_left_out(x: jax.Array, present: jax.Array, rbf: jax.Array) -> jax.Array:
    """Returns the closeness of each row to the other rows, `[n, 1]`."""
    others = present & ~jnp.eye(len(x), dtype=bool)
    return _closeness(jnp.where(others, cosines(x, x), -jnp.inf), rbf)


def _closeness(similarity: jax.Array, rbf: jax.Array) -> jax.Array:
    nearest = jnp.max(similarity, axis=1, keepdims=True)
    distance = jnp.clip(1 - jnp.where(jnp.isfinite(nearest), nearest, 0.0), 0.0, 1.0)
    return jnp.where(jnp.isfinite(nearest), jnp.exp(rbf * distance), 0.0)


def cluster(rows: jax.Array, present: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """Merges unit rows `[n, dim]` to `count` centres by complete linkage on cosine distance.

    Returns `[n, dim]` centres, each the normalised sum of its rows, and which of them are present. With `count` rows
    or fewer every row stays its own centre.
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
    return normalize(matmul(belongs.T.astype(jnp.float32), rows)), jnp.any(belongs, axis=0)
