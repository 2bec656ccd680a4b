"""The gains of every run over the baseline of a report: by dataset and method, also expressed in shots."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from adapt.report.figures.chart import Chart, run_look
from adapt.report.figures.panels import Mark, MarkedRow, RowPanel
from adapt.report.formatting import format_difference, format_interval
from adapt.report.results_index import ResultsIndex, TaskKey
from adapt.report.sections.section import Section
from adapt.report.statistics import AccuracyInterval, Difference, mean_difference, shots_needed
from adapt.report.tables import Cell, ReportTable


class _Gain(NamedTuple):
    """The gain of a run over the first one on a dataset, at the most shots."""

    dataset: str
    run: str
    classes: int
    shots: int
    accuracies: tuple[AccuracyInterval | None, AccuracyInterval | None]
    difference: Difference
    efficiency: str


def gains(index: ResultsIndex) -> list[Section]:
    """Return the gain of every other run over the first, a section per method."""
    return [section for method in index.methods() for section in _section(index, method)]


def _section(index: ResultsIndex, method: str) -> list[Section]:
    first = index.runs[0].name
    found = {
        run.name: [
            gain for key in index.keys("few_shot") if (gain := _gain(index, first, run.name, key=key, method=method))
        ]
        for run in index.runs[1:]
    }
    found = {run: each for run, each in found.items() if each}
    if not found:
        return []
    datasets = list(dict.fromkeys(gain.dataset for each in found.values() for gain in each))
    rows = [_cells(gain) for dataset in datasets for each in found.values() for gain in each if gain.dataset == dataset]
    totals = [
        [
            *(Cell(text) for text in ("average", run, "", "", "", "")),
            _difference_cell(mean_difference([gain.difference.mean for gain in each])),
            Cell(""),
        ]
        for run, each in found.items()
        if len(each) > 1
    ]
    text = (
        f"Accuracy minus that of {first}, in percentage points, on the same support sets and queries, with 95% "
        "confidence intervals: a paired bootstrap over seeds and queries for a dataset, Student's interval over the "
        "datasets for the average. Highlighted: gains whose interval is above zero. The last column gives the shots "
        f"that {first} needs for the accuracy of the run: “6 for 4” means 6 shots instead of 4. It refers to the "
        f"largest number of shots where this can be determined; “>” means that {first} never reaches that accuracy, "
        f"“<” that {first} always exceeds it."
    ) + (f" {len(rows)} intervals are compared: about one in twenty excludes zero by chance." if len(rows) > 5 else "")
    head = ["dataset", "run", "classes", "shots", f"{first}, %", "accuracy, %", "gain, points", f"shots {first} needs"]
    title = f"Gain over {first}: {method}"
    table = ReportTable(f"gain-{method}", title, head, [*rows, *totals], labels=2, totals=len(totals))
    return [Section(title, text, [table], _charts(index, title, found, method=method), method=method)]


def _cells(gain: _Gain) -> list[Cell]:
    return [
        Cell(gain.dataset),
        Cell(gain.run),
        Cell(f"{gain.classes}"),
        Cell(f"{gain.shots}"),
        *(Cell(format_interval(accuracy)) for accuracy in gain.accuracies),
        _difference_cell(gain.difference),
        Cell(gain.efficiency),
    ]


def _difference_cell(difference: Difference) -> Cell:
    return Cell(format_difference(difference), "best" if difference.significant and difference.mean > 0 else "")


def _gain(index: ResultsIndex, first: str, other: str, *, key: TaskKey, method: str) -> _Gain | None:
    shots = index.shots(key)
    difference = index.difference(first, other, key=key, method=method, shots=shots[-1]) if shots else None
    if difference is None:
        return None
    return _Gain(
        key.dataset,
        other,
        index.rows(first, key, method=method, shots=shots[-1])[0]["classes"],
        shots[-1],
        tuple(index.interval(run, key, method=method, shots=shots[-1]) for run in (first, other)),
        difference,
        _efficiency(index, first, other, key=key, method=method),
    )


def _charts(index: ResultsIndex, title: str, found: Mapping[str, Sequence[_Gain]], *, method: str) -> list[Chart]:
    """Return a chart with a panel per run and its datasets as rows, or, for one dataset, with the runs as rows."""
    numbers = {run.name: number for number, run in enumerate(index.runs)}
    every = [gain for each in found.values() for gain in each]
    if len(every) == 1:
        return []
    ends = [100 * end for gain in every for end in (*gain.difference, 0) if not math.isnan(end)]
    room = 0.05 * (max(ends) - min(ends)) or 1.0
    options = {"x_label": "gain, points", "zero": True, "x_range": (min(ends) - room, max(ends) + room)}
    if len({gain.dataset for gain in every}) == 1:
        rows = [MarkedRow(gain.run, [_mark(gain, numbers[gain.run])]) for gain in every]
        return [Chart(f"gain-{method}", title, [RowPanel(every[0].dataset, rows, **options)])]
    panels = []
    for run, each in found.items():
        ordered = sorted(each, key=lambda gain: gain.classes)
        rows = [MarkedRow(f"{gain.dataset} ({gain.classes})", [_mark(gain, numbers[run])]) for gain in ordered]
        panels.append(RowPanel(run, rows, **options))
    return [Chart(f"gain-{method}", title, panels)]


def _mark(gain: _Gain, number: int) -> Mark:
    mean, low, high = (100 * each for each in gain.difference)
    text = f"{gain.run}, {gain.dataset}: {format_difference(gain.difference)} points"
    return Mark(mean, low, high, run_look(number), text)


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
