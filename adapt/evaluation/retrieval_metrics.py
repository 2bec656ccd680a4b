"""Image-text retrieval with one or several captions per image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from adapt.adapters.ops import normalize_numpy

_BLOCK = 1024  # rows


class RetrievalRecall(NamedTuple):
    """Recall at k in both directions, and the nearest images of each text `[texts, max k]`, best first."""

    text_to_image: dict[int, float]
    image_to_text: dict[int, float]
    nearest_images: np.ndarray


def retrieval_recall(
    image_embeddings: np.ndarray,
    text_embeddings: np.ndarray,
    *,
    image_of_text: Sequence[int] | None = None,
    at: tuple[int, ...] = (1, 5, 10),
) -> RetrievalRecall:
    """Return recall by cosine of images `[images, dim]` and texts `[texts, dim]`; ties count against the match.

    `image_of_text` `[texts]` is the number of the image that each text describes, by default the text's own number.
    A text must find its image; an image must find any of its texts.
    """
    x, t = normalize_numpy(image_embeddings), normalize_numpy(text_embeddings)
    matches = np.arange(len(t)) if image_of_text is None else np.asarray(image_of_text)
    text_ranks, nearest = [], []
    best = np.full(len(x), -np.inf)  # per image, the cosine of its nearest matching text
    for start in range(0, len(t), _BLOCK):
        similarity = t[start : start + _BLOCK] @ x.T
        image = matches[start : start + _BLOCK]
        match = similarity[np.arange(len(image)), image]
        text_ranks.append((~(similarity < match[:, None])).sum(axis=1) - 1)  # NaN counts against the match
        nearest.append(np.argsort(-similarity, axis=1, kind="stable")[:, : max(at)])
        np.maximum.at(best, image, match)
    image_ranks = np.zeros(len(x), np.int64)  # number of other texts that are as near as the nearest match
    for start in range(0, len(t), _BLOCK):
        similarity = t[start : start + _BLOCK] @ x.T
        image = matches[start : start + _BLOCK]
        before = ~(similarity < best)
        before[np.arange(len(image)), image] = False
        image_ranks += before.sum(axis=0)
    described = np.isin(np.arange(len(x)), matches)
    return RetrievalRecall(
        _recall(np.concatenate(text_ranks), at), _recall(image_ranks[described], at), np.concatenate(nearest)
    )


def _recall(ranks: np.ndarray, at: tuple[int, ...]) -> dict[int, float]:
    return {k: float(np.mean(ranks < k)) for k in at}
