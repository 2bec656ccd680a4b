"""The parts of a report beyond accuracy by shots: base and new classes, other domains, locality, confusion, cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from adapt.report.charts import Line, Points, line_chart, point_chart
from adapt.report.results_index import Findings, Question
from adapt.report.sections import Section, label_of, percent
from adapt.report.statistics import mean_interval
from adapt.report.tables import Cell, Table

_WORST, _BINS = 5, 5


def halves(findings: Findings) -> list[Section]:
    """Returns base and new classes: told apart among their own (base-to-new), and among all (forgetting)."""
    sections = []
    for task, title, text in (
        (
            "base_to_new",
            "Base and new classes",
            "Examples of the first half of the classes only; each half classified among its own classes.",
        ),
        (
            "forgetting",
            "Forgetting",
            "Examples of the first half of the classes only; all queries classified among all classes. New: classes "
            "never adapted to, of which zero_shot is the accuracy before.",
        ),
    ):
        for dataset in findings.datasets(task):
            rows, groups = [], []
            questions = [Question(dataset, task, part) for part in ("base", "new")]
            shots = findings.shots(questions[0])
            for color, run in enumerate(findings.runs):
                points = []
                for method in findings.methods(task):
                    found = [findings.interval(run.name, each, method, shots[-1]) for each in questions]
                    if None in found:
                        continue
                    a, b = (interval.mean for interval in found)
                    harmonic = 2 * a * b / (a + b) if a + b else 0.0
                    rows.append([label_of(findings, run.name, method), *map(percent, found), f"{100 * harmonic:.1f}"])
                    points.append((100 * a, 100 * b, method))
                if points:
                    of = run.name if len(findings.runs) > 1 else ""
                    groups.append(Points(of, *zip(*points, strict=True), color=color))
            if rows:
                head = [f"{shots[-1]} shots", "base, %", "new, %", "harmonic mean"]
                cells = [[Cell(text) for text in row] for row in rows]
                table = Table(f"{task}-{dataset}", f"{title}, {dataset}", head, cells)
                chart = point_chart(groups, x_label="base classes, %", y_label="new classes, %")
                sections.append(Section(f"{title}: {dataset}", text, [table], [chart], dataset=dataset))
    return sections


def elsewhere(findings: Findings) -> list[Section]:
    """Returns the tasks whose queries are of another domain or set than the examples, and the probe on all data."""
    sections = []
    for task, title, text in (
        ("shift", "Domain shift", "Examples of the set; queries of its classes in another domain, among those there."),
        ("transfer", "Transfer", "Examples of the set that is asked about in brackets; queries among the new classes."),
        ("linear_probe", "Linear probe on all examples", "Regularised by 4-fold cross-validation on the examples."),
        ("zero_shot", "Zero-shot", "By an ensemble of templates, and by the single one."),
    ):
        rows = []
        for question in findings.questions(task):
            for run in findings.runs:
                for method in findings.methods(task):
                    shots = (findings.shots(question) or ["all" if task == "linear_probe" else 0])[-1]
                    found = findings.rows(run.name, question, method, shots)
                    groups: dict[str, list[float]] = {}
                    for row in found:
                        variant = f" ({row['settings']['templates']})" if task == "zero_shot" else ""
                        groups.setdefault(variant, []).append(row["value"])
                    asked = f"{question.dataset} [{question.question}]" if question.question else question.dataset
                    rows += [
                        [
                            Cell(asked),
                            Cell(label_of(findings, run.name, method) + variant),
                            Cell(f"{shots}"),
                            Cell(percent(mean_interval(values))),
                        ]
                        for variant, values in groups.items()
                    ]
        if rows:
            head = ["dataset", "method", "shots", "accuracy, %"]
            sections.append(Section(title, text, [Table(task, title, head, rows)]))
    return sections


def locality(findings: Findings) -> list[Section]:
    """Returns accuracy against the distance of a query to the nearest example, by fifths of the queries."""
    sections = []
    for question in findings.questions("few_shot"):
        shots = (findings.shots(question) or [0])[-1]
        lines = []
        for number, run in enumerate(findings.runs):
            for color, method in enumerate(findings.methods()):
                rows = findings.rows(run.name, question, method, shots)
                answers, distances = findings.answers(run.name, rows), findings.distances(run.name, rows)
                if answers is None or distances is None or len(answers[0]) not in (1, len(distances)):
                    continue
                predictions = np.broadcast_to(answers[0], distances.shape)
                asked = predictions >= 0
                edges = np.quantile(distances[asked], np.linspace(0, 1, _BINS + 1))
                which = np.clip(np.searchsorted(edges, distances, side="right") - 1, 0, _BINS - 1)
                right = predictions == answers[1]
                parts = [asked & (which == part) for part in range(_BINS)]
                x = [float(distances[part].mean()) for part in parts if part.any()]
                y = [float(right[part].mean()) for part in parts if part.any()]
                lines.append(Line(label_of(findings, run.name, method), x, y, (), color, number > 0))
        if lines:
            chart = line_chart(lines, x_label="1 − cosine to the nearest example", y_label="accuracy", percent=True)
            text = f"Fifths of the queries by the distance to their nearest example, {shots} shots."
            sections.append(Section(f"Locality: {question.dataset}", text, charts=[chart], dataset=question.dataset))
    return sections


def worst_classes(findings: Findings) -> list[Section]:
    """Returns the classes told worst, what they are taken for, and a picture of each."""
    sections = []
    for question in findings.questions("few_shot"):
        shots = (findings.shots(question) or [0])[-1]
        for run in findings.runs:
            for method in findings.methods():
                rows = findings.rows(run.name, question, method, shots)
                answers, classes = findings.answers(run.name, rows), findings.classes(run.name, rows)
                if answers is None or classes is None:
                    continue
                shown = _worst(*answers, classes)
                of = f", {run.name}" if len(findings.runs) > 1 else ""
                title = f"Worst classes: {question.dataset}, {method}{of}"
                text = f"At {shots} shots, and the class that each is most often taken for. Pictures: an example."
                sections.append(Section(title, text, dataset=question.dataset, method=method, pictures=shown))
    return sections


def _worst(predictions: np.ndarray, labels: np.ndarray, classes: Mapping[str, Any]) -> list[dict[str, Any]]:
    count = len(classes["names"])
    table = np.zeros((count, count), np.int64)
    for line in predictions:
        np.add.at(table, (labels[line >= 0], line[line >= 0]), 1)
    asked = table.sum(axis=1)
    accuracy = np.where(asked > 0, np.diagonal(table) / np.maximum(asked, 1), np.inf)
    shown = []
    for label in np.argsort(accuracy, kind="stable")[:_WORST]:
        wrong = table[label].copy()
        wrong[label] = 0
        taken = int(wrong.argmax())
        if asked[label] and wrong[taken]:
            named = {"name": classes["names"][label], "picture": classes["pictures"][label]}
            other = {"name": classes["names"][taken], "picture": classes["pictures"][taken]}
            shares = {"right": f"{accuracy[label]:.0%}", "taken": f"{wrong[taken] / asked[label]:.0%}"}
            shown.append({"class": named, "other": other} | shares)
    return shown


def costs(findings: Findings) -> list[Section]:
    """Returns how long embedding, and fitting and classifying took."""
    rows = []
    for run in findings.runs:
        by_method: dict[str, list[float]] = {}
        for cost in run.costs:
            if cost["what"] != "embedding":
                line = by_method.setdefault(cost["what"], [0, 0, 0.0])
                line[0] += cost["cases"]
                line[1] += cost["cases"] * cost["queries"]
                line[2] += cost["seconds"]
        embedding = sum(cost["seconds"] for cost in run.costs if cost["what"] == "embedding")
        if run.costs:
            rows.append([Cell(run.name), Cell("embedding"), Cell(""), Cell(""), Cell(f"{embedding:.1f}")])
        rows += [
            [Cell(run.name), Cell(method), Cell(f"{cases:,}"), Cell(f"{queries:,}"), Cell(f"{seconds:.1f}")]
            for method, (cases, queries, seconds) in by_method.items()
        ]
    head = ["checkpoint", "what", "supports", "answers", "seconds"]
    text = (
        "Embedding, less what was in the cache; selection of settings, fitting and classifying, with compiling, some "
        "methods beside each other."
    )
    return [Section("What it cost", text, [Table("costs", "cost", head, rows)])] if rows else []
