"""Checksums of the arrays of a state: equal bits have equal sums, however the arrays are spread over devices."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pretrain.optim.param_rules import path_name

_WORDS = {1: np.uint8, 2: np.uint16, 4: np.uint32}  # by bytes
_PIECE = 1 << 22  # words


def checksums(tree: Any) -> dict[str, int]:
    """Returns a sum for each array of a tree on devices, by its path; all hosts must ask for it.

    It is Σ bits(i) · (2i + 1) mod 2³² over the places i of the array. A flipped bit always changes it, as the weights
    are odd; so does, but for one in 2³¹ cases, an exchange of two numbers.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    arrays = [leaf for _, leaf in leaves]
    sums = np.asarray(_summing(getattr(arrays[0].sharding, "mesh", None))(arrays))
    return {path_name(path): int(value) for (path, _), value in zip(leaves, sums, strict=True)}


def checksums_on_host(tree: Any) -> dict[str, int]:
    """Returns the same for a tree of NumPy arrays."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {path_name(path): _sum_on_host(np.asarray(leaf)) for path, leaf in leaves}


def differences(expected: Mapping[str, int], found: Mapping[str, int]) -> list[str]:
    """Returns the paths in `found` whose sum is not the expected one."""
    return [path for path, value in found.items() if expected.get(path) != value]


@functools.cache
def _summing(mesh: Mesh | None) -> Callable[[list[jax.Array]], jax.Array]:
    """Returns what sums arrays of a mesh, with a result that every host has."""
    everywhere = None if mesh is None else NamedSharding(mesh, PartitionSpec())
    return jax.jit(lambda leaves: jnp.stack([_sum(leaf) for leaf in leaves]), out_shardings=everywhere)


def _sum(leaf: jax.Array) -> jax.Array:
    bits = jax.lax.bitcast_convert_type(leaf, _WORDS[leaf.dtype.itemsize]).astype(jnp.uint32)
    place, stride = jnp.zeros(leaf.shape, jnp.uint32), 1
    for axis in reversed(range(leaf.ndim)):
        place += jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis) * np.uint32(stride % 2**32)
        stride *= leaf.shape[axis]
    return jnp.sum(bits * (2 * place + 1), dtype=jnp.uint32)


def _sum_on_host(leaf: np.ndarray) -> int:
    words = np.ascontiguousarray(leaf).reshape(-1).view(_WORDS[leaf.dtype.itemsize])
    total = 0
    for start in range(0, len(words), _PIECE):
        piece = words[start : start + _PIECE].astype(np.uint32)
        weights = 2 * np.arange(start, start + len(piece), dtype=np.uint64).astype(np.uint32) + np.uint32(1)
        total += int(np.sum(piece * weights, dtype=np.uint32))
    return total % 2**32
