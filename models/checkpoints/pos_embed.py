"""Position embeddings for images of another size than a tower was trained with."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from models.naflex import resize_positions


def resample_positions(
    table: np.ndarray, *, old: tuple[int, int], new: tuple[int, int], class_tokens: int = 0
) -> np.ndarray:
    """Return a table `[class_tokens + rows * columns, width]` for a grid of `new` (rows, columns), in the same dtype.

    The `old` grid is interpolated linearly with aligned corners, as big_vision does. The embeddings of class tokens,
    which come first, are unchanged.
    """
    from scipy.ndimage import zoom

    class_rows, grid = table[:class_tokens], table[class_tokens:].astype(np.float32).reshape(*old, -1)
    grid = zoom(grid, (new[0] / old[0], new[1] / old[1], 1), order=1)
    return np.concatenate([class_rows, grid.reshape(new[0] * new[1], -1).astype(table.dtype)])


def resize_grid(table: np.ndarray, *, old: tuple[int, int], new: tuple[int, int]) -> np.ndarray:
    """Return a table `[rows * columns, width]` for `new` (rows, columns), resized as NaFlex does for every image."""
    positions = resize_positions(jnp.asarray(table), jnp.array([new]), old=old, slots=new[0] * new[1])
    return np.asarray(positions[0]).astype(table.dtype)
