"""Image-text retrieval with one or several captions per image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from adapt.adapters.ops import normalize_numpy
from adapt.evaluation.scoring import query_error

_BLOCK = 1024  # rows


class Recall(NamedTuple):
    """A share of queries, and its standard error that is due to the finite number of queries."""

    value: float
    query_error: float


class RetrievalRecall(NamedTuple):
    """Recall at k in both directions, and the nearest images of each text `[texts, max k]`, best first."""

    text_to_image: dict[int, Recall]
    image_to_text: dict[int, Recall]
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
    A text must find its image; an image must find any of its texts. Errors take into account that the texts of one
    image are found together more often than others, see `recall_error`.
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
    images = np.arange(len(x))[described]
    return RetrievalRecall(
        _recall(np.concatenate(text_ranks), at, clusters=matches),
        _recall(image_ranks[described], at, clusters=images),
        np.concatenate(nearest),
    )


def recall_error(found: np.ndarray, clusters: np.ndarray) -> float:
    """Return the standard error of the mean of `found` `[queries]`, each 0 or 1, due to the finite number of queries.

    `clusters` `[queries]` numbers the image that each query belongs to. The error is that of clusters,
    √(Σ_c (Σ_{i in c} (s_i − s̄))²) / n (Miller, Adding Error Bars to Evals, arXiv 2411.00640, §2.2), but at least that
    of independent queries (`adapt.evaluation.scoring.query_error`), which is not zero where all queries succeed.
    """
    count = len(found)
    independent = query_error(right=np.array([np.sum(found)]), asked=np.array([count]), by_class=False)
    of_clusters = np.bincount(clusters, found - np.mean(found))
    return max(independent, float(np.sqrt((of_clusters**2).sum()) / count))


def _recall(ranks: np.ndarray, at: tuple[int, ...], *, clusters: np.ndarray) -> dict[int, Recall]:
    return {k: Recall(float(np.mean(ranks < k)), recall_error(ranks < k, clusters)) for k in at}
