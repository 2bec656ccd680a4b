"""Checksums of the arrays of a state: equal bits have equal sums, however the arrays are sharded."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pretrain.optim.param_rules import path_name

_WORDS = {1: np.uint8, 2: np.uint16, 4: np.uint32}  # by the size of an element in bytes
_BLOCK = 1 << 22  # elements


def checksums(tree: Any) -> dict[str, int]:
    """Return a checksum for each array of a tree on devices, by its path; all hosts must call it.

    The checksum is Σ bits(i) · (2i + 1) mod 2³² over the positions i of the array. A flipped bit always changes it, as
    the weights are odd. Exchanging two numbers changes it except in one of 2³¹ cases.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    arrays = [leaf for _, leaf in leaves]
    sums = np.asarray(_jitted_sums(getattr(arrays[0].sharding, "mesh", None))(arrays))
    return {path_name(path): int(value) for (path, _), value in zip(leaves, sums, strict=True)}


def checksums_on_host(tree: Any) -> dict[str, int]:
    """Return the same checksums for a tree of NumPy arrays."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {path_name(path): _host_sum(np.asarray(leaf)) for path, leaf in leaves}


def differences(expected: Mapping[str, int], found: Mapping[str, int]) -> list[str]:
    """Return the paths in `found` whose checksum is not the expected one."""
    return [path for path, value in found.items() if expected.get(path) != value]


@functools.cache
def _jitted_sums(mesh: Mesh | None) -> Callable[[list[jax.Array]], jax.Array]:
    """Return a function that sums arrays of a mesh; its result is replicated on all hosts."""
    replicated = None if mesh is None else NamedSharding(mesh, PartitionSpec())
    return jax.jit(lambda leaves: jnp.stack([_sum(leaf) for leaf in leaves]), out_shardings=replicated)


@jax.jit  # arrays of the same shape share one trace
def _sum(leaf: jax.Array) -> jax.Array:
    bits = jax.lax.bitcast_convert_type(leaf, _WORDS[leaf.dtype.itemsize]).astype(jnp.uint32)
    position, stride = jnp.zeros(leaf.shape, jnp.uint32), 1
    for axis in reversed(range(leaf.ndim)):
        position += jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis) * np.uint32(stride % 2**32)
        stride *= leaf.shape[axis]
    return jnp.sum(bits * (2 * position + 1), dtype=jnp.uint32)


def _host_sum(leaf: np.ndarray) -> int:
    words = np.ascontiguousarray(leaf).reshape(-1).view(_WORDS[leaf.dtype.itemsize])
    total = 0
    for start in range(0, len(words), _BLOCK):
        block = words[start : start + _BLOCK].astype(np.uint32)
        weights = 2 * np.arange(start, start + len(block), dtype=np.uint64).astype(np.uint32) + np.uint32(1)
        total += int(np.sum(block * weights, dtype=np.uint32))
    return total % 2**32
