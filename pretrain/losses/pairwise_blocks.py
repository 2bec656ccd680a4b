"""All pairs of a global batch, block by block: nothing here ever holds a `[batch, batch]` array.

The rows stay on their device. The columns come to it: gathered whole where that is small, else around a ring.
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
DTYPES = ("float32", "bfloat16")
_CPU_BLOCK, _ACCELERATOR_BLOCK = 1024, 4096  # rows and columns of a block of logits (docs/PERFORMANCE.md)
_NORM_EPSILON = 1e-12  # a shorter embedding has no direction: its cosines and its gradient are zero
_PADDING = -1  # the index of rows that fill up the last block


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a global batch is spread over a mesh and cut into blocks.

    Without `mesh` the batch is on one device. `dtype` is that of the operands of matrix products, which accumulate in
    float32. `block_size` is the largest number of rows, and of columns, of a block; None takes what the platform runs
    well with. Columns that take up to `gather_limit` bytes in all are gathered on every device; more go around a ring.
    """

    mesh: Mesh | None = None
    dtype: str = "float32"
    block_size: int | None = None
    gather_limit: int = 1 << 29

    @property
    def axes(self) -> tuple[str, ...]:
        """The mesh axes that the batch is spread over; none on one device."""
        return () if self.devices == 1 else self.mesh.axis_names

    @property
    def devices(self) -> int:
        """The number of devices that the batch is spread over."""
        return 1 if self.mesh is None else self.mesh.size

    @property
    def limit(self) -> int:
        """The largest number of rows of a block."""
        if self.block_size is not None:
            return self.block_size
        platform = jax.default_backend() if self.mesh is None else self.mesh.devices.flat[0].platform
        return _CPU_BLOCK if platform == "cpu" else _ACCELERATOR_BLOCK

    def on_devices(self, function: Callable[[Tree, Tree], tuple[Tree, Tree]]) -> Callable:
        """Returns `function(arrays, scalars) → (arrays, sums)` run by each device on its rows; sums are over all."""
        if not self.axes:
            return function

        def local(arrays: Tree, scalars: Tree) -> tuple[Tree, Tree]:
            arrays, sums = function(arrays, scalars)
            return arrays, lax.psum(sums, self.axes)

        rows, copied = PartitionSpec(self.axes), PartitionSpec()
        specs = (rows, copied)
        return jax.shard_map(local, mesh=self.mesh, in_specs=specs, out_specs=specs, check_vma=False)

    def cut(self, arrays: dict[str, Tree]) -> dict[str, Tree]:
        """Cuts this device's rows `[rows, ...]` into `[blocks, size, ...]` and adds their `index` in the global batch.

        The blocks are as even as they can be; rows of padding are zeros with a negative index.
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
    """Undoes `Layout.cut` for one array: `[blocks, size, ...]` to `[rows, ...]`."""
    return blocks.reshape(-1, *blocks.shape[2:])[:rows]


def sweep(
    visit: Callable[[Tree, Tree, Tree, Tree], tuple[Tree, Tree]],
    layout: Layout,
    rows: Tree,
    columns: Tree,
    *,
    row_sums: Tree = (),
    column_sums: Tree = (),
    merge: Callable[[jax.Array], jax.Array] | None = None,
    own_columns_only: bool = False,
) -> tuple[Tree, Tree]:
    """Visits every block of the global batch's pairs that this device's rows take part in; returns both sums.

    `rows` and `columns` are this device's, cut into blocks. `visit(row_block, column_block, row_sums, column_sums)`
    returns the two sums with the block's part added; they belong to this device's rows and columns. `merge` joins the
    devices' parts `[devices, ...]` of column sums, which are added by default; they start at what it leaves unchanged.
    """
    if own_columns_only or not layout.axes:
        return _visit_all(visit, rows, columns, row_sums, column_sums)
    if layout.devices * sum(leaf.nbytes for leaf in jax.tree.leaves(columns)) <= layout.gather_limit:
        return _gather(visit, layout, rows, columns, row_sums, column_sums, merge)
    return _ring(visit, layout, rows, columns, row_sums, column_sums)


def _gather(visit, layout, rows, columns, row_sums, column_sums, merge):
    axes, devices = layout.axes, layout.devices
    columns = jax.tree.map(lambda leaf: lax.all_gather(leaf, axes, tiled=True), columns)
    parts = jax.tree.map(lambda leaf: jnp.tile(leaf, (devices,) + (1,) * (leaf.ndim - 1)), column_sums)
    row_sums, parts = _visit_all(visit, rows, columns, row_sums, parts)

    def bring_home(part: jax.Array) -> jax.Array:
        if merge is None:
            return lax.psum_scatter(part, axes, tiled=True)
        return merge(lax.all_to_all(part.reshape(devices, -1, *part.shape[1:]), axes, 0, 0))

    return row_sums, jax.tree.map(bring_home, parts)


def _ring(visit, layout, rows, columns, row_sums, column_sums):
    axes, devices = layout.axes, layout.devices
    neighbours = [(device, (device + 1) % devices) for device in range(devices)]

    def hop(_: int, state: Tree) -> Tree:
        columns, row_sums, column_sums = state
        coming = lax.ppermute(columns, axes, neighbours)  # travels while these are visited
        row_sums, column_sums = _visit_all(visit, rows, columns, row_sums, column_sums)
        return coming, row_sums, lax.ppermute(column_sums, axes, neighbours)

    _, row_sums, column_sums = lax.fori_loop(0, devices, hop, (columns, row_sums, column_sums))
    return row_sums, column_sums


def _visit_all(visit, rows, columns, row_sums, column_sums):
    """Visits the blocks of all columns with all rows; the sums are updated in place."""
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


def _take(tree: Tree, i: int) -> Tree:
    return jax.tree.map(lambda leaf: lax.dynamic_index_in_dim(leaf, i, keepdims=False), tree)


def _put(tree: Tree, block: Tree, i: int) -> Tree:
    return jax.tree.map(lambda leaf, value: lax.dynamic_update_index_in_dim(leaf, value, i, 0), tree, block)


def inverse_norms(embeddings: jax.Array) -> jax.Array:
    """Returns 1 / length of each row `[rows, dim]` in float32, and 0 for rows that are zero."""
    squared = jnp.sum(jnp.square(embeddings.astype(jnp.float32)), axis=-1)
    return jnp.where(squared > _NORM_EPSILON**2, lax.rsqrt(jnp.maximum(squared, _NORM_EPSILON**2)), 0.0)


def through_normalization(gradient: jax.Array, embeddings: jax.Array, inverse_norm: jax.Array) -> jax.Array:
    """Returns the gradient of raw rows `[rows, dim]` from the gradient of their normalised form."""
    unit = embeddings.astype(jnp.float32) * inverse_norm[..., None]
    along = jnp.sum(unit * gradient, axis=-1, keepdims=True)
    return inverse_norm[..., None] * (gradient - unit * along)


def pairwise(rows: jax.Array, columns: jax.Array) -> jax.Array:
    """Returns all dot products `[rows, columns]` in float32."""
    return _product(rows, columns, ((1,), (1,)))


def mix(weights: jax.Array, columns: jax.Array) -> jax.Array:
    """Returns the sums of the columns `[columns, dim]` by `weights` `[rows, columns]`, in float32."""
    return _product(weights.astype(columns.dtype), columns, ((1,), (0,)))


def mix_transposed(weights: jax.Array, rows: jax.Array) -> jax.Array:
    """Returns the sums of the rows `[rows, dim]` by `weights` `[rows, columns]`, in float32: `[columns, dim]`."""
    return _product(weights.astype(rows.dtype), rows, ((0,), (0,)))


def _product(a: jax.Array, b: jax.Array, contract: tuple) -> jax.Array:
    precision = lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return lax.dot_general(a, b, (contract, ((), ())), precision=precision, preferred_element_type=jnp.float32)
