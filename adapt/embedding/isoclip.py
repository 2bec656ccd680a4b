"""IsoCLIP: image embeddings for comparing images with images (arXiv 2603.19862, section 4)."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from models.checkpoints.consistency import images_only
from models.checkpoints.describe import CheckpointDescription, describe_checkpoint

_IMAGE, _TEXT = "vision/projection/kernel", "text/head/kernel"


def isoclip_projection(checkpoint: str | os.PathLike, *, k_top: int = 150, k_bottom: int = 50) -> np.ndarray:
    """Return the matrix `[dim, dim]` float32 that maps image embeddings of a checkpoint to those of IsoCLIP.

    checkpoint: path or hub id of a checkpoint whose towers both end in a linear projection without a bias, as in CLIP.
        Only its projections are kept.
    k_top, k_bottom: number of directions with the largest and with the smallest singular values to remove. The defaults
        are the authors' for OpenAI's ViT-B/32. They use 200 and 50 for ViT-B/16, 250 and 200 for ViT-L/14.

    `embeddings @ matrix` applies it, to support and query images alike. It is meant for methods on images alone: the
    result is no longer comparable with text embeddings.

    Raises `ValueError` for a checkpoint without such projections and for numbers of directions that leave none.
    """
    described = describe_checkpoint(checkpoint)
    _check_projections(described)

    def keep(path: str, array: np.ndarray) -> Any:
        return array if path in (_IMAGE, _TEXT) else None

    parameters = described.read(place=keep)
    image, text = parameters["vision"]["projection"]["kernel"], parameters["text"]["head"]["kernel"]
    return isoclip_matrix(image, text, k_top=k_top, k_bottom=k_bottom)


def isoclip_matrix(image: np.ndarray, text: np.ndarray, *, k_top: int, k_bottom: int) -> np.ndarray:
    """Return the matrix of `isoclip_projection`, `[dim, dim]` float32, for given projections.

    `image` `[image width, dim]` and `text` `[text width, dim]` are the last projections W_i and W_t: the embedding of
    an image is x = h W_i. With the singular value decomposition W_i W_tᵀ = U S Vᵀ, directions sorted from the largest
    to the smallest value, and U_k the columns from k_top to r − k_bottom, the authors project h U_k U_kᵀ W_i. Since the
    columns of U_k are in the span of those of W_i, this is x M with M = W_i⁺ U_k U_kᵀ W_i, so that it applies to stored
    embeddings. r is the smallest of the widths and dim.
    """
    image, text = np.asarray(image, np.float64), np.asarray(text, np.float64)
    rank = min(*image.shape, len(text))
    for name, value in (("k_top", k_top), ("k_bottom", k_bottom)):
        if not isinstance(value, int | np.integer) or value < 0:
            raise ValueError(f"{name} {value!r} is not a number of directions. Use an integer from 0.")
    if k_top + k_bottom >= rank:
        raise ValueError(
            f"k_top {k_top} and k_bottom {k_bottom} remove all {rank} directions. Use numbers whose sum is below "
            f"{rank}."
        )
    directions = np.linalg.svd(image @ text.T, full_matrices=False)[0][:, k_top : rank - k_bottom]
    inverse = np.linalg.lstsq(image, directions)[0]
    return (inverse @ (directions.T @ image)).astype(np.float32)


def _check_projections(checkpoint: CheckpointDescription) -> None:
    """Raise `ValueError` unless both towers end in a linear projection, that of the images without a bias."""
    checkpoint.check_towers()
    vision, text = checkpoint.settings.vision, checkpoint.settings.text
    if text is None:
        raise ValueError(images_only(checkpoint.name))
    if getattr(vision, "projection", None) is None:
        raise ValueError(
            f"{checkpoint.name} has no linear projection of images, which IsoCLIP needs. Use a CLIP; the towers of "
            "SigLIP end in pooling."
        )
