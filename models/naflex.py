"""Images of any aspect ratio as patches: NaFlex, the variable resolution of SigLIP 2 (arXiv 2502.14786, section 2.4.2).

An image is resized to whole patches, at most `max_patches`, with its aspect ratio kept as far as patches allow, as
`Siglip2ImageProcessor` of transformers does. The square grid of position embeddings is resized to that of the image.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

_LARGEST_SCALE, _SCALE_STEP = 100.0, 1e-5  # of the search for the size of an image, those of transformers


class PatchedImages(NamedTuple):
    """Images cut into patches, row by row; an image of fewer patches than `slots` is padded behind them.

    patches: `[batch, slots, patch_size * patch_size * 3]`.
    grids: rows and columns of patches of each image, `[batch, 2]` int32; at least 1, and at most `slots` patches.
    """

    patches: jax.Array
    grids: jax.Array


def find_grid(height: int, width: int, *, patch_size: int, max_patches: int) -> tuple[int, int]:
    """Return the rows and columns of patches to which an image of `height` × `width` pixels is resized.

    The sides are scaled by the largest factor, at most 100, with which the sides rounded up to whole patches have no
    more than `max_patches`.
    """

    def grid_at(scale: float) -> tuple[int, int]:
        rows, columns = (max(1, math.ceil(side * scale / patch_size)) for side in (height, width))
        return rows, columns

    low, high = _SCALE_STEP / 10, _LARGEST_SCALE
    while high - low >= _SCALE_STEP:
        scale = (low + high) / 2
        low, high = (scale, high) if math.prod(grid_at(scale)) <= max_patches else (low, scale)
    return grid_at(low)


def resize_positions(table: jax.Array, grids: jax.Array, *, old: tuple[int, int], slots: int) -> jax.Array:
    """Return the position embeddings of images with `grids` `[batch, 2]` of patches: `[batch, slots, width]` float32.

    `table` `[rows * columns, width]` holds those of the `old` (rows, columns). It is resized linearly, as PyTorch does
    with `interpolate(mode="bilinear", align_corners=False, antialias=True)`: the weight of a row or column falls
    linearly with its distance, over one row of the coarser of both grids. Slots behind an image have those of its last
    row.
    """
    slot = jnp.arange(slots)[None]
    rows = _weights(jnp.minimum(slot // grids[:, 1:], grids[:, :1] - 1), grids[:, :1], old[0])
    columns = _weights(slot % grids[:, 1:], grids[:, 1:], old[1])
    weights = (rows[..., :, None] * columns[..., None, :]).reshape(*rows.shape[:2], -1)
    return jnp.einsum("bsg,gw->bsw", weights, table.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST)


def _weights(places: jax.Array, size: jax.Array, old: int) -> jax.Array:
    """Return the weights `[batch, slots, old]` of the old rows for the rows `places` `[batch, slots]` of `size` rows.

    `size` is `[batch, 1]`.
    """
    scale = old / size.astype(jnp.float32)
    center = (places + 0.5) * scale - 0.5
    distance = jnp.abs(jnp.arange(old, dtype=jnp.float32) - center[..., None])
    weights = jnp.maximum(1 - distance / jnp.maximum(scale, 1)[..., None], 0)
    return weights / jnp.sum(weights, axis=-1, keepdims=True)
