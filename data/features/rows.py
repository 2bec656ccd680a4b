"""Rows of stored features in memory, with class numbers and ids."""

from __future__ import annotations

import dataclasses
import logging

import numpy as np

from data.features.open import Features, describe

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureRows:
    """Rows of a part of a data set: `features` `[n, dim]` float32 as stored, and `labels` `[n]`, class numbers.

    `ids` are those of the files, or else (`numbered`) the numbers of the rows in the file. `labels` are empty for query
    rows that are opened without labels.
    """

    features: np.ndarray
    labels: np.ndarray
    ids: tuple[str, ...]
    numbered: bool

    def __len__(self) -> int:
        return len(self.features)

    def take(self, rows: np.ndarray, labels: np.ndarray) -> FeatureRows:
        """Return some of the rows with new labels."""
        ids = tuple(self.ids[row] for row in rows)
        return FeatureRows(features=self.features[rows], labels=labels, ids=ids, numbered=self.numbered)


def read_rows(where: str, features: Features) -> FeatureRows:
    """Return all rows; log what they are, and raise `ValueError` for rows without a direction."""
    statistics = features.measure()
    content = features.gather(np.arange(len(features)))
    if not statistics.shortest or not np.linalg.norm(content, axis=1).all():
        row = int(np.flatnonzero(np.linalg.norm(content, axis=1) == 0)[0])
        raise ValueError(f"{features.name_of(row)} has length 0. Compute the features again, or leave the row out.")
    if not np.isfinite(content).all():
        row = int(np.flatnonzero(~np.isfinite(content).all(axis=1))[0])
        raise ValueError(f"{features.name_of(row)} has a value that is too large for float32. Scale the features.")
    scaled = "" if statistics.unit_length else "; rows are scaled to length 1"
    logger.info(describe(features, statistics, kind=where) + scaled)
    ids = features.ids if features.ids is not None else tuple(map(str, range(len(features))))
    return FeatureRows(features=content, labels=np.zeros(0, np.int64), ids=ids, numbered=features.ids is None)
