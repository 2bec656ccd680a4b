"""The accuracy of raw pixels and untrained towers in a report: grey lines and rows, and a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from adapt.evaluation.baselines.evaluate import TASK
from adapt.report.charts import Line
from adapt.report.formatting import count, format_interval, run_suffix
from adapt.report.results_index import ResultsIndex, TaskKey
from adapt.report.statistics import AccuracyInterval
from adapt.report.tables import Cell

BETTER = (
    " Grey: the better of class means and nearest neighbours on raw pixels (16 × 16, RGB) and on the image tower with "
    "random weights, with the same support sets and queries."
)
NOTE = (
    " Grey: class means and nearest neighbours on raw pixels (16 × 16, RGB) and on the image tower with random "
    "weights, with the same support sets and queries."
)


class BaselineCurve(NamedTuple):
    """The accuracy of a baseline on a dataset by the number of shots."""

    label: str
    intervals: Mapping[int, AccuracyInterval]


def baseline_curves(index: ResultsIndex, key: TaskKey, *, run: str | None = None) -> list[BaselineCurve]:
    """Return the baselines of a few-shot dataset, for one `run` or for all of them.

    A baseline that is the same for several runs, such as raw pixels, is returned once.
    """
    key, found = key._replace(task=TASK), []
    shots = index.shots(key)
    for name in [run] if run else [each.name for each in index.runs]:
        for method in index.methods(TASK):
            intervals = {k: index.interval(name, key, method=method, shots=k) for k in shots}
            present = {k: interval for k, interval in intervals.items() if interval is not None}
            if not present or any(present == curve.intervals for curve in found):
                continue
            suffix = "" if run or method.startswith("raw_pixels") else run_suffix(index, name)
            found.append(BaselineCurve(method.replace("_", " ") + suffix, present))
    return found


def better_baselines(index: ResultsIndex, key: TaskKey, *, run: str) -> dict[str, BaselineCurve]:
    """Return for raw pixels and for untrained towers the classifier that is better at the most shots."""
    better: dict[str, BaselineCurve] = {}
    for curve in sorted(
        baseline_curves(index, key, run=run), key=lambda curve: curve.intervals[max(curve.intervals)].mean
    ):
        better[curve.label.partition(":")[0]] = curve
    return dict(sorted(better.items()))


def grey_line(curve: BaselineCurve, number: int) -> Line:
    """Return a baseline as a line of a chart; `number` chooses its dashes."""
    return Line(curve.label, list(curve.intervals), [each.mean for each in curve.intervals.values()], grey=number)


def grey_cell(interval: AccuracyInterval | None) -> Cell:
    """Return the accuracy of a baseline as a cell of a table."""
    return Cell(format_interval(interval), "grey")


def missing_sentences(index: ResultsIndex) -> list[str]:
    """Return a sentence on runs of stored features, which have no baselines."""
    names = [run.name for run in index.runs if any(row.get("stored_features") for row in run.results)]
    if not names:
        return []
    return [
        f"{' and '.join(names)}: without baselines, because stored features have no pictures. Evaluate a "
        "checkpoint on the images to see how far raw pixels get."
    ]


def baseline_sentences(index: ResultsIndex, *, datasets: int) -> list[str]:
    """Return a sentence for each of the first datasets: the best that needs no pretraining, at the most shots."""
    sentences = []
    for key in index.keys("few_shot")[:datasets]:
        curves = baseline_curves(index, key)
        if not curves:
            continue
        shots = max(k for curve in curves for k in curve.intervals)
        at_most = {curve.label: curve.intervals[shots] for curve in curves if shots in curve.intervals}
        best = max(at_most, key=lambda label: at_most[label].mean)
        features, _, classifier = best.partition(": ")
        sentences.append(
            f"{key.dataset}: without pretraining, the best is {features} ({classifier}), with "
            f"{format_interval(at_most[best])} % at {count(shots, 'shot')}."
        )
    return sentences
