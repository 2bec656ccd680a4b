"""Image-text retrieval of one caption an image or of several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_BLOCK = 1024  # rows


class Retrieval(NamedTuple):
    """Recall at k in both directions, and for each text its nearest images, best first."""

    text_to_image: dict[int, float]
    image_to_text: dict[int, float]
    nearest_images: np.ndarray


def retrieval(
    image_embeddings: np.ndarray,
    text_embeddings: np.ndarray,
    image_of_text: Sequence[int] | None = None,
    *,
    at: tuple[int, ...] = (1, 5, 10),
) -> Retrieval:
    """Returns recall by cosine of images `[images, dim]` and texts `[texts, dim]`; of equal cosines others come first.

    `image_of_text` `[texts]` is the image that each text is of, by default its own number. A text finds its image; an
    image finds any of its texts.
    """
    x, t = (
        e / np.maximum(np.linalg.norm(e, axis=1, keepdims=True), 1e-12) for e in (image_embeddings, text_embeddings)
    )
    own = np.arange(len(t)) if image_of_text is None else np.asarray(image_of_text)
    text_ranks, nearest = [], []
    best = np.full(len(x), -np.inf)  # of an image, the cosine of its nearest own text
    for start in range(0, len(t), _BLOCK):
        similarity = t[start : start + _BLOCK] @ x.T
        mine = own[start : start + _BLOCK]
        match = similarity[np.arange(len(mine)), mine]
        text_ranks.append((~(similarity < match[:, None])).sum(axis=1) - 1)  # NaN counts against the match
        nearest.append(np.argsort(-similarity, axis=1, kind="stable")[:, : max(at)])
        np.maximum.at(best, mine, match)
    image_ranks = np.zeros(len(x), np.int64)  # texts of others that are as near as the nearest own
    for start in range(0, len(t), _BLOCK):
        similarity = t[start : start + _BLOCK] @ x.T
        mine = own[start : start + _BLOCK]
        before = ~(similarity < best)
        before[np.arange(len(mine)), mine] = False
        image_ranks += before.sum(axis=0)
    described = np.isin(np.arange(len(x)), own)
    return Retrieval(
        _recall(np.concatenate(text_ranks), at), _recall(image_ranks[described], at), np.concatenate(nearest)
    )


def _recall(ranks: np.ndarray, at: tuple[int, ...]) -> dict[int, float]:
    return {k: float(np.mean(ranks < k)) for k in at}
