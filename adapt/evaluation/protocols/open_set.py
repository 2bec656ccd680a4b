"""Scores of the task "open_set": separate queries of known from those of unknown classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from adapt.adapters.ops import normalize_numpy
from adapt.evaluation.protocols.auroc import auroc
from adapt.photos.outliers import far_threshold, find_nearest

KNOWN, UNKNOWN = "known", "unknown"  # query sets
FAR, PROBABILITY, LOGIT = "far flag", "max probability", "max logit"  # scores


class FarScores(NamedTuple):
    """The cosine of each query to its nearest support image `[queries]`, and the threshold of the far flag.

    `adapt` flags the queries below the threshold (`adapt.photos.outliers`).
    """

    cosines: np.ndarray
    threshold: float


def far_scores(support: np.ndarray, queries: np.ndarray) -> FarScores | None:
    """Return the scores of the far flag for features `[n, dim]` and `[queries, dim]`; None without support images."""
    if not len(support):
        return None
    support, queries = normalize_numpy(support), normalize_numpy(queries)
    return FarScores(find_nearest(queries, support).cosines, far_threshold(support))


def detection_rows(
    scores: Mapping[str, np.ndarray], *, known: np.ndarray, unknown: np.ndarray, far: FarScores | None
) -> list[dict[str, Any]]:
    """Return the fields of a row for each score: the AUROC of known (`known`, a mask) against unknown queries.

    A high score means a known class. The row of the far flag also has the shares of both that are flagged. Raises
    `ValueError` where no query of either kind is left.
    """
    if not known.any() or not unknown.any():
        raise ValueError(
            "no query of a known or of an unknown class is left, because the support sets contain all images. Lower "
            "evaluate.shots, or give the dataset a query split."
        )
    found = dict(scores) if far is None else {FAR: far.cosines} | dict(scores)
    rows = []
    for name, values in found.items():
        area = auroc(values[known], values[unknown])
        row = {"question": name, "metric": "auroc", "value": area.value, "query_error": area.standard_error}
        rows.append(row | {"queries": int(known.sum() + unknown.sum())})
        if name == FAR:
            flagged = far.cosines < far.threshold
            rows[-1] |= {
                "flagged_known": float(flagged[known].mean()),
                "flagged_unknown": float(flagged[unknown].mean()),
            }
    return rows
