"""Arithmetic that the adapters share: unit vectors, cosines, class sums, and work done block by block."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

_EPSILON = 1e-12
_FEW_CLASSES = 256  # a product with zeros and ones is as fast as adding up
_BLOCK_ENTRIES = 2**24  # of a block [rows, columns]: 64 MiB in float32


def normalize(features: jax.Array) -> jax.Array:
    """Returns the rows of `features` `[..., dim]` scaled to length 1; a row of zeros stays one.

    In float32, or in float64 where JAX has that enabled and they come in it.
    """
    features = jnp.asarray(features)
    features = features if features.dtype == jnp.float64 else features.astype(jnp.float32)
    largest = jnp.max(jnp.abs(features), axis=-1, keepdims=True, initial=0.0)
    scaled = features / jnp.where(largest > 0, largest, 1.0)  # so that squares neither vanish nor overflow
    squared = jnp.sum(jnp.square(scaled), axis=-1, keepdims=True)
    return scaled * jax.lax.rsqrt(jnp.maximum(squared, _EPSILON**2))


def matmul(a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns the matrix product in full float32, on every device."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def cosines(a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns the inner products of unit rows `[n, dim]` and `[m, dim]`, `[n, m]`, in full float32."""
    return matmul(a, b.T)


def affinity(x: jax.Array, examples: jax.Array, beta: jax.Array) -> jax.Array:
    """Returns exp(−beta (1 − x·s)) of unit rows `[queries, dim]` and `[n, dim]`, `[queries, n]`."""
    return jnp.exp(beta * (cosines(x, examples) - 1))


def one_hot(labels: jax.Array, num_classes: int) -> jax.Array:
    """Returns `[n, classes]` float32; a label of −1, a row that is not there, is a row of zeros."""
    return jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)


def class_sums(values: jax.Array, labels: jax.Array, num_classes: int) -> jax.Array:
    """Returns the sums of the columns of `values` `[rows, n]` of each class, `[rows, classes]`; label −1: of none."""
    if num_classes <= _FEW_CLASSES:
        return matmul(values, one_hot(labels, num_classes))
    sums = jnp.zeros((num_classes + 1, values.shape[0]), values.dtype)
    return sums.at[jnp.where(labels < 0, num_classes, labels)].add(values.T)[:num_classes].T


def class_means(features: jax.Array, labels: jax.Array, num_classes: int) -> tuple[jax.Array, jax.Array]:
    """Returns the mean of each class's rows, `[classes, dim]`, zeros where there is none, and their number."""
    members = one_hot(labels, num_classes)
    counts = members.sum(axis=0)
    return matmul(members.T, features) / jnp.maximum(counts, 1)[:, None], counts


def in_blocks(function: Callable[..., Any], columns: int, *arrays: jax.Array) -> Any:
    """Returns `function(*arrays)` of arrays with equally many rows, computed for as many rows at once as bound memory.

    `columns` is the width of what `function` makes of a row; its result is one or more arrays of as many rows.
    """
    rows = arrays[0].shape[0]
    size = max(1, min(rows, max(16, _BLOCK_ENTRIES // max(columns, 1))))
    blocks = -(-rows // size)
    if blocks <= 1:
        return function(*arrays)
    size = -(-rows // blocks)
    padding = blocks * size - rows
    padded = [jnp.pad(array, [(0, padding)] + [(0, 0)] * (array.ndim - 1)) for array in arrays]
    split = [array.reshape(blocks, size, *array.shape[1:]) for array in padded]
    done = jax.lax.map(lambda block: function(*block), tuple(split))
    return jax.tree.map(lambda array: array.reshape(blocks * size, *array.shape[2:])[:rows], done)
