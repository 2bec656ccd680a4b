"""Numbers and labels as the report shows them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from adapt.report.results_index import ResultsIndex
from adapt.report.statistics import AccuracyInterval, Difference
from adapt.report.tables import Cell


def format_interval(interval: AccuracyInterval | None) -> str:
    """Return an accuracy in percent with its interval, `61.3 ± 1.2`, or the range of few draws, `61.3 (60.2–62.5)`."""
    if interval is None:
        return "–"
    mean, low, high = (f"{100 * value:.1f}" for value in (interval.mean, interval.low, interval.high))
    if math.isnan(interval.low):
        return mean
    return f"{mean} ({low}–{high})" if interval.is_range else f"{mean} ± {100 * (interval.high - interval.mean):.1f}"


def format_difference(difference: Difference) -> str:
    """Return a difference in percentage points with its interval, for example `+1.5 [+0.4, +2.6]`."""
    ends = "" if math.isnan(difference.low) else f" {format_ends(difference)}"
    return f"{100 * difference.mean:+.1f}".replace("-", "−") + ends


def format_ends(difference: Difference) -> str:
    """Return the interval of a difference in percentage points, for example `[+0.4, +2.6]`."""
    return f"[{100 * difference.low:+.1f}, {100 * difference.high:+.1f}]".replace("-", "−")


def mark_best(intervals: Sequence[AccuracyInterval | None]) -> list[Cell]:
    """Return cells with the best mean marked "best", and "near" those that do not differ clearly from it."""
    present = [interval for interval in intervals if interval is not None]
    if not present:
        return [Cell("–") for _ in intervals]
    best = max(present, key=lambda interval: interval.mean)

    def mark(interval: AccuracyInterval | None) -> str:
        if interval is None or interval.mean < best.near:
            return ""
        return "best" if interval.mean == best.mean else "near"

    return [Cell(format_interval(interval), mark(interval)) for interval in intervals]


def method_label(index: ResultsIndex, run: str, method: str) -> str:
    """Return the name of a method, followed by its run if the report has several."""
    return f"{method}, {run}" if len(index.runs) > 1 else method


def run_suffix(index: ResultsIndex, run: str) -> str:
    """Return the run in parentheses if the report has several, else an empty string."""
    return f" ({run})" if len(index.runs) > 1 else ""


def count(number: int, noun: str) -> str:
    """Return a number with its noun, for example `1 shot` and `4 shots`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
