"""The area under the ROC curve, with its standard error."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Auroc(NamedTuple):
    """The area under the ROC curve, and the standard error due to the finite number of queries."""

    value: float
    standard_error: float


def auroc(positive: np.ndarray, negative: np.ndarray) -> Auroc:
    """Return the probability that a score of `positive` `[n]` exceeds one of `negative` `[m]`; a tie counts one half.

    It is computed from mid-ranks in float64. The standard error is that of DeLong, DeLong and Clarke-Pearson
    (Biometrics 44, 1988): the variance of the placements of the positive scores / n plus that of the negative ones / m;
    NaN for a single score of either. Raises `ValueError` without scores, and for scores that are NaN.
    """
    from scipy.stats import rankdata  # a second that most evaluations do not need

    positive, negative = (np.asarray(scores, np.float64) for scores in (positive, negative))
    n, m = len(positive), len(negative)
    if not n or not m:
        raise ValueError(f"the area under the ROC curve needs scores of both kinds, and there are {n} and {m}.")
    if np.isnan(positive).any() or np.isnan(negative).any():
        raise ValueError("a score is NaN, so the area under the ROC curve is not defined.")
    ranks = rankdata(np.concatenate([positive, negative]))
    above = (ranks[:n] - rankdata(positive)) / m  # share of negative scores below each positive one
    below = 1 - (ranks[n:] - rankdata(negative)) / n  # share of positive scores above each negative one
    variance = above.var(ddof=1) / n + below.var(ddof=1) / m if n > 1 and m > 1 else np.nan
    return Auroc(float(above.mean()), float(np.sqrt(variance)))
