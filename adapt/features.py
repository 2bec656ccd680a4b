"""Arithmetic that the adapters share: unit vectors, class sums, class means."""

from __future__ import annotations

import jax
import jax.numpy as jnp

_EPSILON = 1e-12


def normalize(features: jax.Array) -> jax.Array:
    """Returns the rows of `features` `[..., dim]` scaled to length 1, in float32; a row of zeros stays one."""
    features = jnp.asarray(features, jnp.float32)
    squared = jnp.sum(jnp.square(features), axis=-1, keepdims=True)
    return features * jax.lax.rsqrt(jnp.maximum(squared, _EPSILON**2))


def cosines(a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns the inner products of unit rows `[n, dim]` and `[m, dim]`, `[n, m]`, in full float32."""
    return jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST)


def one_hot(labels: jax.Array, num_classes: int) -> jax.Array:
    """Returns `[n, classes]` float32; a label of −1, a row that is not there, is a row of zeros."""
    return jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)
