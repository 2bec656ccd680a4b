"""Which samples have similar texts: groups of them for batches in which every sample has neighbours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_DIMENSIONS = 128
_FEATURES = 1 << 16
_TOGETHER = 4096  # points of which all cosines are computed


def group_by_texts(texts: Sequence[str], size: int, *, seed: int = 0) -> np.ndarray:
    """Returns an order of the samples `[samples]` int64 in which every `size` in turn have similar texts.

    Texts are points, their words weighted by rarity (tf-idf) and reduced by a truncated SVD, latent semantic analysis:
    Deerwester et al., Journal of the American Society for Information Science 41(6), 1990. They are halved along their
    direction of most variance, as in a principal-axis tree, while more than 4,096 are together; there each in turn
    takes the nearest that no group has yet. All groups but the last are full. Takes memory for 512 bytes of each text.
    """
    order = np.arange(len(texts), dtype=np.int64)
    if size < 2 or len(texts) <= size:
        return order
    points = lsa_embeddings(texts, seed)
    parts, found = [order], []
    while parts:
        part = parts.pop()
        if len(part) <= max(_TOGETHER, size):
            found.append(part[_nearest_together(points[part], size)])
            continue
        ranked = part[np.argsort(_along_main_axis(points[part]), kind="stable")]
        middle = len(part) // size // 2 * size
        parts += [ranked[middle:], ranked[:middle]]
    return np.concatenate(found)


def _nearest_together(points: np.ndarray, size: int) -> np.ndarray:
    """Returns an order of some points in which each first of `size` is followed by those nearest to it of the rest."""
    cosines = points @ points.T
    left = np.ones(len(points), bool)
    order = []
    for first in range(len(points)):
        if left[first]:
            left[first] = False
            free = np.flatnonzero(left)
            near = free[np.argsort(-cosines[first, free], kind="stable")[: size - 1]]
            left[near] = False
            order += [first, *near]
    return np.array(order, np.int64)


def lsa_embeddings(texts: Sequence[str], seed: int) -> np.ndarray:
    """Returns a unit vector for each text."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    words = TfidfVectorizer(sublinear_tf=True, max_features=_FEATURES, token_pattern=r"(?u)\w+", dtype=np.float32)
    counts = words.fit_transform([f"all {text}" for text in texts])  # so that there is a word
    if counts.shape[1] > _DIMENSIONS + 1:
        counts = TruncatedSVD(_DIMENSIONS, n_iter=2, random_state=seed).fit_transform(counts)
    else:
        counts = counts.toarray()
    return (counts / np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1e-12)).astype(np.float32)


def _along_main_axis(points: np.ndarray) -> np.ndarray:
    """Returns each point's place along the direction of most variance, by a few steps of the power method."""
    centred = points - points.mean(axis=0)
    axis = centred[np.argmax(np.einsum("nd,nd->n", centred, centred))]
    for _ in range(8):
        axis = (centred @ axis) @ centred
        norm = np.linalg.norm(axis)
        if norm == 0:
            break
        axis = axis / norm
    return centred @ axis
