"""Sections of a report on few-shot accuracy: a summary, and accuracy by the number of shots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from adapt.report.baselines import BETTER, NOTE, baseline_curves, better_baselines, grey_cell
from adapt.report.figures.chart import Chart, LegendEntry, grey_look
from adapt.report.figures.panels import Curve
from adapt.report.formatting import count, mark_best
from adapt.report.notes import query_notes, zero_shot_notes
from adapt.report.results_index import ResultsIndex, TaskKey
from adapt.report.sections.section import Section, accuracy_curve, method_chart
from adapt.report.statistics import MIN_DRAWS, AccuracyInterval
from adapt.report.tables import Cell, ReportTable

_OTHER_ZERO_SHOT = (
    " zero_shot has the same queries as the other methods here, and all query images in the section Zero-shot: hence "
    "two values."
)
_PANELS = 6  # methods of a chart; its table has all


def summary(index: ResultsIndex) -> list[Section]:
    """Return a table of datasets and runs × methods, at the most shots of each dataset."""
    methods, keys = index.methods(), [key for key in index.keys("few_shot") if index.shots(key)]
    several = len(index.runs) > 1
    better = {
        (key, run.name): {label.partition(":")[0]: curve for label, curve in found.items()}
        for key in keys
        for run in index.runs
        for found in [better_baselines(index, key, run=run.name)]
    }
    baselines = list(dict.fromkeys(label for found in better.values() for label in found))
    rows, totals = [], []
    for key in keys:
        shots = index.shots(key)[-1]
        for run in index.runs:
            intervals = [index.interval(run.name, key, method=method, shots=shots) for method in methods]
            if not any(intervals):
                continue
            curves = [better[key, run.name].get(label) for label in baselines]
            grey = [grey_cell(curve.intervals.get(shots) if curve else None) for curve in curves]
            label = [Cell(key.dataset), *([Cell(run.name)] if several else [])]
            rows.append([*label, Cell(f"{shots}"), *mark_best(intervals), *grey])
    for run in index.runs if len(keys) > 1 else ():
        averages = [index.average(run.name, keys, method=method) for method in methods]
        if any(averages):
            grey = [grey_cell(_mean_of([better[key, run.name].get(label) for key in keys])) for label in baselines]
            label = [Cell("average"), *([Cell(run.name)] if several else [])]
            totals.append([*label, Cell(""), *mark_best(averages), *grey])
    if not rows:
        return []
    labels = ["dataset", *(["run"] if several else [])]
    columns = [*labels, "shots", *methods, *baselines]
    text = (
        f"Mean over seeds ± half-width of the 95% confidence interval, with fewer than {MIN_DRAWS} seeds "
        "(lowest–highest). Highlighted: the best method of a row. Underlined: methods that do not differ clearly "
        "from the best."
    ) + (_OTHER_ZERO_SHOT if zero_shot_notes(index) else "")
    text += BETTER if baselines else ""
    table = ReportTable(
        f"summary{index.file_suffix}",
        f"accuracy at the most shots{index.suffix}, %",
        columns,
        [*rows, *totals],
        labels=len(labels),
        totals=len(totals),
    )
    return [Section(f"Accuracy{index.suffix}", _together(index) + text, [table])]


def _together(index: ResultsIndex) -> str:
    """Return sentences on transductive methods, if the index has these."""
    if not index.suffix:
        return ""
    return (
        "These methods classify all queries of a task together, without their labels. They are compared among "
        "themselves only. "
    )


def _mean_of(curves: Sequence[Any]) -> AccuracyInterval | None:
    """Return the mean over datasets of a baseline at the most shots, None unless every dataset has it."""
    if not all(curves):
        return None
    means = [curve.intervals[max(curve.intervals)].mean for curve in curves]
    return AccuracyInterval(sum(means) / len(means))


def curves(index: ResultsIndex) -> list[Section]:
    """Return accuracy by number of shots: averaged over the datasets, then for every dataset."""
    keys = index.keys("few_shot")
    return [*(_average_curves(index, keys) if len(keys) > 1 else []), *(_dataset_curves(index, key) for key in keys)]


def _average_curves(index: ResultsIndex, keys: Sequence[TaskKey]) -> list[Section]:
    common = sorted(set.intersection(*(set(index.shots(key)) for key in keys)))
    panels: dict[str, list[Curve]] = {}
    for number, run in enumerate(index.runs):
        for method in index.methods():
            found = {k: index.average(run.name, keys, method=method, shots=k) for k in common}
            if found and all(found.values()):
                panels.setdefault(method, []).append(accuracy_curve(run.name, number, intervals=found, x_name="shots"))
    if not panels:
        return []
    shown = _best_panels(panels)
    backdrop, legend = _backdrop(_average_baselines(index, keys, common))
    title = f"Average accuracy by number of shots{index.suffix}"
    text = f"Mean over {len(keys)} datasets with equal weights." + _explain(index, panels, shown, band="means")
    text += BETTER if backdrop else ""
    chart = _shots_chart(
        f"average{index.file_suffix}", title, shown, index=index, shots=common, backdrop=backdrop, legend=legend
    )
    return [Section(title, text, charts=[chart])]


def _average_baselines(
    index: ResultsIndex, keys: Sequence[TaskKey], shots: Sequence[int]
) -> dict[str, dict[int, AccuracyInterval]]:
    """Return for the first run the means over datasets of the better baselines that all of them have."""
    curves = [
        {label.partition(":")[0]: curve.intervals for label, curve in found.items()}
        for found in (better_baselines(index, key, run=index.runs[0].name) for key in keys)
    ]
    return {
        label: {k: AccuracyInterval(sum(each[label][k].mean for each in curves) / len(curves)) for k in shots}
        for label in curves[0]
        if all(label in each and set(shots) <= set(each[label]) for each in curves)
    }


def _dataset_curves(index: ResultsIndex, key: TaskKey) -> Section:
    shots = index.shots(key) or [1]
    panels: dict[str, list[Curve]] = {}
    labels, columns = [], []
    for method in index.methods():
        for number, run in enumerate(index.runs):
            intervals = {k: index.interval(run.name, key, method=method, shots=k) for k in shots}
            present = {k: interval for k, interval in intervals.items() if interval}
            if not present:
                continue
            panels.setdefault(method, []).append(accuracy_curve(run.name, number, intervals=present, x_name="shots"))
            labels.append((method, run.name))
            columns.append(list(intervals.values()))
    several = len(index.runs) > 1
    marked = [mark_best(list(at)) for at in zip(*columns, strict=True)]
    cells = [
        [*map(Cell, label if several else label[:1]), *(at[row] for at in marked)] for row, label in enumerate(labels)
    ]
    grey = baseline_curves(index, key)
    cells += [
        [
            Cell(curve.label, "grey"),
            *([Cell("")] if several else []),
            *(grey_cell(curve.intervals.get(k)) for k in shots),
        ]
        for curve in grey
    ]
    first = index.row_of(key)
    head = ["method", *(["run"] if several else []), *(count(k, "shot") for k in shots)]
    shown = _best_panels(panels)
    title = f"Few-shot classification: {key.dataset}{index.suffix}"
    better = better_baselines(index, key, run=index.runs[0].name)
    backdrop, legend = _backdrop({label: curve.intervals for label, curve in better.items()})
    name = f"few_shot-{key.dataset}{index.file_suffix}"
    return Section(
        title,
        f"{first['classes']} classes, {first['queries']:,} query images per seed; chance is {1 / first['classes']:.1%}."
        + "".join(f" {note}" for note in query_notes(index, key))
        + _short_note(index, key)
        + _explain(index, panels, shown)
        + (NOTE + f" The chart has the better ones of {index.runs[0].name}." if grey else ""),
        [
            ReportTable(
                name, f"{_metric(first)} on {key.dataset}{index.suffix}, %", head, cells, labels=2 if several else 1
            )
        ],
        [_shots_chart(name, title, shown, index=index, shots=shots, backdrop=backdrop, legend=legend)],
        dataset=key.dataset,
    )


def _best_panels(panels: Mapping[str, list[Curve]]) -> dict[str, list[Curve]]:
    """Return the methods of a chart in their order: those with the highest accuracy that any run reaches."""
    best = sorted(panels, key=lambda method: -max(curve.y[-1] for curve in panels[method]))[:_PANELS]
    return {method: curves for method, curves in panels.items() if method in best}


def _explain(
    index: ResultsIndex, panels: Mapping[str, Any], shown: Mapping[str, Any], *, band: str = "means in the table"
) -> str:
    """Return sentences on how to read a chart."""
    text = f" Bands are the intervals of the {band}."
    if len(shown) < len(panels):
        text += f" The chart has the {len(shown)} best of {len(panels)} methods."
    if len(index.runs) == 1 and len(shown) > 1:
        text += " Thin lines: the methods of the other panels."
    return text


def _backdrop(baselines: Mapping[str, Mapping[int, AccuracyInterval]]) -> tuple[list[Curve], list[LegendEntry]]:
    """Return baselines as grey curves, with their entries in the legend."""
    curves, legend = [], []
    for number, (label, intervals) in enumerate(baselines.items()):
        means = [100 * each.mean for each in intervals.values()]
        texts = [f"{label}, {count(k, 'shot')}: {y:.1f} %" for k, y in zip(intervals, means, strict=True)]
        curves.append(Curve(list(intervals), means, grey_look(number), texts))
        legend.append(LegendEntry(label, grey_look(number)))
    return curves, legend


def _shots_chart(
    name: str, title: str, panels: Mapping[str, Sequence[Curve]], *, shots: Sequence[int], **options: Any
) -> Chart:
    return method_chart(name, title, panels, x_label="shots", x_ticks=shots, **options)


def _metric(row: Mapping[str, Any]) -> str:
    return {"accuracy": "accuracy", "mean_per_class_accuracy": "mean per-class accuracy"}[row["metric"]]


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
