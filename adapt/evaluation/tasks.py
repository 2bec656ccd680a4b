"""Few-shot tasks: support sets, query sets and candidate classes."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from adapt.choices import TASKS
from adapt.evaluation.sampling import draw_all, draw_coop, draw_nested
from data.fewshot.labelled import LabelledImages
from data.fewshot.open import Dataset
from data.io.fingerprint import fingerprint
from foundation.suggestions import unknown_name

NEED_TEXT = ("zero_shot", "base_to_new", "forgetting", "transfer")  # some classes have no support images


@dataclasses.dataclass(frozen=True, kw_only=True)
class SupportSet:
    """One draw of the support: `rows` of the support images and their `labels`.

    `shots` is 0 where the set is empty and where it holds all support images. `short` is true where a class has fewer
    than `shots` images.
    """

    shots: int
    seed: int
    rows: np.ndarray
    labels: np.ndarray
    short: bool


EMPTY_SUPPORT = SupportSet(shots=0, seed=0, rows=np.zeros(0, np.int64), labels=np.zeros(0, np.int64), short=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuerySet:
    """Query images with their `labels`, classified among the classes where the mask `candidates` `[classes]` is true.

    `pool_rows` are the rows of the queries in the support images where both are drawn from one pool, else None.
    """

    name: str
    images: LabelledImages
    labels: np.ndarray
    candidates: np.ndarray
    pool_rows: np.ndarray | None = None

    @property
    def fingerprint(self) -> str:
        """A hash of the images, their labels and the candidate classes."""
        return fingerprint(self.images.fingerprint, self.labels, self.candidates)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationTask:
    """Support sets, drawn from `support_images`, and query sets over the same classes.

    `templates` are those of each class, `[classes][templates]`. `notes` are sentences for the log about classes with
    too few images.
    """

    name: str
    dataset: str
    class_names: tuple[str, ...]
    templates: tuple[tuple[str, ...], ...]
    support_images: LabelledImages | None
    support_sets: tuple[SupportSet, ...]
    query_sets: tuple[QuerySet, ...]
    metric: str
    notes: tuple[str, ...] = ()


class _Draws(NamedTuple):
    support_sets: tuple[SupportSet, ...]
    notes: tuple[str, ...] = ()


def build_task(
    name: str,
    dataset: Dataset,
    *,
    shots: Sequence[int],
    seeds: int,
    few_examples: str = "cap",
    source: Dataset | None = None,
) -> EvaluationTask | None:
    """Return a task of a dataset, or None where the dataset does not support it.

    Where a class has fewer images than shots, all of them are used (`few_examples="cap"`), or that number of shots is
    skipped (`few_examples="skip"`). `source` is the dataset of the support images of "transfer".

    Raises `ValueError` for an unknown task.
    """
    if name not in TASKS:
        raise ValueError(unknown_name("task", name, [*TASKS, "retrieval"]))
    draw = functools.partial(_draw_support_sets, shots=shots, seeds=seeds, few_examples=few_examples)
    if name == "zero_shot":
        return _task(name, dataset, query_sets=[_all_queries(dataset)], draws=_Draws((EMPTY_SUPPORT,)))
    if name == "transfer":
        return None if source is None else _transfer_task(dataset, source, draw=draw)
    if dataset.support is None:
        return None
    if name == "linear_probe":
        return _linear_probe_task(dataset)
    if name == "shift":
        return _shift_task(dataset, draw=draw)
    if name in ("base_to_new", "forgetting"):
        return _halves_task(name, dataset, draw=draw)
    return _task(name, dataset, query_sets=[_all_queries(dataset)], draws=draw(dataset, _all_classes(dataset)))


def counted_queries(task: EvaluationTask, support_set: SupportSet, query_set: QuerySet) -> np.ndarray:
    """Return the mask of the queries that count, `[queries]`.

    All of them where support and queries are different images. In a pool, those that no support set of the same seed
    contains, so that every number of shots is evaluated on the same queries.
    """
    if query_set.pool_rows is None:
        return np.ones(len(query_set.labels), bool)
    drawn = [other.rows for other in task.support_sets if other.seed == support_set.seed]
    return ~np.isin(query_set.pool_rows, np.concatenate(drawn))


def _task(name: str, dataset: Dataset, *, query_sets: Sequence[QuerySet], draws: _Draws) -> EvaluationTask:
    """Return a task whose classes, templates and support images are those of the dataset."""
    return EvaluationTask(
        name=name,
        dataset=dataset.name,
        class_names=dataset.class_names,
        templates=(dataset.templates,) * len(dataset.class_names),
        support_images=dataset.support,
        support_sets=draws.support_sets,
        query_sets=tuple(query_sets),
        metric=dataset.settings.metric,
        notes=draws.notes,
    )


def _linear_probe_task(dataset: Dataset) -> EvaluationTask | None:
    if dataset.query is None:
        return None
    rows = draw_all(dataset.support.labels).rows
    everything = SupportSet(shots=0, seed=0, rows=rows, labels=dataset.support.labels[rows], short=False)
    return _task("linear_probe", dataset, query_sets=[_all_queries(dataset)], draws=_Draws((everything,)))


def _shift_task(dataset: Dataset, *, draw: Callable[..., _Draws]) -> EvaluationTask | None:
    """Return a task with a query set per shifted domain, each classified among the classes that occur in it."""
    if not dataset.shifts:
        return None
    numbers = np.arange(len(dataset.class_names))
    shifted = [
        QuerySet(name=domain, images=images, labels=images.labels, candidates=np.isin(numbers, images.labels))
        for domain, images in dataset.shifts.items()
    ]
    draws = draw(dataset, _all_classes(dataset))
    return _task("shift", dataset, query_sets=[_all_queries(dataset), *shifted], draws=draws)


def _halves_task(name: str, dataset: Dataset, *, draw: Callable[..., _Draws]) -> EvaluationTask | None:
    """Return a task with support images of the first half of the classes and a query set per half."""
    count = len(dataset.class_names)
    if name == "base_to_new" and count < 4:
        return None  # among one class every prediction is right
    base = np.arange(count) < -(-count // 2)
    everything = _all_queries(dataset)
    query_sets = []
    for half, mask in (("base", base), ("new", ~base)):
        rows = np.flatnonzero(mask[everything.labels])
        images = everything.images.take(rows, everything.labels[rows])
        query_sets.append(
            QuerySet(
                name=half,
                images=images,
                labels=images.labels,
                candidates=mask if name == "base_to_new" else _all_classes(dataset),
                pool_rows=rows if dataset.query is None else None,
            )
        )
    return _task(name, dataset, query_sets=query_sets, draws=draw(dataset, base))


def _transfer_task(dataset: Dataset, source: Dataset, *, draw: Callable[..., _Draws]) -> EvaluationTask | None:
    """Return a task over the classes of the source, which have support images, followed by those of the dataset."""
    if source.support is None or source.name == dataset.name:
        return None
    before, count = len(source.class_names), len(dataset.class_names)
    images = _all_queries(dataset).images
    draws = draw(source, _all_classes(source))
    query_set = QuerySet(
        name=source.name,
        images=images,
        labels=images.labels + before,
        candidates=np.arange(before + count) >= before,
    )
    return EvaluationTask(
        name="transfer",
        dataset=dataset.name,
        class_names=(*source.class_names, *dataset.class_names),
        templates=(source.templates,) * before + (dataset.templates,) * count,
        support_images=source.support,
        support_sets=draws.support_sets,
        query_sets=(query_set,),
        metric=dataset.settings.metric,
        notes=draws.notes,
    )


def _all_classes(dataset: Dataset) -> np.ndarray:
    return np.ones(len(dataset.class_names), bool)


def _all_queries(dataset: Dataset) -> QuerySet:
    """Return the query split of a dataset, or its pool, with all classes as candidates."""
    images = dataset.support if dataset.query is None else dataset.query
    pool_rows = np.arange(len(images)) if dataset.query is None else None
    return QuerySet(name="", images=images, labels=images.labels, candidates=_all_classes(dataset), pool_rows=pool_rows)


def _draw_support_sets(
    dataset: Dataset, classes: np.ndarray, *, shots: Sequence[int], seeds: int, few_examples: str
) -> _Draws:
    """Return the support sets of every number of shots and seed, restricted to the mask `classes`, and notes.

    Images are drawn from all classes before the restriction: the images of a class do not depend on the mask.
    """
    labels, count = dataset.support.labels, len(dataset.class_names)
    coop = dataset.settings.draws == "coop"
    keep = 1 if dataset.query is None and not coop else 0
    fewest = max(0, int(np.bincount(labels, minlength=count)[classes].min()) - keep)
    support_sets, notes = [], []
    for k in shots:
        if k > fewest:
            notes.append(f"{dataset.name}: {_shortage(fewest, k, coop=coop, keep=keep, few_examples=few_examples)}")
            if few_examples == "skip":
                continue
        for seed in range(seeds):
            if coop:
                rows = draw_coop(labels, shots=k, seed=seed + 1).rows
            else:
                rows = draw_nested(labels, count, shots=k, seed=seed, keep=keep).rows
            rows = rows[classes[labels[rows]]]
            support_sets.append(SupportSet(shots=k, seed=seed, rows=rows, labels=labels[rows], short=k > fewest))
    return _Draws(tuple(support_sets), tuple(notes))


def _shortage(fewest: int, shots: int, *, coop: bool, keep: int, few_examples: str) -> str:
    """Return a sentence on a class with fewer images than shots and what is done about it."""
    kept = ", besides one kept as a query" if keep else ""
    if few_examples == "skip":
        consequence = f"{shots} shots are skipped"
    elif coop:
        consequence = f"{shots} shots repeat some of them"
    elif keep:
        consequence = f"{shots} shots use all of them, which leaves few queries at every number of shots"
    else:
        consequence = f"{shots} shots use all of them"
    return f"the smallest class has {fewest} images to draw from{kept}; {consequence}"
