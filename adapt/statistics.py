"""How sure a number is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple


class Interval(NamedTuple):
    """A mean and the half-width of its 95 % confidence interval; NaN where one value gives none."""

    mean: float
    half_width: float


def mean_interval(values: Sequence[float]) -> Interval:
    """Returns the mean of independent draws with Student's t interval at 95 %."""
    from scipy import stats

    count = len(values)
    if not count:
        raise ValueError("no values to average")
    mean = math.fsum(values) / count
    if count == 1:
        return Interval(mean, math.nan)
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    return Interval(mean, float(stats.t.ppf(0.975, count - 1)) * math.sqrt(variance / count))
