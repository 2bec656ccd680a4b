"""Operations that the adapters share: normalisation, cosines, sums per class, and evaluation in blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_EPSILON = 1e-12
_ONE_HOT_CLASSES = 256  # up to this many classes, a one-hot matrix product is as fast as a scatter
_BLOCK_ENTRIES = 2**24  # entries of a block [rows, columns]: 64 MiB in float32
_MIN_BLOCK_ROWS = 16
_TOP_K_BLOCK = 32  # columns of a block of `top_k`,
_TOP_K_LENGTH = 256  # which are used for rows of at least this many entries for each that is searched


@jax.jit
def normalize(features: jax.Array) -> jax.Array:
    """Return the rows of `features` `[..., dim]` scaled to length 1; rows of zeros stay zero.

    The result is float32, or float64 for float64 input when JAX has float64 enabled.
    """
    features = jnp.asarray(features)
    features = features if features.dtype == jnp.float64 else features.astype(jnp.float32)
    largest = jnp.max(jnp.abs(features), axis=-1, keepdims=True, initial=0.0)
    scaled = features / jnp.where(largest > 0, largest, 1.0)  # so that squares neither vanish nor overflow
    squared = jnp.sum(jnp.square(scaled), axis=-1, keepdims=True)
    return scaled * jax.lax.rsqrt(jnp.maximum(squared, _EPSILON**2))


def normalize_numpy(features: np.ndarray) -> np.ndarray:
    """Return the rows of `features` `[..., dim]` scaled to length 1, computed by NumPy in the dtype of the input.

    For embeddings on the host, whose files must not depend on the device. `normalize` differs in the last bit.
    """
    return features / np.maximum(np.linalg.norm(features, axis=-1, keepdims=True), _EPSILON)


def matmul(a: jax.Array, b: jax.Array) -> jax.Array:
    """Return the matrix product in full float32 precision on every device."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def cosines(a: jax.Array, b: jax.Array) -> jax.Array:
    """Return the inner products `[n, m]` of rows of length 1, `[n, dim]` and `[m, dim]`."""
    return matmul(a, b.T)


def affinity(x: jax.Array, keys: jax.Array, beta: jax.Array) -> jax.Array:
    """Return exp(−beta (1 − x·s)), `[queries, n]`, of rows of length 1, `[queries, dim]` and `[n, dim]`."""
    return jnp.exp(beta * (cosines(x, keys) - 1))


def one_hot(labels: jax.Array, num_classes: int) -> jax.Array:
    """Return `labels` `[n]` as float32 one-hot rows `[n, classes]`; label −1 gives a row of zeros."""
    return jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)


def class_sums(values: jax.Array, labels: jax.Array, num_classes: int) -> jax.Array:
    """Return the sums over each class's columns of `values` `[rows, n]`, `[rows, classes]`.

    Columns with label −1 are in no sum.
    """
    if num_classes <= _ONE_HOT_CLASSES:
        return matmul(values, one_hot(labels, num_classes))
    sums = jnp.zeros((num_classes + 1, values.shape[0]), values.dtype)
    return sums.at[jnp.where(labels < 0, num_classes, labels)].add(values.T)[:num_classes].T


class ClassMeans(NamedTuple):
    """The mean of each class's rows, `means` `[classes, dim]`, and the number of rows per class, `counts` `[classes]`.

    The mean of a class without rows is zero.
    """

    means: jax.Array
    counts: jax.Array


def class_means(features: jax.Array, labels: jax.Array, num_classes: int) -> ClassMeans:
    """Return the class means of `features` `[n, dim]`; rows with label −1 are ignored."""
    members = one_hot(labels, num_classes)
    counts = members.sum(axis=0)
    return ClassMeans(matmul(members.T, features) / jnp.maximum(counts, 1)[:, None], counts)


class TopK(NamedTuple):
    """The largest entries of each row, `values` `[rows, k]`, the largest first, and their columns, `index`."""

    values: jax.Array
    index: jax.Array


def top_k(values: jax.Array, k: int) -> TopK:
    """Return the `k` largest entries of each row of `values` `[rows, n]`; of equal entries, the first come first.

    The result is that of `jax.lax.top_k`, which takes up to five times as long on CPUs. In long rows, the largest
    entries are searched in the `k` blocks of columns with the largest maxima. No other block has one of them: each of
    these blocks has an entry that is larger, or equal and further left. `values` have no NaN.
    """
    rows, n = values.shape
    if n < _TOP_K_LENGTH * k:
        return TopK(*jax.lax.top_k(values, k))
    padding = [(0, 0), (0, -n % _TOP_K_BLOCK)]
    blocks = jnp.pad(values, padding, constant_values=-jnp.inf).reshape(rows, -1, _TOP_K_BLOCK)
    _, block = jax.lax.top_k(blocks.max(axis=2), k)
    block = jnp.sort(block, axis=1)
    candidates = jnp.take_along_axis(blocks, block[:, :, None], axis=1).reshape(rows, -1)
    largest, place = jax.lax.top_k(candidates, k)
    return TopK(
        largest, jnp.take_along_axis(block, place // _TOP_K_BLOCK, axis=1) * _TOP_K_BLOCK + place % _TOP_K_BLOCK
    )


def in_blocks(function: Callable[..., Any], columns: int, *arrays: jax.Array) -> Any:
    """Return `function(*arrays)`, evaluated on blocks of rows to bound the memory.

    `function` maps arrays with equally many rows to one or more arrays with the same number of rows. `columns` is the
    number of values that it computes per row.
    """
    rows = arrays[0].shape[0]
    size = max(1, min(rows, max(_MIN_BLOCK_ROWS, _BLOCK_ENTRIES // max(columns, 1))))
    blocks = -(-rows // size)
    if blocks <= 1:
        return function(*arrays)
    size = -(-rows // blocks)
    padding = blocks * size - rows
    padded = [jnp.pad(array, [(0, padding)] + [(0, 0)] * (array.ndim - 1)) for array in arrays]
    split = [array.reshape(blocks, size, *array.shape[1:]) for array in padded]
    done = jax.lax.map(lambda block: function(*block), tuple(split))
    return jax.tree.map(lambda array: array.reshape(blocks * size, *array.shape[2:])[:rows], done)
