"""A Pallas kernel for the sigmoid loss of all pairs on NVIDIA GPUs: logits and slopes never reach memory.

A program of the kernel has a tile of rows. It visits all columns tile by tile and keeps the sums of its rows in
registers. The gradient of the columns is the same kernel with the roles swapped. The logits are thus computed twice:
four matrix products per pair, against three of XLA's form. One pass for both sides would have many programs add to
the same columns with atomic operations, whose order and rounding differ from run to run. Here equal inputs give equal
bits.

The kernel is compiled for GPUs, and equals `reference.py` in Pallas's interpreter. It has never run on a GPU.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from pretrain.losses.pair_tiles import Tile, choose_tile
from pretrain.losses.pairwise_blocks import BlockLayout
from pretrain.losses.pairwise_losses import PairwiseLoss, matched_pairs, valid_pairs

INTERPRETED = "pallas_interpreted"
_INTERPRETED_CAPABILITY = "9.0"  # whose tiles the interpreter uses
_PADDING = -1  # index of the rows that fill the last tile

Side = dict[str, Any]  # of the rows or columns: embeddings [count, dim]; inverse (norms), index, equal_texts [count]


class PairSums(NamedTuple):
    """Sums over the columns of each row, in float32.

    scalars: of the loss, of its derivatives by the logits (slopes), and of slopes times cosines, `[rows, 3]`.
    embeddings: of slopes times columns of length 1, `[rows, dim]`; None if there are no gradients.
    """

    scalars: jax.Array
    embeddings: jax.Array | None = None


def layout_for_kernel(layout: BlockLayout, batch: int) -> BlockLayout:
    """Return the layout with one block per device, as the kernel divides it into tiles itself.

    Raises `ValueError` if the devices are not GPUs.
    """
    platform = layout.device.platform
    if layout.implementation != INTERPRETED and platform not in ("gpu", "cuda"):
        raise ValueError(
            f"objective.implementation 'pallas' is for NVIDIA GPUs, and the batch is on {platform} devices. Use "
            "objective.implementation='xla'."
        )
    return dataclasses.replace(layout, block_size=batch)


def evaluate_block(layout: BlockLayout, loss: PairwiseLoss, scales: Any, row: dict, column: dict, losses, column_sums):
    """Add the losses `[views, rows]` of a block of pairs to the sums, as `contrastive` does."""
    texts = _side(column, column["text"], column["inverse"])
    found = [
        _sum_over_columns(layout, loss, _view(row, k), texts, _scalars(scales, k), gradient=False).scalars[:, 0]
        for k in range(len(row["views"]))
    ]
    return losses + jnp.stack(found), column_sums


def differentiate_block(
    layout: BlockLayout,
    loss: PairwiseLoss,
    cosine_factors: jax.Array,
    scales: Any,
    row: dict,
    column: dict,
    sums: Any,
    d_text: jax.Array,
):
    """Add the loss and the gradients of a block of pairs to the sums, as `contrastive` does."""
    texts = _side(column, column["text"], column["inverse"])
    scalars, by_view = [], []
    for k, summed in enumerate(sums.texts):
        images, of_view = _view(row, k), _scalars(scales, k)
        of_images = _sum_over_columns(layout, loss, images, texts, of_view, gradient=True)
        of_texts = _sum_over_columns(layout, loss, texts, images, of_view, gradient=True)
        scalars.append(of_images.scalars)
        by_view.append(summed + of_images.embeddings)
        d_text += cosine_factors[k] * of_texts.embeddings
    return sums._replace(scalars=sums.scalars + jnp.stack(scalars), texts=by_view), d_text


def _view(row: dict, k: int) -> Side:
    return _side(row, row["views"][k], row["inverse"][k])


def _side(block: dict, embeddings: jax.Array, inverse: jax.Array) -> Side:
    equal = block["equal_texts"]._replace(share=None)
    return {"embeddings": embeddings, "inverse": inverse, "index": block["index"], "equal_texts": equal}


def _scalars(scales: Any, k: int) -> jax.Array:
    """Return the scale and the bias of view k, `[2]`."""
    return jnp.stack([jnp.exp(scales.logit_scale[k]), scales.logit_bias[k]])


def _sum_over_columns(
    layout: BlockLayout, loss: PairwiseLoss, rows: Side, columns: Side, scalars: jax.Array, *, gradient: bool
) -> PairSums:
    interpret = layout.implementation == INTERPRETED
    capability = _INTERPRETED_CAPABILITY if interpret else str(layout.device.compute_capability)
    tile = choose_tile(rows["embeddings"].shape[1], capability)
    return sum_over_columns(loss, rows, columns, scalars, tile=tile, gradient=gradient, interpret=interpret)


# The kernel


def sum_over_columns(
    loss: PairwiseLoss,
    rows: Side,
    columns: Side,
    scalars: jax.Array,
    *,
    tile: Tile,
    gradient: bool = True,
    interpret: bool = False,
) -> PairSums:
    """Return the sums of each row over all columns, with logits `scalars[0]` · cosine + `scalars[1]`.

    `loss` has no statistics, and treats rows and columns alike.
    """
    count, dim = rows["embeddings"].shape
    rows, columns = _pad(rows, tile.rows, tile), _pad(columns, tile.columns, tile)
    padded, width = rows["embeddings"].shape
    shapes = [(padded,)] * 3 + [(padded, width)] * gradient
    found = pl.pallas_call(
        functools.partial(_kernel, loss, tile),
        grid=(padded // tile.rows,),
        in_specs=(jax.tree.map(lambda array: _tile_spec(array.shape, tile), rows), *_whole((columns, scalars))),
        out_specs=[_tile_spec(shape, tile) for shape in shapes],
        out_shape=[jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes],
        compiler_params=triton.CompilerParams(num_warps=tile.warps, num_stages=tile.stages),
        interpret=interpret,
        name="pair_kernel",
    )(rows, columns, scalars)
    return PairSums(jnp.stack(found[:3], axis=1)[:count], found[3][:count, :dim] if gradient else None)


def _pad(side: Side, multiple: int, tile: Tile) -> Side:
    """Return the side with a multiple of rows and of chunks: rows of padding are zeros with a negative index."""

    def pad(array: jax.Array, fill: int = 0) -> jax.Array:
        missing = [-len(array) % multiple, *(-size % tile.chunk for size in array.shape[1:])]
        return jnp.pad(array, [(0, each) for each in missing], constant_values=fill) if any(missing) else array

    return jax.tree.map(pad, side) | {"index": pad(side["index"], _PADDING)}


def _tile_spec(shape: tuple[int, ...], tile: Tile) -> pl.BlockSpec:
    """Return the rows of an array that belong to a program."""
    return pl.BlockSpec((tile.rows, *shape[1:]), lambda i: (i, *(0 for _ in shape[1:])))


def _whole(tree: Any) -> Any:
    """Return that every program has all of the arrays."""
    return jax.tree.map(lambda array: pl.BlockSpec(array.shape, lambda i: (0,) * array.ndim), tree)


def _kernel(loss: PairwiseLoss, tile: Tile, rows: Side, columns: Side, scalars: Any, *sums: Any) -> None:
    """Write the sums of a tile of rows; all arguments are references to memory."""
    per_row, embeddings = sums[:3], sums[3] if len(sums) == 4 else None
    x, t = rows["embeddings"], columns["embeddings"]
    chunks = [pl.ds(start, tile.chunk) for start in range(0, x.shape[1], tile.chunk)]
    row = _load(rows, slice(None))

    def visit(j: jax.Array, summed: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        at = pl.ds(j * tile.columns, tile.columns)
        column, parts = _load(columns, at), [t[at, chunk] for chunk in chunks]
        products = [_product(x[:, chunk], part, trans_b=True) for chunk, part in zip(chunks, parts, strict=True)]
        cosines = sum(products[1:], products[0]) * row["inverse"][:, None] * column["inverse"][None, :]
        losses, slopes = loss.block(scalars[0] * cosines + scalars[1], matched_pairs(row, column), None, None)
        valid = valid_pairs(row, column)
        losses, slopes = jnp.where(valid, losses, 0.0), jnp.where(valid, slopes, 0.0)
        terms = [jnp.sum(each, axis=1) for each in (losses, slopes, slopes * cosines)]
        if embeddings is not None:
            weights = (slopes * column["inverse"][None, :]).astype(t.dtype)
            terms += [_product(weights, part) for part in parts]
        return tuple(total + term for total, term in zip(summed, terms, strict=True))

    shapes = [(tile.rows,)] * 3 + [(tile.rows, tile.chunk)] * (0 if embeddings is None else len(chunks))
    start = tuple(jnp.zeros(shape, jnp.float32) for shape in shapes)
    summed = lax.fori_loop(0, t.shape[0] // tile.columns, visit, start)
    for ref, total in zip(per_row, summed[:3], strict=True):
        ref[...] = total
    for chunk, total in zip(chunks, summed[3:], strict=False):
        embeddings[:, chunk] = total


def _load(side: Side, at: Any) -> Side:
    """Return what a side has per row, without its embeddings."""
    return {name: jax.tree.map(lambda ref: ref[at], refs) for name, refs in side.items() if name != "embeddings"}


def _product(a: jax.Array, b: jax.Array, **transposed: bool) -> jax.Array:
    precision = lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return triton.dot(a, b, precision=precision, **transposed)
