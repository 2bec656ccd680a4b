"""Confidence intervals, and differences expressed in shots."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

RESAMPLES = 2000
_BLOCK = 100  # resamples at a time


class Interval(NamedTuple):
    """A mean and the half-width of its 95% confidence interval; NaN for a single value."""

    mean: float
    half_width: float


class Difference(NamedTuple):
    """A mean difference and the ends of its 95% confidence interval."""

    mean: float
    low: float
    high: float

    @property
    def significant(self) -> bool:
        """True if the interval excludes zero."""
        return self.low > 0 or self.high < 0


def mean_interval(values: Sequence[float]) -> Interval:
    """Return the mean of independent draws with Student's t interval at 95%."""
    from scipy import stats

    count = len(values)
    if not count:
        raise ValueError("no values to average")
    mean = math.fsum(values) / count
    if count == 1:
        return Interval(mean, math.nan)
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    return Interval(mean, float(stats.t.ppf(0.975, count - 1)) * math.sqrt(variance / count))


def paired_bootstrap(
    first: np.ndarray, second: np.ndarray, *, weights: np.ndarray | None = None, resamples: int = RESAMPLES
) -> Difference:
    """Return how much more often `second` is right than `first`, both `[draws, queries]` on the same draws and queries.

    Draws and queries are resampled, each query with all its draws, and the interval is that of the percentiles: Efron
    and Tibshirani, An Introduction to the Bootstrap, §13.3. `weights` `[draws, queries]` are the weights of the
    predictions, 0 for a query that does not count.
    """
    difference = np.asarray(second, np.float64) - np.asarray(first, np.float64)
    weights = np.ones(difference.shape) if weights is None else np.asarray(weights, np.float64)
    draws, queries = difference.shape
    rng = np.random.default_rng(0)
    means = []
    for start in range(0, resamples, _BLOCK):
        count = min(_BLOCK, resamples - start)
        of_query = rng.multinomial(queries, np.full(queries, 1 / queries), size=count).astype(np.float64)
        of_draw = rng.multinomial(draws, np.full(draws, 1 / draws), size=count).astype(np.float64)
        gained = np.einsum("rd,rd->r", of_query @ (difference * weights).T, of_draw)
        means.append(gained / np.maximum(np.einsum("rd,rd->r", of_query @ weights.T, of_draw), 1e-300))
    low, high = np.quantile(np.concatenate(means), (0.025, 0.975))
    return Difference(float((difference * weights).sum() / weights.sum()), float(low), float(high))


def mean_difference(differences: Sequence[float]) -> Difference:
    """Return the mean over datasets with Student's interval over them; the ends are NaN for one dataset.

    Every dataset has the same weight, and their variation counts as chance: with few datasets the interval is wide.
    """
    mean, half_width = mean_interval(differences)
    return Difference(mean, mean - half_width, mean + half_width)


def shots_needed(accuracy: Mapping[int, float], wanted: float) -> float:
    """Return the shots at which a curve of accuracy by shots first reaches `wanted`, linear in log2 of the shots.

    NaN where the curve never reaches it or starts above it.
    """
    shots = sorted(accuracy)
    if not shots or accuracy[shots[0]] > wanted:
        return math.nan
    for low, high in itertools.pairwise(shots):
        a, b = accuracy[low], accuracy[high]
        if a <= wanted <= b:
            fraction = 0.0 if b == a else (wanted - a) / (b - a)
            return 2 ** (math.log2(low) + fraction * (math.log2(high) - math.log2(low)))
    return math.nan
