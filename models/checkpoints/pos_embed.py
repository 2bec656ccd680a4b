"""Position embeddings for images of another resolution than a tower was trained at."""

from __future__ import annotations

import numpy as np


def resample_positions(
    table: np.ndarray, *, old: tuple[int, int], new: tuple[int, int], class_tokens: int = 0
) -> np.ndarray:
    """Returns a table `[class_tokens + rows * columns, width]` for a grid of `new` (rows, columns), in its own dtype.

    Between the `old` positions it is linear, with corners on corners, as big_vision does it; those of class tokens,
    which come first, stay.
    """
    from scipy.ndimage import zoom

    kept, grid = table[:class_tokens], table[class_tokens:].astype(np.float32).reshape(*old, -1)
    grid = zoom(grid, (new[0] / old[0], new[1] / old[1], 1), order=1)
    return np.concatenate([kept, grid.reshape(new[0] * new[1], -1).astype(table.dtype)])
