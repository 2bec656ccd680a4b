"""Where arrays live: one mesh with axes `data` and `fsdp`, and a short table of rules for the parameters."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

Rules = Sequence[tuple[str, PartitionSpec]]

# The first rule whose pattern is found in an array's path decides. Layers carry a leading axis, [depth, in, out];
# the optimizer's moments have the same paths behind a prefix and so follow their parameters.
FSDP_RULES: Rules = (
    (r"layers/.*kernel$", PartitionSpec(None, "fsdp", None)),
    (r"(kernel|token_embedding)$", PartitionSpec("fsdp", None)),
    (r"", PartitionSpec()),
)


def create_mesh(fsdp: int = 1) -> Mesh:
    """Returns a mesh over all devices; parameters are split over `fsdp` of them and copied over the others."""
    devices = jax.device_count()
    if fsdp < 1 or devices % fsdp:
        fitting = ", ".join(str(n) for n in range(1, devices + 1) if devices % n == 0)
        raise ValueError(f"mesh.fsdp {fsdp} does not divide the {devices} devices here; it can be {fitting}")
    return jax.make_mesh((devices // fsdp, fsdp), ("data", "fsdp"), axis_types=(AxisType.Auto, AxisType.Auto))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch: its rows are spread over all devices."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Raises `ValueError`, naming the nearest that fit, for a batch that does not divide by the devices."""
    devices = mesh.size
    if batch_size < 1 or batch_size % devices:
        lower, upper = batch_size // devices * devices, -(-batch_size // devices) * devices
        nearest = " or ".join(str(size) for size in (lower, upper) if size > 0)
        raise ValueError(f"batch_size {batch_size} is not divisible by {devices} devices; nearest: {nearest}")


def local_rows(batch_size: int) -> slice:
    """Returns this host's rows of the global batch."""
    height = batch_size // jax.process_count()
    return slice(jax.process_index() * height, (jax.process_index() + 1) * height)


def place_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Returns the global batch, of which `batch` holds this host's rows."""
    sharding = batch_sharding(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in batch.items()}


def tree_shardings(tree: Any, mesh: Mesh, rules: Rules = FSDP_RULES) -> Any:
    """Returns one sharding for each array of `tree` (shapes are enough), by the first rule that its path matches."""

    def choose(path: tuple, leaf: Any) -> NamedSharding:
        name = path_name(path)
        for pattern, spec in rules:
            if re.search(pattern, name):
                return NamedSharding(mesh, _fitting(spec, leaf.shape, mesh, name))
        raise ValueError(f"no sharding rule matches {name}; end the rules with one whose pattern is ''")

    return jax.tree_util.tree_map_with_path(choose, tree)


def _fitting(spec: PartitionSpec, shape: tuple[int, ...], mesh: Mesh, name: str) -> PartitionSpec:
    if len(spec) > len(shape):
        raise ValueError(f"sharding rule {spec} has more axes than {name} with shape {list(shape)}")
    for axis, size in zip(spec, shape, strict=False):
        if axis is not None and size % mesh.shape[axis]:
            raise ValueError(f"{name} has shape {list(shape)}, which mesh.{axis} {mesh.shape[axis]} does not divide")
    return spec


def path_name(path: tuple) -> str:
    """Returns a path through a pytree as `a/b/c`."""
    return "/".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)
