"""Sections of a report on few-shot accuracy: a summary, accuracy by shots, and the gain of one run over another."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from adapt.report.baselines import BETTER, NOTE, baseline_curves, better_baselines, grey_cell, grey_line
from adapt.report.charts import Line, Points, line_chart, point_chart
from adapt.report.formatting import count, format_difference, format_interval, mark_best, method_label
from adapt.report.notes import zero_shot_notes
from adapt.report.results_index import ResultsIndex, TaskKey
from adapt.report.statistics import MIN_DRAWS, AccuracyInterval, Difference, mean_difference, shots_needed
from adapt.report.tables import Cell, ReportTable

_OTHER_ZERO_SHOT = (
    " zero_shot has the same queries as the other methods here, and all query images in the section Zero-shot: hence "
    "two values."
)
_BANDS = 4  # lines up to which a chart shows their intervals


class Section(NamedTuple):
    """A heading with text, tables and charts; one with a `dataset` or `method` is shown only when it is selected."""

    title: str
    text: str = ""
    tables: Sequence[ReportTable] = ()
    charts: Sequence[str] = ()
    dataset: str | None = None
    method: str | None = None
    pictures: Sequence[Mapping[str, Any]] = ()


def summary(index: ResultsIndex) -> list[Section]:
    """Return a table of datasets × methods for each run, at the most shots of each dataset."""
    sections = []
    methods = index.methods()
    for run in index.runs:
        rows, means = [], {method: [] for method in methods}
        keys = index.keys("few_shot")
        grey = {key: better_baselines(index, key, run=run.name) for key in keys}
        baselines = list(dict.fromkeys(label for curves in grey.values() for label in curves))
        for key in keys:
            shots = index.shots(key)
            if not shots:
                continue
            intervals = [index.interval(run.name, key, method=method, shots=shots[-1]) for method in methods]
            if not any(intervals):
                continue
            for method, interval in zip(methods, intervals, strict=True):
                means[method].append(math.nan if interval is None else interval.mean)
            beside = [grey[key][label].intervals.get(shots[-1]) if label in grey[key] else None for label in baselines]
            for label, interval in zip(baselines, beside, strict=True):
                means.setdefault(label, []).append(math.nan if interval is None else interval.mean)
            rows.append([Cell(key.dataset), Cell(f"{shots[-1]}"), *mark_best(intervals), *map(grey_cell, beside)])
        if len(rows) > 1:
            averages = [AccuracyInterval(float(np.mean(values))) for values in means.values()]
            known = [None if math.isnan(average.mean) else average for average in averages]
            marked = [*mark_best(known[: len(methods)]), *map(grey_cell, known[len(methods) :])]
            rows.append([Cell("average"), Cell(""), *marked])
        name = "summary" if len(index.runs) == 1 else f"summary-{run.name}"
        table = ReportTable(name, f"accuracy, %, {run.name}", ["dataset", "shots", *methods, *baselines], rows)
        text = (
            f"Mean over seeds ± half-width of the 95% confidence interval, with fewer than {MIN_DRAWS} seeds "
            "(lowest–highest). Highlighted: the best method of a row. Underlined: methods that do not differ clearly "
            "from the best."
        ) + (_OTHER_ZERO_SHOT if zero_shot_notes(index) else "")
        text += BETTER if baselines else ""
        title = "Accuracy" if len(index.runs) == 1 else f"Accuracy of {run.name}"
        sections += [Section(title, text, [table])] if rows else []
    return sections


def curves(index: ResultsIndex) -> list[Section]:
    """Return accuracy by number of shots: averaged over the datasets, then for every dataset."""
    keys = index.keys("few_shot")
    return [*(_average_curves(index, keys) if len(keys) > 1 else []), *(_dataset_curves(index, key) for key in keys)]


def _average_curves(index: ResultsIndex, keys: Sequence[TaskKey]) -> list[Section]:
    common = sorted(set.intersection(*(set(index.shots(key)) for key in keys)))
    lines = []
    for number, run in enumerate(index.runs):
        for color, method in enumerate(index.methods()):
            intervals = [[index.interval(run.name, key, method=method, shots=k) for key in keys] for k in common]
            if common and all(interval for at in intervals for interval in at):
                means = [float(np.mean([interval.mean for interval in at])) for at in intervals]
                lines.append(Line(method_label(index, run.name, method), common, means, (), color, number > 0))
    if not lines:
        return []
    lines += _average_baselines(index, keys, common)
    text = f"Mean over {len(keys)} datasets with equal weights."
    return [Section("Average accuracy by number of shots", text, charts=[_shots_chart(lines, common)])]


def _average_baselines(index: ResultsIndex, keys: Sequence[TaskKey], shots: Sequence[int]) -> list[Line]:
    """Return the means over datasets of the baselines that all of them have."""
    curves = [{curve.label: curve.intervals for curve in baseline_curves(index, key)} for key in keys]
    lines = []
    for number, label in enumerate(curves[0]):
        if all(label in each and set(shots) <= set(each[label]) for each in curves):
            means = [float(np.mean([each[label][k].mean for each in curves])) for k in shots]
            lines.append(Line(label, shots, means, grey=number))
    return lines


def _dataset_curves(index: ResultsIndex, key: TaskKey) -> Section:
    shots = index.shots(key) or [1]
    lines, labels, columns = [], [], []
    for number, run in enumerate(index.runs):
        for color, method in enumerate(index.methods()):
            intervals = {k: index.interval(run.name, key, method=method, shots=k) for k in shots}
            present = {k: interval for k, interval in intervals.items() if interval}
            if not present:
                continue
            label = method_label(index, run.name, method)
            means = [interval.mean for interval in present.values()]
            bands = [_ends(interval) for interval in present.values()]
            lines.append(Line(label, list(present), means, bands, color, number > 0))
            labels.append(label)
            columns.append(list(intervals.values()))
    marked = [mark_best(list(at)) for at in zip(*columns, strict=True)]
    cells = [[Cell(label), *(at[row] for at in marked)] for row, label in enumerate(labels)]
    beside = baseline_curves(index, key)
    cells += [[Cell(curve.label, "grey"), *(grey_cell(curve.intervals.get(k)) for k in shots)] for curve in beside]
    first = index.row_of(key)
    head = [_metric(first), *(count(k, "shot") for k in shots)]
    if len(lines) > _BANDS:
        lines = [line._replace(band=()) for line in lines]
    lines += [grey_line(curve, number) for number, curve in enumerate(beside)]
    return Section(
        f"Few-shot classification: {key.dataset}",
        f"{first['classes']} classes, {first['queries']:,} query images per seed; chance is {1 / first['classes']:.1%}."
        + _short_note(index, key)
        + (NOTE if beside else ""),
        [ReportTable(f"few_shot-{key.dataset}", f"few-shot, {key.dataset}", head, cells)],
        [_shots_chart(lines, shots)],
        dataset=key.dataset,
    )


class _Gain(NamedTuple):
    """The gain of a run over the first one on a dataset, at the most shots."""

    dataset: str
    classes: int
    shots: int
    accuracies: tuple[AccuracyInterval | None, AccuracyInterval | None]
    difference: Difference
    efficiency: str


def comparison(index: ResultsIndex) -> list[Section]:
    """Return the gain of every other run over the first, per method: by dataset, and expressed in shots."""
    return [
        section
        for other in index.runs[1:]
        for method in index.methods()
        for section in _gain_section(index, index.runs[0].name, other.name, method=method)
    ]


def _gain_section(index: ResultsIndex, first: str, other: str, *, method: str) -> list[Section]:
    gains = [gain for key in index.keys("few_shot") if (gain := _gain(index, first, other, key=key, method=method))]
    if not gains:
        return []
    rows = [
        [
            Cell(gain.dataset),
            Cell(f"{gain.classes}"),
            Cell(f"{gain.shots}"),
            *(Cell(format_interval(accuracy)) for accuracy in gain.accuracies),
            Cell(
                format_difference(gain.difference),
                "best" if gain.difference.significant and gain.difference.mean > 0 else "",
            ),
            Cell(gain.efficiency),
        ]
        for gain in gains
    ]
    charts = []
    if len(gains) > 1:
        average = format_difference(mean_difference([gain.difference.mean for gain in gains]))
        rows.append([Cell("average"), *[Cell("")] * 4, Cell(average), Cell("")])
        charts.append(_gain_chart(gains))
    text = (
        f"Accuracy of {other} minus accuracy of {first}, in percentage points, on the same support sets and queries, "
        "with 95% confidence intervals: a paired bootstrap over seeds and queries for a dataset, Student's interval "
        f"over the datasets for the average. The last column gives the shots that {first} needs for the accuracy of "
        f"{other}: “6 for 4” means 6 shots instead of 4. It refers to the largest number of shots where this can be "
        f"determined; “>” means that {first} never reaches that accuracy, “<” that {first} always exceeds it."
    )
    head = ["dataset", "classes", "shots", first, other, "gain, points", f"shots {first} needs"]
    title = f"Gain of {other} over {first}: {method}"
    table = ReportTable(f"gain-{other}-{method}", title, head, rows)
    return [Section(title, text, [table], charts, method=method)]


def _gain(index: ResultsIndex, first: str, other: str, *, key: TaskKey, method: str) -> _Gain | None:
    shots = index.shots(key)
    difference = index.difference(first, other, key=key, method=method, shots=shots[-1]) if shots else None
    if difference is None:
        return None
    return _Gain(
        key.dataset,
        index.rows(first, key, method=method, shots=shots[-1])[0]["classes"],
        shots[-1],
        tuple(index.interval(run, key, method=method, shots=shots[-1]) for run in (first, other)),
        difference,
        _efficiency(index, first, other, key=key, method=method),
    )


def _gain_chart(gains: Sequence[_Gain]) -> str:
    points = Points(
        "",
        [gain.classes for gain in gains],
        [100 * gain.difference.mean for gain in gains],
        [gain.dataset for gain in gains],
        [(100 * gain.difference.low, 100 * gain.difference.high) for gain in gains],
    )
    return point_chart([points], x_label="number of classes", y_label="gain, points", log_x=True, zero=True)


def _efficiency(index: ResultsIndex, first: str, other: str, *, key: TaskKey, method: str) -> str:
    """Return the shots that the first run needs for the accuracy of the other, at the most shots where they exist."""
    shots = index.shots(key)
    curves = [{k: index.interval(run, key, method=method, shots=k) for k in shots} for run in (first, other)]
    if method == "zero_shot" or any(interval is None for curve in curves for interval in curve.values()):
        return ""
    known, wanted = ({k: interval.mean for k, interval in curve.items()} for curve in curves)
    for k in reversed(shots):
        needed = shots_needed(known, wanted[k])
        if not math.isnan(needed):
            return f"{needed:.2g} for {k}"
    return f">{shots[-1]} for {shots[-1]}" if wanted[shots[-1]] > known[shots[-1]] else f"<{shots[0]} for {shots[-1]}"


def _ends(interval: AccuracyInterval) -> tuple[float, float]:
    return (interval.mean, interval.mean) if math.isnan(interval.low) else (interval.low, interval.high)


def _shots_chart(lines: Sequence[Line], shots: Sequence[int]) -> str:
    return line_chart(
        lines, x_label="shots (support images per class)", y_label="accuracy", x_ticks=shots, percent=True
    )


def _metric(row: Mapping[str, Any]) -> str:
    return {"accuracy": "accuracy, %", "mean_per_class_accuracy": "mean per-class accuracy, %"}[row["metric"]]


def _short_note(index: ResultsIndex, key: TaskKey) -> str:
    methods = index.methods()
    short = [
        shots
        for run in index.runs
        for shots in index.shots(key)
        if any(row.get("short") for method in methods for row in index.rows(run.name, key, method=method, shots=shots))
    ]
    if not short:
        return ""
    return f" From {count(min(short), 'shot')} on, classes with fewer support images use all that they have."
