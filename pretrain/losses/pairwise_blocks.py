"""Sweeps over all pairs of a global batch, block by block, without a `[batch, batch]` array.

Rows stay on their device. Columns are sent to it: all at once if they are small, else around a ring.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec

Tree = Any  # a pytree of arrays
# Rows and columns of a block, by platform: docs/results/performance.md and compiled-programs.md.
_BLOCKS = {"cpu": 1024, "gpu": 2048, "tpu": 4096}
_NORM_EPSILON = 1e-12  # cosines and gradients of shorter embeddings are zero
_PADDING = -1  # index of the rows that fill the last block


@dataclasses.dataclass(frozen=True)
class BlockLayout:
    """The sharding of a global batch over a mesh, and its division into blocks.

    mesh: the devices that share the batch; None if it is on one device.
    dtype: dtype of the operands of matrix products, which accumulate in float32.
    block_size: largest number of rows, and of columns, of a block; None chooses it for the platform.
    gather_limit: bytes of all columns up to which every device gathers them; more go around a ring.
    implementation: of the sigmoid loss of a block of pairs: "xla", or "pallas" (`pair_kernel`).
    """

    mesh: Mesh | None = None
    dtype: str = "float32"
    block_size: int | None = None
    gather_limit: int = 1 << 29
    implementation: str = "xla"

    @property
    def axes(self) -> tuple[str, ...]:
        """Mesh axes over which the batch is sharded; none on one device."""
        return () if self.devices == 1 else self.mesh.axis_names

    @property
    def devices(self) -> int:
        """Number of devices over which the batch is sharded."""
        return 1 if self.mesh is None else self.mesh.size

    @property
    def limit(self) -> int:
        """Largest number of rows of a block."""
        if self.block_size is not None:
            return self.block_size
        return _BLOCKS.get(self.device.platform, _BLOCKS["gpu"])

    @property
    def device(self) -> jax.Device:
        """One of the devices that share the batch."""
        return jax.devices()[0] if self.mesh is None else self.mesh.devices.flat[0]

    def on_devices(self, function: Callable[[Tree, Tree], tuple[Tree, Tree]]) -> Callable:
        """Return `function(arrays, scalars) → (arrays, sums)` run by each device on its rows; sums are over devices."""
        if not self.axes:
            return function

        def local(arrays: Tree, scalars: Tree) -> tuple[Tree, Tree]:
            arrays, sums = function(arrays, scalars)
            return arrays, lax.psum(sums, self.axes)

        specs = (PartitionSpec(self.axes), PartitionSpec())  # rows are sharded, scalars and sums are replicated
        return jax.shard_map(local, mesh=self.mesh, in_specs=specs, out_specs=specs, check_vma=False)

    def split(self, arrays: dict[str, Tree]) -> dict[str, Tree]:
        """Split this device's rows `[rows, ...]` into `[blocks, size, ...]` and add their `index` in the global batch.

        Blocks are as even as possible; rows of padding are zeros with a negative index.
        """
        rows = len(jax.tree.leaves(arrays)[0])
        count = -(-rows // self.limit)
        size = -(-rows // count)

        def blocks(array: jax.Array, fill: int = 0) -> jax.Array:
            padding = ((0, count * size - rows),) + ((0, 0),) * (array.ndim - 1)
            return jnp.pad(array, padding, constant_values=fill).reshape(count, size, *array.shape[1:])

        start = lax.axis_index(self.axes) * rows if self.axes else 0
        index = blocks(start + jnp.arange(rows, dtype=jnp.int32), _PADDING)
        return jax.tree.map(blocks, arrays) | {"index": index}


def join(blocks: jax.Array, rows: int) -> jax.Array:
    """Undo `BlockLayout.split` for one array: `[blocks, size, ...]` to `[rows, ...]`."""
    return blocks.reshape(-1, *blocks.shape[2:])[:rows]


def sweep(
    visit: Callable[[Tree, Tree, Tree, Tree], tuple[Tree, Tree]],
    layout: BlockLayout,
    rows: Tree,
    columns: Tree,
    *,
    name: str,
    row_sums: Tree = (),
    column_sums: Tree = (),
    merge: Callable[[jax.Array], jax.Array] | None = None,
    own_columns_only: bool = False,
) -> tuple[Tree, Tree]:
    """Visit every block of pairs of this device's rows and all columns; return the sums of rows and of columns.

    `rows` and `columns` are those of this device, split into blocks. `visit(row_block, column_block, row_sums,
    column_sums)` returns both sums with the block's part added. The sums belong to the rows and columns of this device.
    `merge` combines the parts `[devices, ...]` of column sums that the devices have computed (default: their sum); the
    initial column sums must be its neutral element. `own_columns_only` leaves out the columns of other devices. The
    operations of the compiled program carry `blocks/name` in their names (`pretrain.compilation.hlo`).
    """
    with jax.named_scope(f"blocks/{name}"):
        if own_columns_only or not layout.axes:
            return _visit_blocks(visit, rows, columns, row_sums, column_sums)
        if layout.devices * sum(leaf.nbytes for leaf in jax.tree.leaves(columns)) <= layout.gather_limit:
            return _gather(visit, layout, rows, columns, row_sums, column_sums, merge)
        return _ring(visit, layout, rows, columns, row_sums, column_sums)


def _gather(visit, layout, rows, columns, row_sums, column_sums, merge):
    axes, devices = layout.axes, layout.devices
    columns = jax.tree.map(lambda leaf: lax.all_gather(leaf, axes, tiled=True), columns)
    parts = jax.tree.map(lambda leaf: jnp.tile(leaf, (devices,) + (1,) * (leaf.ndim - 1)), column_sums)
    row_sums, parts = _visit_blocks(visit, rows, columns, row_sums, parts)

    def return_to_owner(part: jax.Array) -> jax.Array:
        if merge is None:
            return lax.psum_scatter(part, axes, tiled=True)
        return merge(lax.all_to_all(part.reshape(devices, -1, *part.shape[1:]), axes, 0, 0))

    return row_sums, jax.tree.map(return_to_owner, parts)


def _ring(visit, layout, rows, columns, row_sums, column_sums):
    axes, devices = layout.axes, layout.devices
    neighbours = [(device, (device + 1) % devices) for device in range(devices)]

    def hop(_: int, state: Tree) -> Tree:
        columns, row_sums, column_sums = state
        next_columns = lax.ppermute(columns, axes, neighbours)  # sent while the present ones are visited
        row_sums, column_sums = _visit_blocks(visit, rows, columns, row_sums, column_sums)
        return next_columns, row_sums, lax.ppermute(column_sums, axes, neighbours)

    _, row_sums, column_sums = lax.fori_loop(0, devices, hop, (columns, row_sums, column_sums))
    return row_sums, column_sums


def _visit_blocks(visit, rows, columns, row_sums, column_sums):
    """Visit all pairs of row blocks and column blocks; the sums are updated in place."""
    row_blocks, column_blocks = (len(jax.tree.leaves(tree)[0]) for tree in (rows, columns))

    def visit_column(j: int, sums: Tree) -> Tree:
        row_sums, column_sums = sums
        column = _take(columns, j)

        def visit_row(i: int, sums: Tree) -> Tree:
            row_sums, column_sum = sums
            row_sum, column_sum = visit(_take(rows, i), column, _take(row_sums, i), column_sum)
            return _put(row_sums, row_sum, i), column_sum

        row_sums, column_sum = lax.fori_loop(0, row_blocks, visit_row, (row_sums, _take(column_sums, j)))
        return row_sums, _put(column_sums, column_sum, j)

    return lax.fori_loop(0, column_blocks, visit_column, (row_sums, column_sums))


def update_blocks(update: Callable[[Tree, Tree], Tree], sums: Tree, blocks: Tree) -> Tree:
    """Return `update(sum, block)` for each block of the sums `[blocks, ...]`, in place: a loop reuses their memory."""
    count = len(jax.tree.leaves(sums)[0])
    return lax.fori_loop(0, count, lambda i, sums: _put(sums, update(_take(sums, i), _take(blocks, i)), i), sums)


def _take(tree: Tree, i: int) -> Tree:
    return jax.tree.map(lambda leaf: lax.dynamic_index_in_dim(leaf, i, keepdims=False), tree)


def _put(tree: Tree, block: Tree, i: int) -> Tree:
    return jax.tree.map(lambda leaf, value: lax.dynamic_update_index_in_dim(leaf, value, i, 0), tree, block)


def inverse_norms(embeddings: jax.Array) -> jax.Array:
    """Return 1 / length of each row `[rows, dim]` in float32, and 0 for rows of zeros."""
    squared = jnp.sum(jnp.square(embeddings.astype(jnp.float32)), axis=-1)
    return jnp.where(squared > _NORM_EPSILON**2, lax.rsqrt(jnp.maximum(squared, _NORM_EPSILON**2)), 0.0)


def normalize_vjp(gradient: jax.Array, embeddings: jax.Array, inverse_norm: jax.Array) -> jax.Array:
    """Return the gradient of the raw rows `[rows, dim]`, given the gradient of the normalised rows."""
    unit = embeddings.astype(jnp.float32) * inverse_norm[..., None]
    along = jnp.sum(unit * gradient, axis=-1, keepdims=True)
    return inverse_norm[..., None] * (gradient - unit * along)


def pairwise(rows: jax.Array, columns: jax.Array) -> jax.Array:
    """Return all dot products `[..., rows, columns]` of rows `[..., rows, dim]` and `[columns, dim]`, in float32."""
    return _product(rows, columns, ((rows.ndim - 1,), (1,)))


def mix(weights: jax.Array, columns: jax.Array) -> jax.Array:
    """Return the sums `[..., rows, dim]` of `[columns, dim]` with `weights` `[..., rows, columns]`, in float32."""
    return _product(weights.astype(columns.dtype), columns, ((weights.ndim - 1,), (0,)))


def mix_transposed(weights: jax.Array, rows: jax.Array) -> jax.Array:
    """Return the sums `[columns, dim]` of `[..., rows, dim]` with `weights` `[..., rows, columns]`, in float32."""
    summed = tuple(range(rows.ndim - 1))
    return _product(weights.astype(rows.dtype), rows, (summed, summed))


def _product(a: jax.Array, b: jax.Array, contract: tuple) -> jax.Array:
    precision = lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return lax.dot_general(a, b, (contract, ((), ())), precision=precision, preferred_element_type=jnp.float32)
