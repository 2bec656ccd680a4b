"""Where arrays are while a model computes on several devices."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def keep_all_but_gathered(primitive: Any, *_: Any, **__: Any) -> bool:
    """A remat policy: the backward pass gathers a layer's parameters again, and keeps everything else.

    Kept, they would be all layers' parameters on every device.
    """
    return primitive.name != "sharding_constraint"


@dataclasses.dataclass(frozen=True)
class Placement:
    """Rows of activations are spread over the whole mesh, and parameters are on every device when they are used.

    A layer's parameters may be stored in pieces; they are gathered when the layer is computed, its matrices in the
    dtype of the computation.
    """

    mesh: Mesh | None
    dtype: str

    @property
    def devices(self) -> int:
        """The number of devices."""
        return 1 if self.mesh is None else self.mesh.size

    def gather(self, parameters: Any) -> Any:
        """Returns parameters as a layer computes with them."""
        if self.mesh is None:
            return parameters
        copied = NamedSharding(self.mesh, PartitionSpec())

        def place(path: tuple, leaf: jax.Array) -> jax.Array:
            matrix = any(getattr(key, "key", None) == "kernel" for key in path)
            return jax.lax.with_sharding_constraint(leaf.astype(self.dtype) if matrix else leaf, copied)

        return jax.tree_util.tree_map_with_path(place, parameters)

    def gather_outer(self, parameters: Any) -> Any:
        """Returns a model's parameters with those outside of stacked layers gathered; layers gather their own."""

        def place(path: tuple, leaf: jax.Array) -> jax.Array:
            layered = any(getattr(key, "key", None) == "layers" for key in path)
            return leaf if layered else self.gather({path[-1].key: leaf})[path[-1].key]

        return jax.tree_util.tree_map_with_path(place, parameters)

    def spread(self, activations: jax.Array) -> jax.Array:
        """Returns activations `[batch, ...]` with their rows spread over all devices."""
        if self.mesh is None:
            return activations
        return jax.lax.with_sharding_constraint(
            activations, NamedSharding(self.mesh, PartitionSpec(self.mesh.axis_names))
        )
