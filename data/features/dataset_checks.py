"""Checks of a data set of stored features: one encoder, copies among rows, and texts that do not fit."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np

from data.features.identical_rows import find_identical_rows
from data.features.open import Features
from data.features.rows import FeatureRows

logger = logging.getLogger(__name__)

_ENOUGH = 20  # rows that suffice to distinguish an accuracy from chance
_BLOCK = 4096  # rows that are compared with the texts at a time


def check_encoders(
    name: str,
    opened: Mapping[str, Features],
    rows: Mapping[str, FeatureRows],
    opened_texts: Features | None,
    texts: FeatureRows | None,
) -> None:
    """Raise `ValueError` for parts of different encoders, as far as dimensions and descriptions show."""
    dims = {part: own.features.shape[1] for part, own in rows.items()}
    dims |= {} if texts is None else {"texts": texts.features.shape[1]}
    if len(set(dims.values())) > 1:
        found = ", ".join(f"{part} {dim}" for part, dim in dims.items())
        raise ValueError(f"{name} has features of different dimensions ({found}). Use features of one encoder.")
    described = {part: own.encoder for part, own in opened.items() if own.encoder}
    images = {encoder.get("fingerprint") for encoder in described.values()}
    weights = {encoder.get("weights") for encoder in described.values()} - {None}
    if opened_texts is not None and opened_texts.encoder.get("weights"):
        weights.add(opened_texts.encoder["weights"])
    if len(images) > 1 or len(weights) > 1:
        raise ValueError(
            f"{name}: the descriptions of its features name different encoders. Use features of one encoder."
        )


def warn_identical(name: str, support: FeatureRows | None, query: FeatureRows | None) -> None:
    """Log how many query rows, or rows of one pool, are equal to a support row."""
    if support is None:
        return
    own = np.arange(len(support)) if query is None else None
    query = support if query is None else query
    found = find_identical_rows(support.features, query.features, own_rows=own)
    copies = np.flatnonzero(found >= 0)
    if len(copies):
        logger.warning(
            f"{name}: {len(copies):,} of {len(query):,} query rows are identical to a support row, the first "
            f"is query row {query.ids[copies[0]]}, identical to support row {support.ids[found[copies[0]]]}."
            + (" They are counted as queries, which makes accuracies too high." if len(query.labels) else "")
        )


def warn_labels(where: str, labels: np.ndarray, ids: Sequence[str] | None) -> None:
    """Log if labels `[rows]` are mixed over the folders in the ids, as many as there are classes."""
    folders = [each.rpartition("/")[0] for each in ids or ()]
    pairs = set(zip(labels.tolist(), folders, strict=False))
    if len(set(folders)) == len(set(labels.tolist())) > 1 and len(pairs) > len(set(folders)):
        logger.warning(
            f"{where}: the labels do not follow the {len(set(folders)):,} folders in the ids of the rows. Are they in "
            "the order of the rows?"
        )


def warn_texts(name: str, rows: FeatureRows, texts: np.ndarray) -> None:
    """Log if texts `[classes, dim]` do not classify labelled rows better than chance by two standard errors."""
    texts = texts / np.linalg.norm(texts, axis=1, keepdims=True)
    right = 0
    for start in range(0, len(rows), _BLOCK):
        block = slice(start, start + _BLOCK)
        right += int((np.argmax(rows.features[block] @ texts.T, axis=1) == rows.labels[block]).sum())
    count, chance = len(rows), 1 / len(texts)
    if count >= _ENOUGH and right <= count * chance + 2 * np.sqrt(count * chance * (1 - chance)):
        logger.warning(
            f"{name}: the text features classify {right / count:.1%} of {count:,} rows correctly, not clearly "
            f"better than chance ({chance:.1%}). Are they by the same encoder, and in the order of the classes?"
        )
