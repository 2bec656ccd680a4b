"""Accuracy by the number of labelled images: comparable between few and many classes, and imbalanced support sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from adapt.report.figures.chart import Chart, LegendEntry, run_look
from adapt.report.figures.panels import Curve, LinePanel
from adapt.report.formatting import mark_best
from adapt.report.results_index import ResultsIndex, Run, TaskKey
from adapt.report.sections.section import Section, accuracy_curve
from adapt.report.statistics import AccuracyInterval
from adapt.report.tables import Cell, ReportTable

_PANELS = 6  # methods of a chart; its table has all
_Budget = Mapping[float, AccuracyInterval]  # accuracy by labelled images


def labelling_budget(index: ResultsIndex) -> list[Section]:
    """Return a section per run: a panel per method with a curve per dataset, and a table."""
    return [section for run in index.runs for section in _section(index, run)]


def labelled_images(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the mean over seeds of the images in a support set, or None for results without this number."""
    numbers = [row.get("examples_drawn") for row in rows]
    return None if None in numbers or not numbers else sum(numbers) / len(numbers)


def _section(index: ResultsIndex, run: Run) -> list[Section]:
    keys = index.keys("few_shot")
    methods = [method for method in index.methods() if method != "zero_shot"]
    budgets = {
        (key, method): budget for key in keys for method in methods if (budget := _budget(index, run, key, method))
    }
    keys = [key for key in keys if any((key, method) in budgets for method in methods)]
    if not keys:
        return []
    several = len(index.runs) > 1
    cells = []
    for key in keys:
        own = {method: budgets.get((key, method), {}) for method in methods}
        classes = index.row_of(key)["classes"]
        for images in sorted({images for budget in own.values() for images in budget}):
            accuracies = mark_best([own[method].get(images) for method in methods])
            cells.append([Cell(key.dataset), Cell(f"{classes}"), Cell(f"{images:,.0f}"), *accuracies])
    suffix = (f": {run.name}" if several else "") + index.suffix
    title = f"Accuracy by labelled images{suffix}"
    name = (f"labelled_images-{run.name}" if several else "labelled_images") + index.file_suffix
    text = (
        "The number of labelled images is that of a support set, over all classes (the mean over seeds). It makes data "
        "sets of few and of many classes, and imbalanced support sets, comparable by the work of labelling. Each curve "
        "is a data set."
    )
    head = ["dataset", "classes", "labelled images", *methods]
    table = ReportTable(name, f"accuracy by labelled images{suffix}, %", head, cells)
    return [Section(title, text, [table], [_chart(name, title, keys, methods, budgets)])]


def _budget(index: ResultsIndex, run: Run, key: TaskKey, method: str) -> _Budget:
    """Return the accuracy of a method by the number of labelled images; equal numbers have that of the most shots."""
    found = {}
    for shots in index.shots(key):
        rows = index.rows(run.name, key, method=method, shots=shots)
        images = labelled_images(rows)
        if images is not None:
            found[images] = index.interval(run.name, key, method=method, shots=shots)
    return found


def _chart(
    name: str,
    title: str,
    keys: Sequence[TaskKey],
    methods: Sequence[str],
    budgets: Mapping[tuple[TaskKey, str], _Budget],
) -> Chart:
    curves: dict[str, list[Curve]] = {}
    for method in methods:
        for number, key in enumerate(keys):
            if (key, method) in budgets:
                own = budgets[key, method]
                curve = accuracy_curve(key.dataset, number, intervals=own, x_name="labelled images")
                curves.setdefault(method, []).append(
                    curve._replace(
                        texts=[
                            text.replace(f"{x:.3g} ", f"{x:,.0f} ", 1) for x, text in zip(own, curve.texts, strict=True)
                        ]
                    )
                )
    best = sorted(curves, key=lambda method: -sum(curve.y[-1] for curve in curves[method]))[:_PANELS]
    shown = {method: found for method, found in curves.items() if method in best}
    ends = [end for found in shown.values() for curve in found for band in curve.band for end in band]
    room = 0.05 * (max(ends) - min(ends)) or 1.0
    ticks = _ticks([x for found in shown.values() for curve in found for x in curve.x])
    panels = [
        LinePanel(
            method,
            found,
            "labelled images",
            "accuracy, %",
            x_ticks=ticks,
            y_range=(max(min(ends) - room, -2), min(max(ends) + room, 102)),
        )
        for method, found in shown.items()
    ]
    return Chart(name, title, panels, [LegendEntry(key.dataset, run_look(number)) for number, key in enumerate(keys)])


def _ticks(numbers: Sequence[float]) -> list[float]:
    """Return round numbers from below the smallest to above the largest, each at most ten times the one before."""
    ticks = [float(digit * 10**power) for power in range(12) for digit in (1, 3)]
    low = max((tick for tick in ticks if tick <= min(numbers)), default=ticks[0])
    high = min((tick for tick in ticks if tick >= max(numbers)), default=ticks[-1])
    return [tick for tick in ticks if low <= tick <= high]
