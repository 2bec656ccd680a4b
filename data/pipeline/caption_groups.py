"""Group samples with similar captions, so that every sample of a batch has neighbours in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

_DIMENSIONS = 128
_FEATURES = 1 << 16
_LEAF_SIZE = 4096  # samples whose pairwise cosines are computed at once


def group_by_texts(texts: Sequence[str], size: int, *, seed: int = 0) -> np.ndarray:
    """Return an order of the samples, `[samples]` int64, in which each run of `size` samples has similar texts.

    Texts are embedded by latent semantic analysis (Deerwester et al., Journal of the American Society for Information
    Science 41(6), 1990): tf-idf weights reduced by a truncated SVD. Sets of more than 4,096 texts are halved along
    their direction of largest variance, as in a principal-axis tree. Within a leaf, each ungrouped text takes its
    nearest ungrouped neighbours. All groups but the last are full. Uses 512 bytes of memory per text.
    """
    order = np.arange(len(texts), dtype=np.int64)
    if size < 2 or len(texts) <= size:
        return order
    points = lsa_embeddings(texts, seed=seed)
    stack, leaves = [order], []
    while stack:
        part = stack.pop()
        if len(part) <= max(_LEAF_SIZE, size):
            leaves.append(part[_group_neighbours(points[part], size)])
            continue
        ranked = part[np.argsort(_principal_coordinate(points[part]), kind="stable")]
        middle = len(part) // size // 2 * size
        stack += [ranked[middle:], ranked[:middle]]
    return np.concatenate(leaves)


def _group_neighbours(points: np.ndarray, size: int) -> np.ndarray:
    """Return an order of points in which each group of `size` is a point followed by its nearest ungrouped ones."""
    cosines = points @ points.T
    free = np.ones(len(points), bool)
    order = []
    for first in range(len(points)):
        if free[first]:
            free[first] = False
            candidates = np.flatnonzero(free)
            nearest = candidates[np.argsort(-cosines[first, candidates], kind="stable")[: size - 1]]
            free[nearest] = False
            order += [first, *nearest]
    return np.array(order, np.int64)


def tfidf_vectors(texts: Sequence[str]) -> csr_matrix:
    """Return the tf-idf weights of the words of each text, `[texts, words]` float32, rows scaled to length 1."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    words = TfidfVectorizer(sublinear_tf=True, max_features=_FEATURES, token_pattern=r"(?u)\w+", dtype=np.float32)
    return words.fit_transform([f"all {text}" for text in texts])  # the vocabulary must not be empty


def lsa_embeddings(texts: Sequence[str], *, seed: int) -> np.ndarray:
    """Return unit vectors from latent semantic analysis, `[texts, dim]` float32 with `dim` at most 129."""
    from sklearn.decomposition import TruncatedSVD

    counts = tfidf_vectors(texts)
    if counts.shape[1] > _DIMENSIONS + 1:
        counts = TruncatedSVD(_DIMENSIONS, n_iter=2, random_state=seed).fit_transform(counts)
    else:
        counts = counts.toarray()
    return (counts / np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1e-12)).astype(np.float32)


def _principal_coordinate(points: np.ndarray) -> np.ndarray:
    """Return each point's coordinate along the direction of largest variance, from a few power iterations."""
    centred = points - points.mean(axis=0)
    axis = centred[np.argmax(np.einsum("nd,nd->n", centred, centred))]
    for _ in range(8):
        axis = (centred @ axis) @ centred
        norm = np.linalg.norm(axis)
        if norm == 0:
            break
        axis = axis / norm
    return centred @ axis
