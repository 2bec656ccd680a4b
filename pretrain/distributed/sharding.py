"""Where arrays live: one mesh with axes `data` and `fsdp`, and a short table of rules for the parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from pretrain.optim.param_rules import check_patterns, first_match, path_name

AXES = ("data", "fsdp")
Rules = Sequence[tuple[str, tuple[str | None, ...]]]  # a pattern, and what each axis of an array is split over

# Layers carry a leading axis, [depth, in, out]. What no rule matches is copied.
FSDP_RULES: Rules = (
    (r"layers/.*kernel$", (None, "fsdp", None)),
    (r"(kernel|token_embedding)$", ("fsdp", None)),
)


def create_mesh(fsdp: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns a mesh over `devices`, by default all; parameters are split over `fsdp` of them, copied over the others.

    Of several TPU slices, between which the network is slower, no split goes across two.

    Raises `ValueError`, naming what fits, where `fsdp` does not divide the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    count = len(devices)
    if fsdp < 1 or count % fsdp:
        fitting = ", ".join(str(n) for n in range(1, count + 1) if count % n == 0)
        raise ValueError(f"mesh.fsdp {fsdp} does not divide the {count} devices here; it can be {fitting}")
    types = (AxisType.Auto, AxisType.Auto)
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1:
        return jax.make_mesh((count // fsdp, fsdp), AXES, axis_types=types, devices=devices)
    each = count // slices
    if each % fsdp:
        raise ValueError(f"mesh.fsdp {fsdp} does not divide the {each} devices of each of {slices} slices")
    grid = mesh_utils.create_hybrid_device_mesh((each // fsdp, fsdp), (slices, 1), devices=devices)
    return Mesh(grid, AXES, axis_types=types)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch: its rows are spread over all devices."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def check_batch_size(batch_size: int, mesh: Mesh, microbatch_size: int | None = None) -> None:
    """Raises `ValueError`, naming the nearest that fit, where a batch does not divide by devices or microbatches."""
    devices = mesh.size
    if batch_size < 1 or batch_size % devices:
        lower, upper = batch_size // devices * devices, -(-batch_size // devices) * devices
        nearest = " or ".join(str(size) for size in (lower, max(upper, devices)) if size > 0)
        raise ValueError(f"batch_size {batch_size} is not divisible by {devices} devices; nearest: {nearest}")
    if microbatch_size is None:
        return
    fitting = [size * devices for size in range(1, batch_size // devices + 1) if batch_size // devices % size == 0]
    if microbatch_size not in fitting:
        nearest = sorted(sorted(fitting, key=lambda size: abs(size - microbatch_size))[:2])
        raise ValueError(
            f"microbatch_size {microbatch_size} does not split batch_size {batch_size} on {devices} devices into equal "
            f"parts; nearest: {' or '.join(map(str, nearest))}"
        )


def local_rows(batch_size: int) -> slice:
    """Returns this host's rows of the global batch."""
    height = batch_size // jax.process_count()
    return slice(jax.process_index() * height, (jax.process_index() + 1) * height)


def place_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Returns the global batch, of which `batch` holds this host's rows."""
    sharding = batch_sharding(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in batch.items()}


def parameter_shardings(parameters: Any, mesh: Mesh, rules: Rules = ()) -> Any:
    """Returns one sharding for each parameter (shapes are enough), by the first rule that its path matches.

    `rules` come before the default ones. Raises `ValueError` for a rule that matches nothing or does not fit.
    """
    check_patterns("mesh.rules", [pattern for pattern, _ in rules], parameters)
    table = (*((pattern, tuple(axes)) for pattern, axes in rules), *FSDP_RULES)

    def choose(path: tuple, leaf: Any) -> NamedSharding:
        name = path_name(path)
        axes = first_match(table, name, ())
        _check_fits(axes, leaf.shape, mesh, name)
        return NamedSharding(mesh, PartitionSpec(*axes))

    return jax.tree_util.tree_map_with_path(choose, parameters)


def state_shardings(state: Any, parameters: Any, shardings: Any, mesh: Mesh) -> Any:
    """Returns one sharding for each array of an optimizer's state.

    An array that has a parameter's path behind a prefix, and its shape, lives like the parameter; others are copied.
    """
    known = {
        path_name(path): (leaf.shape, sharding)
        for (path, leaf), sharding in zip(
            jax.tree_util.tree_leaves_with_path(parameters), jax.tree.leaves(shardings), strict=True
        )
    }
    copied = NamedSharding(mesh, PartitionSpec())

    def choose(path: tuple, leaf: Any) -> NamedSharding:
        for start in range(len(path)):
            shape, sharding = known.get(path_name(path[start:]), (None, None))
            if shape == leaf.shape:
                return sharding
        return copied

    return jax.tree_util.tree_map_with_path(choose, state)


def _check_fits(axes: tuple[str | None, ...], shape: tuple[int, ...], mesh: Mesh, name: str) -> None:
    if len(axes) > len(shape):
        raise ValueError(f"sharding rule {axes} has more axes than {name} with shape {list(shape)}")
    for axis, size in zip(axes, shape, strict=False):
        if axis is None:
            continue
        if axis not in mesh.shape:
            raise ValueError(f"sharding rule {axes} of {name} names an unknown axis {axis!r}; known: {', '.join(AXES)}")
        if size % mesh.shape[axis]:
            raise ValueError(
                f"{name} has shape {list(shape)}, which mesh.{axis} {mesh.shape[axis]} does not divide; "
                f"change mesh.{axis}, or copy it by the rule ({name!r}, ()) in mesh.rules"
            )
