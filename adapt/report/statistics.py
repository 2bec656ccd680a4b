"""Confidence intervals, and differences expressed in shots."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

RESAMPLES = 2000
MIN_DRAWS = 4  # for an interval; fewer draws are shown with their range
_NORMAL = 1.959964  # quantile of the normal distribution at 97.5%
_BLOCK = 100  # resamples at a time


class Interval(NamedTuple):
    """A mean and the half-width of its 95% confidence interval; NaN for a single value."""

    mean: float
    half_width: float


class AccuracyInterval(NamedTuple):
    """A mean accuracy over draws with the ends of its 95% confidence interval, or of the range of few draws.

    The ends are NaN for a single draw. `query_error` is the standard error due to the finite query set.
    """

    mean: float
    low: float = math.nan
    high: float = math.nan
    is_range: bool = False
    query_error: float = 0.0

    @property
    def near(self) -> float:
        """The lowest mean that does not differ clearly from this one."""
        return min(self.mean if math.isnan(self.low) else self.low, self.mean - _NORMAL * self.query_error)


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
    from scipy.special import stdtrit

    count, mean = len(values), _mean(values)
    if count == 1:
        return Interval(mean, math.nan)
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    return Interval(mean, float(stdtrit(count - 1, 0.975)) * math.sqrt(variance / count))


def accuracy_interval(
    values: Sequence[float], query_errors: Sequence[float], *, queries: int, drawn: bool = True
) -> AccuracyInterval:
    """Return the mean accuracy with its interval at 95%, which includes the error of a finite query set.

    `values` are the accuracies of draws of the support set on the same `queries` queries, `query_errors` their standard
    errors due to the queries, see `adapt.evaluation.scoring.query_error`. `drawn=False` is for a classifier without a
    draw, such as zero-shot, whose interval has the query error alone.

    The interval is mean ± t(ν) √(s²/n + e²): s² is the variance between n draws, e² the mean of the squared query
    errors, by the law of total variance (Miller, Adding Error Bars to Evals, arXiv 2411.00640, §3), and ν are the
    degrees of freedom of Welch and Satterthwaite (Satterthwaite, Biometrics Bulletin 2, 1946):
    ν = (s²/n + e²)² / ((s²/n)²/(n − 1) + e⁴/(queries − 1)). As all draws share the queries, e² is not divided by n. Two
    or three draws give no useful s²: the ends are the smallest and the largest value instead.
    """
    from scipy.special import stdtrit

    count, mean = len(values), _mean(values)
    error = math.sqrt(_mean([each**2 for each in query_errors]))
    if not drawn:
        return AccuracyInterval(mean, mean - _NORMAL * error, mean + _NORMAL * error, False, error)
    if count < MIN_DRAWS:
        ends = (min(values), max(values)) if count > 1 else (math.nan, math.nan)
        return AccuracyInterval(mean, *ends, count > 1, error)
    between = math.fsum((value - mean) ** 2 for value in values) / (count - 1) / count
    total = between + error**2
    if not total:
        return AccuracyInterval(mean, mean, mean, False, error)
    freedom = total**2 / (between**2 / (count - 1) + error**4 / max(queries - 1, 1))
    half_width = float(stdtrit(freedom, 0.975)) * math.sqrt(total)
    return AccuracyInterval(mean, mean - half_width, mean + half_width, False, error)


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


def _mean(values: Sequence[float]) -> float:
    if not values:
        raise ValueError("no values to average")
    return math.fsum(values) / len(values)
