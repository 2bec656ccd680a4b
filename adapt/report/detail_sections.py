"""Sections of a report beyond accuracy by shots: other tasks, locality, worst-classified classes, compute cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from adapt.report.charts import Line, Points, line_chart, point_chart
from adapt.report.formatting import count, format_interval, method_label
from adapt.report.notes import zero_shot_notes
from adapt.report.results_index import Predictions, ResultsIndex, TaskKey, interval_of
from adapt.report.sections import Section
from adapt.report.tables import Cell, ReportTable

_WORST, _BINS = 5, 5


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
    rows, groups = [], []
    base, new = (TaskKey(dataset, task, half) for half in ("base", "new"))
    shots = index.shots(base)
    for color, run in enumerate(index.runs):
        points = []
        for method in index.methods(task):
            intervals = [index.interval(run.name, key, method=method, shots=shots[-1]) for key in (base, new)]
            if None in intervals:
                continue
            a, b = (interval.mean for interval in intervals)
            harmonic = 2 * a * b / (a + b) if a + b else 0.0
            label = method_label(index, run.name, method)
            rows.append([label, *map(format_interval, intervals), f"{100 * harmonic:.1f}"])
            points.append((100 * a, 100 * b, method))
        if points:
            name = run.name if len(index.runs) > 1 else ""
            groups.append(Points(name, *zip(*points, strict=True), color=color))
    if not rows:
        return []
    head = [count(shots[-1], "shot"), "base, %", "new, %", "harmonic mean"]
    cells = [[Cell(text) for text in row] for row in rows]
    table = ReportTable(f"{task}-{dataset}", f"{title}, {dataset}", head, cells)
    chart = point_chart(groups, x_label="accuracy on base classes, %", y_label="accuracy on new classes, %")
    return [Section(f"{title}: {dataset}", text, [table], [chart], dataset=dataset)]


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
            head = ["dataset", "method", "shots", "accuracy, %"]
            sections.append(Section(title, text, [ReportTable(task, title, head, rows)]))
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
            label = method_label(index, run.name, method)
            cells += [
                [Cell(dataset), Cell(label + variant), Cell(f"{shots}"), Cell(format_interval(interval_of(each)))]
                for variant, each in rows.items()
            ]
    return cells


def locality(index: ResultsIndex) -> list[Section]:
    """Return accuracy by the distance of a query to the nearest support image, in five equal groups of queries."""
    sections = []
    for key in index.keys("few_shot"):
        shots = (index.shots(key) or [0])[-1]
        lines = []
        for number, run in enumerate(index.runs):
            for color, method in enumerate(index.methods()):
                rows = index.rows(run.name, key, method=method, shots=shots)
                found, distances = index.predictions(run.name, rows), index.distances(run.name, rows)
                if found is None or distances is None or len(found.predicted) not in (1, len(distances)):
                    continue
                x, y = _accuracy_by_distance(found, distances)
                lines.append(Line(method_label(index, run.name, method), x, y, (), color, number > 0))
        if lines:
            chart = line_chart(
                lines, x_label="distance to the nearest support image (1 − cosine)", y_label="accuracy", percent=True
            )
            text = (
                "Accuracy of five equal groups of queries, ordered by the distance to their nearest support image, at "
                f"{count(shots, 'shot')}."
            )
            sections.append(Section(f"Locality: {key.dataset}", text, charts=[chart], dataset=key.dataset))
    return sections


def _accuracy_by_distance(found: Predictions, distances: np.ndarray) -> tuple[list[float], list[float]]:
    """Return the mean distance and the accuracy of each group of queries."""
    predicted = np.broadcast_to(found.predicted, distances.shape)
    counted = predicted >= 0
    edges = np.quantile(distances[counted], np.linspace(0, 1, _BINS + 1))
    group = np.clip(np.searchsorted(edges, distances, side="right") - 1, 0, _BINS - 1)
    right = predicted == found.labels
    members = [counted & (group == number) for number in range(_BINS)]
    return (
        [float(distances[each].mean()) for each in members if each.any()],
        [float(right[each].mean()) for each in members if each.any()],
    )


def worst_classes(index: ResultsIndex) -> list[Section]:
    """Return the worst-classified classes, their most frequent wrong prediction, and a picture of each."""
    sections = []
    for key in index.keys("few_shot"):
        shots = (index.shots(key) or [0])[-1]
        for run in index.runs:
            for method in index.methods():
                rows = index.rows(run.name, key, method=method, shots=shots)
                found, classes = index.predictions(run.name, rows), index.classes(run.name, rows)
                if found is None or classes is None:
                    continue
                title = f"Worst-classified classes: {key.dataset}, {method_label(index, run.name, method)}"
                text = f"The lowest accuracies at {count(shots, 'shot')}, each with the most frequent wrong prediction."
                text += " The pictures are examples of the classes." if any(classes["pictures"]) else ""
                pictures = _worst(found, classes)
                sections.append(Section(title, text, dataset=key.dataset, method=method, pictures=pictures))
    return sections


def _worst(found: Predictions, classes: Mapping[str, Any]) -> list[dict[str, Any]]:
    num_classes = len(classes["names"])
    confusion = np.zeros((num_classes, num_classes), np.int64)
    for predicted in found.predicted:
        np.add.at(confusion, (found.labels[predicted >= 0], predicted[predicted >= 0]), 1)
    queries = confusion.sum(axis=1)
    accuracy = np.where(queries > 0, np.diagonal(confusion) / np.maximum(queries, 1), np.inf)
    shown = []
    for label in np.argsort(accuracy, kind="stable")[:_WORST]:
        wrong = confusion[label].copy()
        wrong[label] = 0
        other = int(wrong.argmax())
        if queries[label] and wrong[other]:
            shown.append(
                {
                    "class": {"name": classes["names"][label], "picture": classes["pictures"][label]},
                    "other": {"name": classes["names"][other], "picture": classes["pictures"][other]},
                    "accuracy": f"{accuracy[label]:.0%}",
                    "confused": f"{wrong[other] / queries[label]:.0%}",
                }
            )
    return shown


def costs(index: ResultsIndex) -> list[Section]:
    """Return the seconds of embedding, and of selecting, fitting and classifying by method."""
    rows = []
    for run in index.runs:
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
            [Cell(run.name), Cell(method), Cell(f"{support_sets:,}"), Cell(f"{predictions:,}"), Cell(f"{seconds:.1f}")]
            for method, (support_sets, predictions, seconds) in by_method.items()
        ]
    head = ["checkpoint", "work", "support sets", "predictions", "seconds"]
    text = (
        "Embedding excludes what was in the cache. The time of a method includes the selection of hyper-parameters, "
        "fitting, classification and compilation; on CPUs two methods run at the same time."
    )
    return [Section("Compute cost", text, [ReportTable("costs", "compute cost", head, rows)])] if rows else []
