"""Few-shot tasks: support sets, query sets and candidate classes."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np

from adapt.choices import TASKS
from adapt.evaluation.protocols.open_set import KNOWN, UNKNOWN
from adapt.evaluation.protocols.support_protocol import STANDARD, SupportProtocol
from adapt.evaluation.protocols.support_sets import (
    EMPTY_SUPPORT,
    SupportDraws,
    SupportSet,
    draw_support_sets,
    support_set_of,
)
from adapt.evaluation.sampling import draw_all
from data.fewshot.labelled import LabelledImages
from data.fewshot.open import Dataset
from data.io.fingerprint import fingerprint
from foundation.suggestions import unknown_name

NEED_TEXT = ("zero_shot", "base_to_new", "forgetting", "transfer")  # some classes have no support images


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
    too few images. `protocol` is that of the support sets.
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
    protocol: SupportProtocol = STANDARD


def build_task(
    name: str,
    dataset: Dataset,
    *,
    shots: Sequence[int],
    seeds: int,
    few_examples: str = "cap",
    source: Dataset | None = None,
    protocol: SupportProtocol = STANDARD,
) -> EvaluationTask | None:
    """Return a task of a dataset, or None where the dataset does not support it.

    Where a class has fewer images than shots, all of them are used (`few_examples="cap"`), or that number of shots is
    skipped (`few_examples="skip"`). `source` is the dataset of the support images of "transfer". `protocol` is that of
    the support sets.

    Raises `ValueError` for an unknown task.
    """
    if name not in TASKS:
        raise ValueError(unknown_name("task", name, [*TASKS, "retrieval"]))
    if name == "zero_shot":
        return _task(name, dataset, query_sets=[_all_queries(dataset)], draws=SupportDraws((EMPTY_SUPPORT,)))
    draw = functools.partial(draw_support_sets, shots=shots, seeds=seeds, few_examples=few_examples, protocol=protocol)
    task = _drawn_task(name, dataset, source, draw=draw, label_noise=protocol.label_noise)
    return None if task is None else dataclasses.replace(task, protocol=protocol)


def _drawn_task(
    name: str, dataset: Dataset, source: Dataset | None, *, draw: Callable[..., SupportDraws], label_noise: float
) -> EvaluationTask | None:
    """Return a task with support images, or None where the dataset does not support it."""
    if name == "transfer":
        return None if source is None else _transfer_task(dataset, source, draw=draw)
    if dataset.support is None:
        return None
    if name == "linear_probe":
        return _linear_probe_task(dataset, label_noise=label_noise)
    if name == "open_set":
        return _open_set_task(dataset, draw=draw)
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


def _task(name: str, dataset: Dataset, *, query_sets: Sequence[QuerySet], draws: SupportDraws) -> EvaluationTask:
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


def _linear_probe_task(dataset: Dataset, *, label_noise: float) -> EvaluationTask | None:
    if dataset.query is None:
        return None
    drawn = draw_all(dataset.support.labels)
    options = {"shots": 0, "seed": 0, "label_noise": label_noise}
    everything = support_set_of(drawn, dataset.support.labels, **options)
    return _task("linear_probe", dataset, query_sets=[_all_queries(dataset)], draws=SupportDraws((everything,)))


def _shift_task(dataset: Dataset, *, draw: Callable[..., SupportDraws]) -> EvaluationTask | None:
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


def _halves_task(name: str, dataset: Dataset, *, draw: Callable[..., SupportDraws]) -> EvaluationTask | None:
    """Return a task with support images of the first half of the classes and a query set per half."""
    count = len(dataset.class_names)
    if name == "base_to_new" and count < 4:
        return None  # among one class every prediction is right
    base = np.arange(count) < -(-count // 2)
    halves = _split_queries(dataset, base)
    if halves is None:
        return None
    query_sets = [
        dataclasses.replace(each, name=half, candidates=mask if name == "base_to_new" else each.candidates)
        for half, mask, each in zip(("base", "new"), (base, ~base), halves, strict=True)
    ]
    return _task(name, dataset, query_sets=query_sets, draws=draw(dataset, base))


def _open_set_task(dataset: Dataset, *, draw: Callable[..., SupportDraws]) -> EvaluationTask | None:
    """Return a task over the first half of the classes, with queries of these and of the other, unknown classes.

    The labels of unknown queries are the numbers of their classes in the dataset, from the number of known classes.
    """
    count = len(dataset.class_names)
    if count < 4:
        return None  # among one class every prediction is right
    number = -(-count // 2)
    known = np.arange(count) < number
    halves = _split_queries(dataset, known)
    if halves is None:
        return None
    query_sets = [
        dataclasses.replace(each, name=half, candidates=each.candidates[:number])
        for half, each in zip((KNOWN, UNKNOWN), halves, strict=True)
    ]
    task = _task("open_set", dataset, query_sets=query_sets, draws=draw(dataset, known))
    return dataclasses.replace(task, class_names=task.class_names[:number], templates=task.templates[:number])


def _transfer_task(dataset: Dataset, source: Dataset, *, draw: Callable[..., SupportDraws]) -> EvaluationTask | None:
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


def _split_queries(dataset: Dataset, first: np.ndarray) -> list[QuerySet] | None:
    """Return the queries of the classes in the mask `first` and those of the other classes; None if either has none."""
    everything = _all_queries(dataset)
    halves = []
    for mask in (first, ~first):
        rows = np.flatnonzero(mask[everything.labels])
        if not len(rows):
            return None
        images = everything.images.take(rows, everything.labels[rows])
        pool_rows = rows if dataset.query is None else None
        halves.append(dataclasses.replace(everything, images=images, labels=images.labels, pool_rows=pool_rows))
    return halves


def _all_classes(dataset: Dataset) -> np.ndarray:
    return np.ones(len(dataset.class_names), bool)


def _all_queries(dataset: Dataset) -> QuerySet:
    """Return the query split of a dataset, or its pool, with all classes as candidates."""
    images = dataset.support if dataset.query is None else dataset.query
    pool_rows = np.arange(len(images)) if dataset.query is None else None
    return QuerySet(name="", images=images, labels=images.labels, candidates=_all_classes(dataset), pool_rows=pool_rows)
