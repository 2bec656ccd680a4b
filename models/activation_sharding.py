"""Shardings of activations and parameters inside a model that runs on several devices."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def save_all_but_gathered(primitive: Any, *_: Any, **__: Any) -> bool:
    """Remat policy: save everything except gathered parameters, which the backward pass gathers again.

    If they were saved, every device would hold the parameters of all layers at once.
    """
    return primitive.name != "sharding_constraint"


@dataclasses.dataclass(frozen=True)
class ActivationSharding:
    """Sharding constraints: activations are split by rows over the whole mesh, parameters are replicated when used.

    Parameters may be stored sharded. Those of a layer are gathered when the layer runs, its matrices after a cast to
    `dtype`, the dtype of the computation. Without a mesh all methods return their argument unchanged.
    """

    mesh: Mesh | None
    dtype: str

    @property
    def num_devices(self) -> int:
        """The number of devices of the mesh, 1 without a mesh."""
        return 1 if self.mesh is None else self.mesh.size

    def gather(self, parameters: Any) -> Any:
        """Return the parameters replicated on every device, matrices in the dtype of the computation."""
        if self.mesh is None:
            return parameters
        return jax.tree_util.tree_map_with_path(self._replicate, parameters)

    def gather_outer(self, parameters: Any) -> Any:
        """Return a model's parameters with all of them gathered except those of the stacked layers."""
        return jax.tree_util.tree_map_with_path(self._replicate_outer, parameters)

    def split_rows(self, activations: jax.Array) -> jax.Array:
        """Return activations `[batch, ...]` with their rows split over all devices."""
        if self.mesh is None:
            return activations
        return jax.lax.with_sharding_constraint(
            activations, NamedSharding(self.mesh, PartitionSpec(self.mesh.axis_names))
        )

    def _replicate(self, path: tuple, leaf: jax.Array) -> jax.Array:
        if self.mesh is None:
            return leaf
        if _contains(path, "kernel"):
            leaf = leaf.astype(self.dtype)
        return jax.lax.with_sharding_constraint(leaf, NamedSharding(self.mesh, PartitionSpec()))

    def _replicate_outer(self, path: tuple, leaf: jax.Array) -> jax.Array:
        # Only the last key decides whether an outer array is a matrix.
        return leaf if _contains(path, "layers") else self._replicate(path[-1:], leaf)


def _contains(path: tuple, name: str) -> bool:
    return any(getattr(key, "key", None) == name for key in path)
