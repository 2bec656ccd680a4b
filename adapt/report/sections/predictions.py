"""Sections of a report from stored predictions: locality, worst-classified classes, and confusions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from adapt.evaluation.scoring import query_error
from adapt.report.figures.chart import Chart
from adapt.report.figures.panels import Curve, MatrixPanel
from adapt.report.formatting import count, format_interval, method_label
from adapt.report.headline import best_method
from adapt.report.results_index import Predictions, ResultsIndex
from adapt.report.sections.section import Section, accuracy_curve, method_chart
from adapt.report.statistics import AccuracyInterval, accuracy_interval

_WORST, _BINS = 5, 5
_CONFUSED = 12  # classes of a confusion matrix
_PANELS = 6


def locality(index: ResultsIndex) -> list[Section]:
    """Return accuracy by the distance of a query to the nearest support image, in five equal groups of queries."""
    sections = []
    for key in index.keys("few_shot"):
        shots = (index.shots(key) or [0])[-1]
        panels: dict[str, list[Curve]] = {}
        for method in index.methods():
            for number, run in enumerate(index.runs):
                rows = index.rows(run.name, key, method=method, shots=shots)
                found, distances = index.predictions(run.name, rows), index.distances(run.name, rows)
                if found is None or distances is None or len(found.predicted) not in (1, len(distances)):
                    continue
                intervals = _accuracy_by_distance(found, distances)
                panels.setdefault(method, []).append(
                    accuracy_curve(run.name, number, intervals=intervals, x_name="distance")
                )
        if panels:
            best = sorted(panels, key=lambda method: -max(sum(curve.y) for curve in panels[method]))[:_PANELS]
            title = f"Locality: {key.dataset}{index.suffix}"
            chart = method_chart(
                f"locality-{key.dataset}{index.file_suffix}",
                title,
                {method: curves for method, curves in panels.items() if method in best},
                index=index,
                x_label="1 − cosine",
            )
            text = (
                "Accuracy of five equal groups of queries, ordered by the distance (1 − cosine) to their nearest "
                f"support image, at {count(shots, 'shot')}. Bands: the intervals over the seeds."
            )
            sections.append(Section(title, text, charts=[chart], dataset=key.dataset))
    return sections


def _accuracy_by_distance(found: Predictions, distances: np.ndarray) -> dict[float, AccuracyInterval]:
    """Return the accuracy of each group of queries over the seeds, by the mean distance of the group."""
    predicted = np.broadcast_to(found.predicted, distances.shape)
    counted = predicted >= 0
    edges = np.quantile(distances[counted], np.linspace(0, 1, _BINS + 1))
    group = np.clip(np.searchsorted(edges, distances, side="right") - 1, 0, _BINS - 1)
    right = predicted == found.labels
    intervals = {}
    for number in range(_BINS):
        members = counted & (group == number)
        asked = [int(each.sum()) for each in members if each.any()]
        hits = [int((each & good).sum()) for each, good in zip(members, right, strict=True) if each.any()]
        if not asked:
            continue
        errors = [
            query_error(right=np.array([h]), asked=np.array([n]), by_class=False)
            for h, n in zip(hits, asked, strict=True)
        ]
        values = [h / n for h, n in zip(hits, asked, strict=True)]
        intervals[float(distances[members].mean())] = accuracy_interval(values, errors, queries=min(asked))
    return intervals


def confusion(index: ResultsIndex) -> list[Section]:
    """Return the confusion matrix of the worst task: the dataset that the best run classifies worst."""
    method = best_method(index)
    candidates = []
    for key in index.keys("few_shot"):
        shots = (index.shots(key) or [0])[-1]
        accuracies = {
            run.name: interval
            for run in index.runs
            if method and (interval := index.interval(run.name, key, method=method, shots=shots))
        }
        for run in sorted(accuracies, key=lambda name: -accuracies[name].mean)[:1]:
            rows = index.rows(run, key, method=method, shots=shots)
            found, classes = index.predictions(run, rows), index.classes(run, rows)
            if found is not None and classes is not None:
                candidates.append((accuracies[run], key, run, shots, found, classes["names"]))
    if not candidates:
        return []
    accuracy, key, run, shots, found, names = min(candidates, key=lambda each: each[0].mean)
    counts = _count_predictions(found, len(names))
    shown = _most_confused(counts)
    if not len(shown):
        return []  # every query is classified correctly
    asked = np.maximum(counts.sum(axis=1), 1)
    shares = (counts[np.ix_(shown, shown)] / asked[shown, None]).tolist()
    chosen = [names[label] for label in shown]
    title = f"Most confused classes of the worst task: {key.dataset}"
    text = (
        f"{key.dataset} has the lowest accuracy: {format_interval(accuracy)} % with {method_label(index, run, method)} "
        f"at {count(shots, 'shot')}. Percent of the queries of a class (row) that are predicted as the class of the "
        "column, over all seeds; the diagonal is the accuracy of a class."
    )
    if len(shown) < len(names):
        text += f" Shown are the {len(shown)} of {len(names)} classes that are confused most often."
    panel = MatrixPanel(title, chosen, shares, "predicted class", "class")
    return [Section(title, text, charts=[Chart(f"confusion-{key.dataset}", title, [panel])])]


def _count_predictions(found: Predictions, num_classes: int) -> np.ndarray:
    """Return how often each class was predicted for each class, `[classes, predicted classes]`, over all seeds."""
    counts = np.zeros((num_classes, num_classes), np.int64)
    for predicted in found.predicted:
        np.add.at(counts, (found.labels[predicted >= 0], predicted[predicted >= 0]), 1)
    return counts


def _most_confused(counts: np.ndarray) -> np.ndarray:
    """Return the classes of the largest confusions, each next to the class that it is confused with, or all of few."""
    wrong = counts + counts.T
    np.fill_diagonal(wrong, 0)
    if len(counts) <= _CONFUSED:
        return np.arange(len(counts))
    first, second = np.nonzero(np.triu(wrong, 1))
    chosen: dict[int, None] = {}
    for pair in np.argsort(-wrong[first, second], kind="stable"):
        for label in (int(first[pair]), int(second[pair])):
            if len(chosen) < _CONFUSED:
                chosen[label] = None
    return np.array(list(chosen), dtype=np.int64)


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
    counts = _count_predictions(found, len(classes["names"]))
    queries = counts.sum(axis=1)
    accuracy = np.where(queries > 0, np.diagonal(counts) / np.maximum(queries, 1), np.inf)
    shown = []
    for label in np.argsort(accuracy, kind="stable")[:_WORST]:
        wrong = counts[label].copy()
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
