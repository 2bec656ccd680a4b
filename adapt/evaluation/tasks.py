"""What is asked in an evaluation: which examples are seen, and which queries are then told among which classes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from adapt.evaluation.sampling import draw_all, draw_coop, draw_nested
from data.fewshot.labelled import LabelledImages
from data.fewshot.open import Dataset
from data.io.fingerprint import fingerprint

TASKS = {
    "zero_shot": "no examples: the texts of the classes alone, an ensemble of templates and the single one",
    "few_shot": "some examples of each class",
    "linear_probe": "a linear probe on all examples",
    "base_to_new": "examples of the first half of the classes; queries of either half among its own classes",
    "forgetting": "examples of the first half of the classes; queries of either half among all classes",
    "transfer": "examples of another set; queries among the classes of this one",
    "shift": "examples of this set; queries of its classes in another domain",
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One support: `rows` of the support images with their `labels`; `shots` 0 stands for all of them.

    `short` says that some class whose examples are seen had fewer than `shots`.
    """

    shots: int
    seed: int
    rows: np.ndarray
    labels: np.ndarray
    short: bool


@dataclasses.dataclass(frozen=True)
class Question:
    """Queries with `labels`, told among those classes where the mask `classes` `[classes]` is true.

    `pool_rows` are their rows in the images that examples are drawn from too, None where these are others.
    """

    name: str
    images: LabelledImages
    labels: np.ndarray
    classes: np.ndarray
    pool_rows: np.ndarray | None = None

    @property
    def fingerprint(self) -> str:
        """A hash of the images, their labels and the classes to choose from."""
        return fingerprint(self.images.fingerprint, self.labels, self.classes)


@dataclasses.dataclass(frozen=True)
class Task:
    """Cases and questions about the same classes; `cases` draw from `support`."""

    name: str
    dataset: str
    class_names: tuple[str, ...]
    templates: tuple[tuple[str, ...], ...]  # of each class
    support: LabelledImages | None
    cases: tuple[Case, ...]
    questions: tuple[Question, ...]
    metric: str
    notes: tuple[str, ...] = ()


def build_task(
    name: str,
    dataset: Dataset,
    *,
    shots: Sequence[int],
    seeds: int,
    few_examples: str = "cap",
    source: Dataset | None = None,
) -> Task | None:
    """Returns a task of a dataset, or None where the dataset does not allow it.

    Where a class has fewer examples than shots, all it has are taken ("cap"), or that number of shots is left out
    ("skip"). `source` is where the examples of "transfer" come from.
    """
    count = len(dataset.class_names)
    every = np.ones(count, bool)
    templates = (dataset.templates,) * count
    half = np.arange(count) < -(-count // 2)
    images = dataset.support if dataset.query is None else dataset.query
    pooled = dataset.query is None
    pool_rows = np.arange(len(images)) if pooled else None
    asked = Question("", images, images.labels, every, pool_rows)
    common = {"dataset": dataset.name, "metric": dataset.settings.metric}

    def task(questions: Sequence[Question], cases: tuple[tuple[Case, ...], tuple[str, ...]] | None = None) -> Task:
        drawn, notes = cases or ((), ())
        return Task(
            name,
            class_names=dataset.class_names,
            templates=templates,
            support=dataset.support,
            cases=drawn,
            questions=tuple(questions),
            notes=notes,
            **common,
        )

    if name == "zero_shot":
        nothing = Case(0, 0, np.zeros(0, np.int64), np.zeros(0, np.int64), False)
        return task([asked], ((nothing,), ()))
    if name == "transfer":
        return None if source is None else _transfer(dataset, source, asked, shots, seeds, few_examples)
    if dataset.support is None:
        return None
    if name == "linear_probe":
        rows = draw_all(dataset.support.labels).rows
        return None if pooled else task([asked], ((Case(0, 0, rows, dataset.support.labels[rows], False),), ()))
    if name == "few_shot":
        return task([asked], _draw(dataset, every, shots, seeds, few_examples))
    if name == "shift":
        questions = [
            Question(other, found, found.labels, np.isin(np.arange(count), found.labels))
            for other, found in dataset.shifts.items()
        ]
        return task([asked, *questions], _draw(dataset, every, shots, seeds, few_examples)) if questions else None
    if name in ("base_to_new", "forgetting"):
        if name == "base_to_new" and count < 4:
            return None  # a half of one class is always told right
        questions = []
        for part, mask in (("base", half), ("new", ~half)):
            rows = np.flatnonzero(mask[images.labels])
            among = mask if name == "base_to_new" else every
            part_of = images.take(rows, images.labels[rows])
            questions.append(Question(part, part_of, part_of.labels, among, rows if pooled else None))
        return task(questions, _draw(dataset, half, shots, seeds, few_examples))
    raise ValueError(f"unknown task {name!r}; known: {', '.join(TASKS)}, retrieval")


def _draw(
    dataset: Dataset, classes: np.ndarray, shots: Sequence[int], seeds: int, few_examples: str
) -> tuple[tuple[Case, ...], tuple[str, ...]]:
    """Returns the cases, drawn from all classes, of which those of the mask `classes` are kept, and notes."""
    labels, count = dataset.support.labels, len(dataset.class_names)
    coop = dataset.settings.draws == "coop"
    keep = 1 if dataset.query is None and not coop else 0
    fewest = max(0, int(np.bincount(labels, minlength=count)[classes].min()) - keep)
    cases, notes = [], []
    for k in shots:
        if k > fewest:
            every = "take all but one, which leaves few queries at any shots" if keep else "take all that there are"
            how = "draw some twice" if coop else every
            how = "are left out" if few_examples == "skip" else how
            notes.append(f"{dataset.name}: a class has {fewest} examples to draw from; {k} shots {how}")
            if few_examples == "skip":
                continue
        for seed in range(seeds):
            if coop:
                rows = draw_coop(labels, shots=k, seed=seed + 1).rows
            else:
                rows = draw_nested(labels, count, shots=k, seed=seed, keep=keep).rows
            rows = rows[classes[labels[rows]]]
            cases.append(Case(k, seed, rows, labels[rows], k > fewest))
    return tuple(cases), tuple(notes)


def _transfer(
    dataset: Dataset, source: Dataset, asked: Question, shots: Sequence[int], seeds: int, few_examples: str
) -> Task | None:
    """Returns a task whose classes are those of the source, which have the examples, and then those of the dataset."""
    if source.support is None or source.name == dataset.name:
        return None
    before, count = len(source.class_names), len(dataset.class_names)
    cases, notes = _draw(source, np.ones(before, bool), shots, seeds, few_examples)
    classes = np.arange(before + count) >= before
    return Task(
        "transfer",
        dataset=dataset.name,
        class_names=(*source.class_names, *dataset.class_names),
        templates=(source.templates,) * before + (dataset.templates,) * count,
        support=source.support,
        cases=cases,
        questions=(Question(source.name, asked.images, asked.labels + before, classes),),
        metric=dataset.settings.metric,
        notes=notes,
    )


def unseen(task: Task, case: Case, question: Question) -> np.ndarray:
    """Returns which queries count, `[queries]`: in a pool those that no support of the same seed has seen."""
    if question.pool_rows is None:
        return np.ones(len(question.labels), bool)
    seen = [other.rows for other in task.cases if other.seed == case.seed]
    return ~np.isin(question.pool_rows, np.concatenate(seen))
