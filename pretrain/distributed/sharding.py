"""Sharding: one mesh with axes `data` and `fsdp`, and a short table of rules for the parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from pretrain.optim.param_rules import check_patterns, first_match, path_name

AXES = ("data", "fsdp")
Rules = Sequence[tuple[str, tuple[str | None, ...]]]  # pattern, mesh axis of each dimension

# Layers have a leading dimension: [depth, in, out]. Arrays that match no rule are replicated.
FSDP_RULES: Rules = (
    (r"layers/.*kernel$", (None, "fsdp", None)),
    (r"(kernel|token_embedding)$", ("fsdp", None)),
)


def create_mesh(fsdp: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Return a mesh over `devices` (default: all); parameters are sharded over `fsdp` of them and otherwise replicated.

    On several TPU slices, which are connected by a slower network, no parameter is sharded across slices. Raises
    `ValueError`, naming values that fit, if `fsdp` does not divide the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    count = len(devices)
    if fsdp < 1 or count % fsdp:
        fitting = ", ".join(str(n) for n in range(1, count + 1) if count % n == 0)
        raise ValueError(f"mesh.fsdp {fsdp} does not divide the {count} devices. Use one of {fitting}.")
    types = (AxisType.Auto, AxisType.Auto)
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1:
        return jax.make_mesh((count // fsdp, fsdp), AXES, axis_types=types, devices=devices)
    per_slice = count // slices
    if per_slice % fsdp:
        raise ValueError(f"mesh.fsdp {fsdp} does not divide the {per_slice} devices of each of the {slices} slices")
    grid = mesh_utils.create_hybrid_device_mesh((per_slice // fsdp, fsdp), (slices, 1), devices=devices)
    return Mesh(grid, AXES, axis_types=types)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Return the sharding of a batch: its rows are divided among all devices."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def check_batch_size(batch_size: int, mesh: Mesh, microbatch_size: int | None = None) -> None:
    """Raise `ValueError`, naming the nearest sizes that fit, if devices or microbatches do not divide a batch."""
    devices = mesh.size
    if batch_size < 1 or batch_size % devices:
        lower, upper = batch_size // devices * devices, -(-batch_size // devices) * devices
        nearest = " or ".join(str(size) for size in (lower, max(upper, devices)) if size > 0)
        raise ValueError(f"batch_size {batch_size} is not divisible by {devices} devices. Use {nearest}.")
    if microbatch_size is None:
        return
    fitting = [size * devices for size in range(1, batch_size // devices + 1) if batch_size // devices % size == 0]
    if microbatch_size not in fitting:
        nearest = sorted(sorted(fitting, key=lambda size: abs(size - microbatch_size))[:2])
        raise ValueError(
            f"microbatch_size {microbatch_size} does not split batch_size {batch_size} on {devices} devices into equal "
            f"parts. Use {' or '.join(map(str, nearest))}."
        )


def local_rows(batch_size: int) -> slice:
    """Return the rows of the global batch that this host loads."""
    height = batch_size // jax.process_count()
    return slice(jax.process_index() * height, (jax.process_index() + 1) * height)


def place_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Return the global batch on the devices of `mesh`; `batch` has the rows of this host."""
    sharding = batch_sharding(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in batch.items()}


def parameter_shardings(parameters: Any, mesh: Mesh, rules: Rules = ()) -> Any:
    """Return one sharding per parameter (shapes suffice): that of the first rule whose pattern is found in its path.

    `rules` precede the default ones. Raises `ValueError` for a rule that matches no parameter or does not fit it.
    """
    check_patterns("mesh.rules", [pattern for pattern, _ in rules], parameters)
    table = (*((pattern, tuple(axes)) for pattern, axes in rules), *FSDP_RULES)

    def choose(path: tuple, leaf: Any) -> NamedSharding:
        name = path_name(path)
        axes = first_match(table, name, ())
        _check_fits(axes, leaf.shape, mesh=mesh, name=name)
        return NamedSharding(mesh, PartitionSpec(*axes))

    return jax.tree_util.tree_map_with_path(choose, parameters)


def state_shardings(state: Any, *, parameters: Any, shardings: Any, mesh: Mesh) -> Any:
    """Return one sharding per array of an optimizer state.

    An array whose path ends in the path of a parameter, and which has its shape, is sharded like the parameter. Other
    arrays are replicated.
    """
    known = {
        path_name(path): (leaf.shape, sharding)
        for (path, leaf), sharding in zip(
            jax.tree_util.tree_leaves_with_path(parameters), jax.tree.leaves(shardings), strict=True
        )
    }
    replicated = NamedSharding(mesh, PartitionSpec())

    def choose(path: tuple, leaf: Any) -> NamedSharding:
        for start in range(len(path)):
            shape, sharding = known.get(path_name(path[start:]), (None, None))
            if shape == leaf.shape:
                return sharding
        return replicated

    return jax.tree_util.tree_map_with_path(choose, state)


def bytes_per_device(tree: Any) -> int:
    """Return the bytes that each device holds of sharded arrays, or of shapes with shardings."""
    return sum(leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape)) for leaf in jax.tree.leaves(tree))


def _check_fits(axes: tuple[str | None, ...], shape: tuple[int, ...], *, mesh: Mesh, name: str) -> None:
    if len(axes) > len(shape):
        raise ValueError(f"sharding rule {axes} has more axes than {name}, which has shape {list(shape)}")
    for axis, size in zip(axes, shape, strict=False):
        if axis is None:
            continue
        if axis not in mesh.shape:
            raise ValueError(f"sharding rule {axes} of {name} names an unknown axis {axis!r}; known: {', '.join(AXES)}")
        if size % mesh.shape[axis]:
            raise ValueError(
                f"{name} has shape {list(shape)}, which mesh.{axis} {mesh.shape[axis]} does not divide. "
                f"Change mesh.{axis}, or replicate the array with the rule ({name!r}, ()) in mesh.rules."
            )
