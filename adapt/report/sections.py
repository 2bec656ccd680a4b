"""The parts of a report: tables and charts of what was found, each about all, one dataset or one method."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from adapt.report.charts import Line, Points, line_chart, point_chart
from adapt.report.results_index import Findings, Question
from adapt.report.statistics import Difference, Interval, mean_difference, shots_needed
from adapt.report.tables import Cell, Table

_BANDS = 4  # lines whose intervals a chart can show


class Section(NamedTuple):
    """A heading, sentences, tables and charts; shown for its `dataset` and `method` alone where it has one."""

    title: str
    text: str = ""
    tables: Sequence[Table] = ()
    charts: Sequence[str] = ()
    dataset: str | None = None
    method: str | None = None
    pictures: Sequence[Mapping[str, Any]] = ()


def summary(findings: Findings) -> list[Section]:
    """Returns a table of datasets × methods for each run, at the most shots of each dataset."""
    sections = []
    methods = findings.methods()
    for run in findings.runs:
        rows, means = [], {method: [] for method in methods}
        for question in findings.questions("few_shot"):
            shots = findings.shots(question)
            if not shots:
                continue
            found = [findings.interval(run.name, question, method, shots[-1]) for method in methods]
            if not any(found):
                continue
            for method, interval in zip(methods, found, strict=True):
                means[method].append(math.nan if interval is None else interval.mean)
            rows.append([Cell(question.dataset), Cell(f"{shots[-1]}"), *_marked(found)])
        if len(rows) > 1:
            averages = [Interval(float(np.mean(values)), math.nan) for values in means.values()]
            rows.append([Cell("average"), Cell(""), *_marked([None if math.isnan(a.mean) else a for a in averages])])
        name = "summary" if len(findings.runs) == 1 else f"summary-{run.name}"
        table = Table(name, f"accuracy, %, {run.name}", ["dataset", "shots", *methods], rows)
        text = "Mean over the draws ± 95 % interval. Marked: the best of a row; underlined: within its interval."
        title = "Accuracy" if len(findings.runs) == 1 else f"Accuracy of {run.name}"
        sections += [Section(title, text, [table])] if rows else []
    return sections


def curves(findings: Findings) -> list[Section]:
    """Returns accuracy against shots of every dataset, and averaged over the datasets."""
    sections = []
    questions = findings.questions("few_shot")
    if len(questions) > 1:
        common = sorted(set.intersection(*(set(findings.shots(question)) for question in questions)))
        lines = []
        for number, run in enumerate(findings.runs):
            for color, method in enumerate(findings.methods()):
                found = [[findings.interval(run.name, each, method, k) for each in questions] for k in common]
                if common and all(interval for at in found for interval in at):
                    means = [float(np.mean([interval.mean for interval in at])) for at in found]
                    lines.append(Line(label_of(findings, run.name, method), common, means, (), color, number > 0))
        if lines:
            chart = _shots_chart(lines, common)
            text = f"Mean over {len(questions)} datasets, each counted alike."
            sections.append(Section("Accuracy against examples a class, on average", text, charts=[chart]))
    for question in questions:
        sections.append(_dataset_curves(findings, question))
    return sections


def _dataset_curves(findings: Findings, question: Question) -> Section:
    shots = findings.shots(question) or [1]
    lines, rows, columns = [], [], []
    for number, run in enumerate(findings.runs):
        for color, method in enumerate(findings.methods()):
            found = {k: findings.interval(run.name, question, method, k) for k in shots}
            there = {k: interval for k, interval in found.items() if interval}
            if not there:
                continue
            label = label_of(findings, run.name, method)
            bands = [0.0 if math.isnan(interval.half_width) else interval.half_width for interval in there.values()]
            means = [interval.mean for interval in there.values()]
            lines.append(Line(label, list(there), means, bands, color, number > 0))
            rows.append(label)
            columns.append(list(found.values()))
    marked = [_marked(list(at)) for at in zip(*columns, strict=True)]
    cells = [[Cell(label), *(at[row] for at in marked)] for row, label in enumerate(rows)]
    head = [_metric(findings, question), *(f"{k} shot{'s' if k > 1 else ''}" for k in shots)]
    first = next(row for run in findings.runs for row in run.results if _of(row, question))
    text = (
        f"{first['classes']} classes, {first['queries']:,} queries a draw; chance {100 / first['classes']:.1f} %."
        + _short_note(findings, question)
    )
    if len(lines) > _BANDS:
        lines = [line._replace(band=()) for line in lines]
    chart = _shots_chart(lines, shots)
    table = Table(f"few_shot-{question.dataset}", f"few-shot, {question.dataset}", head, cells)
    return Section(f"Few-shot classification: {question.dataset}", text, [table], [chart], dataset=question.dataset)


def comparison(findings: Findings) -> list[Section]:
    """Returns for every method what the other runs gain over the first on each dataset, and what that is in shots."""
    sections = []
    first = findings.runs[0].name
    for other in findings.runs[1:]:
        for method in findings.methods():
            rows, gains, points, marks = [], [], [], []
            for question in findings.questions("few_shot"):
                shots = findings.shots(question)
                if not shots:
                    continue
                gain = findings.difference(first, other.name, question, method, shots[-1])
                if gain is None:
                    continue
                gains.append(gain.mean)
                classes = findings.rows(first, question, method, shots[-1])[0]["classes"]
                points.append((classes, 100 * gain.mean, question.dataset))
                marks.append((100 * gain.low, 100 * gain.high))
                a, b = (findings.interval(run, question, method, shots[-1]) for run in (first, other.name))
                cells = [percent(a), percent(b), points_of(gain)]
                rows.append(
                    [
                        Cell(question.dataset),
                        Cell(f"{classes}"),
                        Cell(f"{shots[-1]}"),
                        Cell(cells[0]),
                        Cell(cells[1]),
                        Cell(cells[2], "best" if gain.sure and gain.mean > 0 else ""),
                        Cell(_efficiency(findings, first, other.name, question, method)),
                    ]
                )
            if not rows:
                continue
            if len(gains) > 1:
                rows.append([Cell("average"), *[Cell("")] * 4, Cell(points_of(mean_difference(gains))), Cell("")])
            head = ["dataset", "classes", "shots", first, other.name, "gain, points", f"shots {first} needs"]
            name = f"gain-{other.name}-{method}"
            charts = []
            if len(points) > 1:
                x, y, names = zip(*points, strict=True)
                charts = [
                    point_chart(
                        [Points("", x, y, names, marks)],
                        x_label="number of classes",
                        y_label="gain, points",
                        log_x=True,
                        zero=True,
                    )
                ]
            text = (
                "Percentage points on the same draws and queries, with 95 % intervals: of a dataset by paired "
                "bootstrap over draws and queries, of the average Student's over the datasets. Shots needed, as in "
                f"6 for 4: with 6 examples a class {first} is as accurate as {other.name} with 4, the most for which "
                f"that can be told; > and < where {first} never is, or always is."
            )
            title = f"Gain of {other.name} over {first}: {method}"
            sections.append(Section(title, text, [Table(name, title, head, rows)], charts, method=method))
    return sections


def _efficiency(findings: Findings, first: str, other: str, question: Question, method: str) -> str:
    """Returns the shots that the first run needs for what the other has, at the most shots where that can be told."""
    shots = findings.shots(question)
    curves = [{k: findings.interval(run, question, method, k) for k in shots} for run in (first, other)]
    if method == "zero_shot" or any(interval is None for curve in curves for interval in curve.values()):
        return ""
    known, wanted = ({k: interval.mean for k, interval in curve.items()} for curve in curves)
    for k in reversed(shots):
        needed = shots_needed(known, wanted[k])
        if not math.isnan(needed):
            return f"{needed:.2g} for {k}"
    return f">{shots[-1]} for {shots[-1]}" if wanted[shots[-1]] > known[shots[-1]] else f"<{shots[0]} for {shots[-1]}"


def percent(interval: Interval | None) -> str:
    """Returns an interval in per cent."""
    if interval is None:
        return "–"
    if math.isnan(interval.half_width):
        return f"{100 * interval.mean:.1f}"
    return f"{100 * interval.mean:.1f} ± {100 * interval.half_width:.1f}"


def points_of(gain: Difference) -> str:
    """Returns a difference in percentage points with its interval."""
    ends = "" if math.isnan(gain.low) else f" [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}]"
    return f"{100 * gain.mean:+.1f}{ends}".replace("-", "−")


def _marked(found: Sequence[Interval | None]) -> list[Cell]:
    there = [interval for interval in found if interval is not None]
    if not there:
        return [Cell("–") for _ in found]
    best = max(there, key=lambda interval: interval.mean)
    near = best.mean - (0.0 if math.isnan(best.half_width) else best.half_width)

    def mark(interval: Interval | None) -> str:
        if interval is None or interval.mean < near:
            return ""
        return "best" if interval.mean == best.mean else "near"

    return [Cell(percent(interval), mark(interval)) for interval in found]


def label_of(findings: Findings, run: str, method: str) -> str:
    """Returns the name of a method, with its run where there are several."""
    return f"{method}, {run}" if len(findings.runs) > 1 else method


def _shots_chart(lines: Sequence[Line], shots: Sequence[int]) -> str:
    return line_chart(lines, x_label="examples per class", y_label="accuracy", x_ticks=shots, percent=True)


def _of(row: Mapping[str, Any], question: Question) -> bool:
    return (row["dataset"], row["task"], row.get("question", "")) == question


def _metric(findings: Findings, question: Question) -> str:
    row = next(row for run in findings.runs for row in run.results if _of(row, question))
    return {"accuracy": "accuracy, %", "mean_per_class_accuracy": "accuracy, mean of classes, %"}[row["metric"]]


def _short_note(findings: Findings, question: Question) -> str:
    short = {row["shots"] for run in findings.runs for row in run.results if _of(row, question) and row.get("short")}
    if not short:
        return ""
    return f" Some classes have fewer examples than {min(short)}: they give all they have from there on."
