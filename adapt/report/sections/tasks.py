"""Sections of a report beyond accuracy by shots: halves of the classes, other tasks, retrieval, jobs, compute cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from adapt.adapters.registry import TRANSDUCTIVE
from adapt.report.figures.chart import INK, Chart, LegendEntry, Look, run_look
from adapt.report.figures.panels import Mark, MarkedRow, RowPanel
from adapt.report.formatting import count, format_interval
from adapt.report.notes import zero_shot_notes
from adapt.report.results_index import ResultsIndex, Run, TaskKey, interval_of
from adapt.report.sections.section import Section
from adapt.report.tables import Cell, ReportTable


def halves(index: ResultsIndex) -> list[Section]:
    """Return accuracy on base and new classes: among the classes of each half, and among all classes."""
    sections = []
    for task, title, text in (
        (
            "base_to_new",
            "Base and new classes",
            "Support images of the first half of the classes (base) only. The queries of each half are classified "
            "among the classes of that half.",
        ),
        (
            "forgetting",
            "Forgetting",
            "Support images of the first half of the classes (base) only. All queries are classified among all "
            "classes. Methods never adapt to the new classes; their accuracy before adaptation is that of zero_shot.",
        ),
    ):
        sections += [
            section
            for dataset in index.datasets(task)
            for section in _halves(index, task, dataset=dataset, title=title, text=text)
        ]
    return sections


def _halves(index: ResultsIndex, task: str, *, dataset: str, title: str, text: str) -> list[Section]:
    rows, panels = [], []
    base, new = (TaskKey(dataset, task, half) for half in ("base", "new"))
    shots = index.shots(base)
    for number, run in enumerate(index.runs):
        drawn = []
        for method in index.methods(task):
            intervals = [index.interval(run.name, key, method=method, shots=shots[-1]) for key in (base, new)]
            if None in intervals:
                continue
            a, b = (interval.mean for interval in intervals)
            harmonic = 2 * a * b / (a + b) if a + b else 0.0
            names = [method, run.name] if len(index.runs) > 1 else [method]
            rows.append([*names, *map(format_interval, intervals), f"{100 * harmonic:.1f}"])
            look = run_look(number)._replace(marker="o")
            marks = [
                Mark(
                    *(100 * each for each in interval[:3]),
                    look._replace(filled=half == "base"),
                    f"{run.name}, {method}: {format_interval(interval)} % on {half} classes",
                )
                for half, interval in zip(("base", "new"), intervals, strict=True)
            ]
            drawn.append(MarkedRow(method, marks))
        if drawn:
            panels.append(RowPanel(run.name, drawn, "accuracy, %"))
    if not rows:
        return []
    names = ["method", "run"] if len(index.runs) > 1 else ["method"]
    cells = [[Cell(text) for text in row] for row in rows]
    table = ReportTable(
        f"{task}-{dataset}{index.file_suffix}",
        f"accuracy on {dataset} at {count(shots[-1], 'shot')}, %",
        [*names, "base", "new", "harmonic mean"],
        cells,
        labels=len(names),
    )
    every = [mark.x for panel in panels for row in panel.rows for mark in row.marks]
    ends = (max(min(every) - 4, -2), min(max(every) + 4, 102))
    panels = [dataclasses.replace(panel, x_range=ends) for panel in panels]
    ink = Look(INK, dashes="", marker="o")
    legend = [LegendEntry("base classes", ink), LegendEntry("new classes", ink._replace(filled=False))]
    title = f"{title}: {dataset}{index.suffix}"
    chart = Chart(f"{task}-{dataset}{index.file_suffix}", title, panels, legend)
    return [Section(title, text, [table], [chart], dataset=dataset)]


def other_tasks(index: ResultsIndex) -> list[Section]:
    """Return the tasks that need one table each: other domains, other datasets, the linear probe and zero-shot."""
    sections = []
    for task, title, text in (
        (
            "shift",
            "Domain shift",
            "Support images of the dataset. Queries come from the domain in brackets and are classified among the "
            "classes that occur there.",
        ),
        (
            "transfer",
            "Transfer",
            "Support images of the dataset in brackets. Queries are classified among the classes of the other dataset.",
        ),
        (
            "linear_probe",
            "Linear probe on all support images",
            "Trained on every labelled image of the support split, with the regularisation selected by 4-fold "
            "cross-validation on it.",
        ),
        (
            "zero_shot",
            "Zero-shot",
            " ".join(["Class names only: an ensemble of templates, and the single template.", *zero_shot_notes(index)]),
        ),
    ):
        rows = [row for key in index.keys(task) for row in _task_rows(index, key)]
        if rows:
            head = ["dataset", "method", *(["run"] if len(index.runs) > 1 else []), "shots", "accuracy, %"]
            table = ReportTable(task + index.file_suffix, title + index.suffix, head, rows, labels=len(head) - 2)
            sections.append(Section(title + index.suffix, text, [table]))
    return sections


def _task_rows(index: ResultsIndex, key: TaskKey) -> list[list[Cell]]:
    """Return a row of cells for each run, method and, for zero-shot, set of templates."""
    cells = []
    dataset = f"{key.dataset} [{key.query_set}]" if key.query_set else key.dataset
    shots = (index.shots(key) or ["all" if key.task == "linear_probe" else 0])[-1]
    for run in index.runs:
        for method in index.methods(key.task):
            rows: dict[str, list[Mapping[str, Any]]] = {}
            for row in index.rows(run.name, key, method=method, shots=shots):
                variant = f" ({row['settings']['templates']})" if key.task == "zero_shot" else ""
                rows.setdefault(variant, []).append(row)
            names = [Cell(run.name)] if len(index.runs) > 1 else []
            cells += [
                [
                    Cell(dataset),
                    Cell(method + variant),
                    *names,
                    Cell(f"{shots}"),
                    Cell(format_interval(interval_of(each))),
                ]
                for variant, each in rows.items()
            ]
    return cells


def costs(runs: Sequence[Run]) -> list[Section]:
    """Return the seconds of embedding, and of selecting, fitting and classifying by method."""
    rows = []
    for run in runs:
        by_method: dict[str, list[float]] = {}
        for cost in run.costs:
            if cost["what"] != "embedding":
                totals = by_method.setdefault(cost["what"], [0, 0, 0.0])
                totals[0] += cost["cases"]
                totals[1] += cost["cases"] * cost["queries"]
                totals[2] += cost["seconds"]
        embedding = sum(cost["seconds"] for cost in run.costs if cost["what"] == "embedding")
        if run.costs:
            rows.append([Cell(run.name), Cell("embedding"), Cell(""), Cell(""), Cell(f"{embedding:.1f}")])
        rows += [
            [
                Cell(run.name),
                Cell(_marked(method)),
                Cell(f"{support_sets:,}"),
                Cell(f"{predictions:,}"),
                Cell(f"{seconds:.1f}"),
            ]
            for method, (support_sets, predictions, seconds) in by_method.items()
        ]
    head = ["checkpoint", "work", "support sets", "predictions", "seconds"]
    text = (
        "Embedding excludes what was in the cache. The time of a method includes the selection of hyper-parameters, "
        "fitting, classification and compilation; on CPUs two methods run at the same time."
    )
    return [Section("Compute cost", text, [ReportTable("costs", "compute cost", head, rows, labels=2)])] if rows else []


def _marked(method: str) -> str:
    return f"{method} (transductive)" if method in TRANSDUCTIVE else method


def retrieval(runs: Sequence[Run]) -> list[Section]:
    """Return recall with its interval and that of chance."""
    rows = [
        [
            Cell(run.name),
            Cell(row["dataset"]),
            Cell(row["metric"]),
            Cell(format_interval(interval_of([row]))),
            Cell(f"{100 * min(1, row['k'] / row['classes']):.1f}"),
            Cell(f"{row['queries']:,}"),
        ]
        for run in runs
        for row in run.results
        if row["task"] == "retrieval"
    ]
    head = ["run", "dataset", "metric", "recall, %", "chance, %", "queries"]
    text = "Recall ± half-width of the 95% confidence interval, which is due to the finite number of queries."
    table = ReportTable("retrieval", "retrieval", head, rows, labels=3)
    return [Section("Retrieval", text, [table])] if rows else []


def jobs(runs: Sequence[Run]) -> list[Section]:
    """Return the jobs of every run with their time."""
    rows = [
        [Cell(run.name), Cell(job["job"]), Cell(job["what"]), Cell(f"{job['seconds']:.1f}")]
        for run in runs
        for job in run.jobs
    ]
    table = ReportTable("jobs", "jobs", ["run", "job", "result", "seconds"], rows, labels=3)
    return [Section("Jobs", "", [table])] if rows else []
