"""Image-text retrieval of one caption an image."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Retrieval(NamedTuple):
    """Recall at k in both directions, and for each text its nearest images, best first."""

    text_to_image: dict[int, float]
    image_to_text: dict[int, float]
    nearest_images: np.ndarray


def retrieval(
    image_embeddings: np.ndarray, text_embeddings: np.ndarray, *, at: tuple[int, ...] = (1, 5, 10)
) -> Retrieval:
    """Returns recall of matching rows `[n, dim]` by cosine; of equal cosines the match counts last."""
    x, t = (
        e / np.maximum(np.linalg.norm(e, axis=1, keepdims=True), 1e-12) for e in (image_embeddings, text_embeddings)
    )
    similarity = t @ x.T
    return Retrieval(
        _recall(similarity, at),
        _recall(similarity.T, at),
        np.argsort(-similarity, axis=1, kind="stable")[:, : max(at)],
    )


def _recall(similarity: np.ndarray, at: tuple[int, ...]) -> dict[int, float]:
    others = ~(similarity < np.diagonal(similarity)[:, None])  # NaN counts against the match
    rank = others.sum(axis=1) - 1
    return {k: float(np.mean(rank < k)) for k in at}
