"""A section of a report, and the charts that have a panel per method."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from adapt.report.figures.chart import Chart, LegendEntry, run_look
from adapt.report.figures.panels import Curve, LinePanel
from adapt.report.formatting import format_interval
from adapt.report.results_index import ResultsIndex
from adapt.report.statistics import AccuracyInterval
from adapt.report.tables import ReportTable


class Section(NamedTuple):
    """A heading with text, tables and charts; one with a `dataset` or `method` is shown only when it is selected."""

    title: str
    text: str = ""
    tables: Sequence[ReportTable] = ()
    charts: Sequence[Chart] = ()
    dataset: str | None = None
    method: str | None = None
    pictures: Sequence[Mapping[str, Any]] = ()


def run_legend(index: ResultsIndex) -> list[LegendEntry]:
    """Return the runs with their looks, which are the same in every chart."""
    return [LegendEntry(run.name, run_look(number)) for number, run in enumerate(index.runs)]


def accuracy_curve(run: str, number: int, *, intervals: Mapping[float, AccuracyInterval], x_name: str) -> Curve:
    """Return the accuracy of a run in percent by `x`, with its intervals as a band; `x_name` follows x in the texts."""
    return Curve(
        list(intervals),
        [100 * each.mean for each in intervals.values()],
        run_look(number),
        [f"{run}, {x:.3g} {x_name}: {format_interval(each)} %" for x, each in intervals.items()],
        [_ends(each) for each in intervals.values()],
    )


def method_chart(
    name: str,
    title: str,
    panels: Mapping[str, Sequence[Curve]],
    *,
    index: ResultsIndex,
    x_label: str,
    x_ticks: Sequence[float] = (),
    backdrop: Sequence[Curve] = (),
    legend: Sequence[LegendEntry] = (),
) -> Chart:
    """Return a chart of accuracy with a panel per method and a colour per run; `backdrop` is drawn in every panel.

    With a single run, each panel shows the curves of its other methods as thin lines.
    """
    shared = [*backdrop, *(curve for curves in panels.values() for curve in curves)]
    values = [y for curve in shared for y in (*curve.y, *(end for band in curve.band for end in band)) if y == y]
    low, high = min(values), max(values)
    room = 0.05 * (high - low) or 1.0
    drawn = []
    for method, curves in panels.items():
        faint = [
            curve._replace(faint=True)
            for other, found in panels.items()
            for curve in found
            if len(index.runs) == 1 and other != method
        ]
        drawn.append(
            LinePanel(
                method,
                [*backdrop, *faint, *curves],
                x_label,
                "accuracy, %",
                x_ticks=x_ticks,
                y_range=(max(low - room, -2), min(high + room, 102)),
            )
        )
    present = {curve.look for curves in panels.values() for curve in curves}
    runs = [entry for entry in run_legend(index) if entry.look in present]
    return Chart(name, title, drawn, [*runs, *legend])


def _ends(interval: AccuracyInterval) -> tuple[float, float]:
    low, high = (interval.mean, interval.mean) if math.isnan(interval.low) else (interval.low, interval.high)
    return (100 * low, 100 * high)
