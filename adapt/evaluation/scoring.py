"""Accuracy of predictions on the query sets of a task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from adapt.evaluation.tasks import QuerySet

EXCLUDED = -1  # stored as the prediction of a query that does not count, because a support set contains it


class StackedQueries(NamedTuple):
    """The query sets of a task, one after the other.

    `labels` `[queries]`; `groups` `[queries]` is the number of each query's set, `candidates` `[sets, classes]` are
    the masks of their candidate classes and `spans` their places among the queries.
    """

    labels: np.ndarray
    groups: np.ndarray
    candidates: np.ndarray
    spans: list[slice]


def stack_queries(query_sets: Sequence[QuerySet]) -> StackedQueries:
    """Return the query sets as one."""
    sizes = [len(each.labels) for each in query_sets]
    ends = np.cumsum(sizes).tolist()
    return StackedQueries(
        labels=np.concatenate([each.labels for each in query_sets]),
        groups=np.repeat(np.arange(len(sizes)), sizes),
        candidates=np.stack([each.candidates for each in query_sets]),
        spans=[slice(end - size, end) for size, end in zip(sizes, ends, strict=True)],
    )


def score(predictions: np.ndarray, labels: np.ndarray, *, candidates: np.ndarray, metric: str) -> dict[str, Any]:
    """Return the accuracy on the queries that count, or its mean over the classes that occur, with their numbers.

    Raises `ValueError` where no query counts.
    """
    counted = predictions != EXCLUDED
    right, labels = (predictions == labels)[counted], labels[counted]
    if not len(right):
        raise ValueError(
            "no query is left, because the support sets contain all images. Lower evaluate.shots, or give the dataset "
            "a query split."
        )
    asked = np.bincount(labels, minlength=len(candidates))
    per_class = np.bincount(labels, right, minlength=len(candidates))[asked > 0] / asked[asked > 0]
    value = float(right.mean()) if metric == "accuracy" else float(per_class.mean())
    return {
        "value": value,
        "mean_per_class_accuracy": float(per_class.mean()),
        "query_error": query_error(
            right=np.bincount(labels, right, minlength=len(candidates)), asked=asked, by_class=metric != "accuracy"
        ),
        "queries": len(right),
        "classes": int(candidates.sum()),
        "classes_asked": int((asked > 0).sum()),
    }


def query_error(*, right: np.ndarray, asked: np.ndarray, by_class: bool) -> float:
    """Return the standard error of an accuracy that is due to the finite number of queries.

    `right` and `asked` `[classes]` count the right answers and the queries of each class. The binomial error
    √(p (1 − p) / (n + 4)) is estimated with two right and two wrong answers added, p = (right + 2) / (n + 4), so that
    it is not zero where all answers are right (Agresti and Coull, The American Statistician 52, 1998). With `by_class`,
    it is that of the mean over classes, √(Σ e²) / classes.
    """
    occurring = asked > 0
    if not by_class:
        right, asked, occurring = right.sum(keepdims=True), asked.sum(keepdims=True), np.array([True])
    share = (right[occurring] + 2) / (asked[occurring] + 4)
    return float(np.sqrt((share * (1 - share) / (asked[occurring] + 4)).sum()) / occurring.sum())
