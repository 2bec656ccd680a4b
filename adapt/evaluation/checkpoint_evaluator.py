"""The evaluation of one checkpoint, unit by unit."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import importlib.metadata
import json
import logging
import os
import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from adapt.adapters.base import settings_of
from adapt.embedding.cache import Hosts, Progress, save_array
from adapt.embedding.encoder import Encoder
from adapt.evaluation.artifacts import write_classes, write_distances
from adapt.evaluation.config import EvaluateSettings
from adapt.evaluation.features import Features, TaskFeatures
from adapt.evaluation.fewshot import run_grid
from adapt.evaluation.results import PREDICTIONS, Unit, note_cost
from adapt.evaluation.retrieval import EXAMPLES, Captioned
from adapt.evaluation.tasks import Case, Task, build_task, unseen
from adapt.model_selection.hyperparameters import DEFAULTS, Grid
from data.fewshot.open import Dataset
from data.io.fingerprint import fingerprint
from foundation.atomic import write_text

logger = logging.getLogger(__name__)

_THREADS = 2
_NEVER_SEEN = -1  # what is predicted for a query that a case must not be asked


class Job:
    """The evaluation of one checkpoint, opened."""

    def __init__(
        self,
        name: str,
        path: str | os.PathLike,
        settings: EvaluateSettings,
        out: pathlib.Path,
        cache: pathlib.Path,
        hosts: Hosts | None,
        progress: Progress,
        said: set[str],
    ):
        self.name, self.path, self.settings, self.out, self.cache = name, os.fspath(path), settings, out, cache
        self.hosts, self.progress, self.said = hosts, progress, said
        self.encoder = Encoder(path)
        self.features = TaskFeatures(self.encoder, cache, name=name, hosts=hosts, progress=progress)

    def dataset(self, dataset: Dataset, source: Dataset | None, *, work: bool) -> list[Unit]:
        """Does the units of a dataset that are not done, if they are this job's work; returns all of them."""
        units = []
        for task in self.tasks(dataset, source):
            own = {method: self._unit(task, dataset, method) for method in self._methods(task)}
            units += own.values()
            left = [method for method, unit in own.items() if work and unit.read(self.out) is None]
            if left:
                self._do_all({method: own[method] for method in left}, task, dataset)
        return units

    def tasks(self, dataset: Dataset, source: Dataset | None) -> Iterator[Task]:
        """Yields the tasks that a dataset has; says which it has not."""
        self.features.forget()
        for name in self.settings.tasks:
            task = build_task(
                name,
                dataset,
                shots=self.settings.shots,
                seeds=self.settings.seeds,
                few_examples=self.settings.few_examples,
                source=source,
            )
            if task is None:
                self._say_once(f"note: {dataset.name} has no task {name}")
                continue
            for note in task.notes:
                self._say_once(f"note: {note}")
            if not task.cases:
                self._say_once(f"note: {dataset.name} has too few examples for task {name}")
                continue
            yield task

    def _do_all(self, units: Mapping[str, Unit], task: Task, dataset: Dataset) -> None:
        """Does units of a task: embeds once for all, then two methods at a time on CPUs, which compile on one core."""
        began = time.monotonic()
        features = self.features.of(task, dataset)
        seconds = round(time.monotonic() - began, 3)
        note_cost(
            self.out, checkpoint=self.name, dataset=task.dataset, task=task.name, what="embedding", seconds=seconds
        )
        workers = _THREADS if jax.default_backend() == "cpu" else 1
        with concurrent.futures.ThreadPoolExecutor(workers) as threads:
            for text in threads.map(lambda method: self._do(units[method], task, dataset, method, features), units):
                logger.info(text)

    def retrieval(self, captioned: Captioned, *, work: bool) -> Unit:
        """Does the retrieval of a source, if it is this job's work and not done; returns its unit."""
        depends = (self.encoder.fingerprint, captioned.fingerprint, captioned.caption)
        unit = Unit.of(self.name, captioned.name, "retrieval", depends=depends)
        if work and unit.read(self.out) is None:
            rows, examples = captioned.run(self.encoder, self.cache, self.hosts, self.progress)
            write_text(self.out / EXAMPLES / f"{unit.key}.json", json.dumps(examples, ensure_ascii=False))
            unit.write(self.out, [row | self._context() | {"examples": unit.key} for row in rows])
            logger.info(
                f"{captioned.name}: "
                + ", ".join(f"{row['metric']} {row['value']:.1%}" for row in rows if row["k"] == 10)
            )
        return unit

    def _methods(self, task: Task) -> Sequence[str]:
        if task.name == "zero_shot":
            return ("zero_shot",)
        return ("linear_probe",) if task.name == "linear_probe" else self.settings.methods

    def _unit(self, task: Task, dataset: Dataset, method: str) -> Unit:
        support = "" if task.support is None else task.support.fingerprint
        cases = [f"{case.shots} {case.seed} {fingerprint(case.rows, case.labels)}" for case in task.cases]
        depends = (self.encoder.fingerprint, support, *(question.fingerprint for question in task.questions), *cases)
        depends += (*_settings_of(method), *task.class_names, repr(task.templates), dataset.settings.template)
        depends += (task.metric, repr(self.settings.logit_scale), repr(self.settings.transfer_from))
        return Unit.of(self.name, task.dataset, task.name, method, depends=depends)

    def _do(self, unit: Unit, task: Task, dataset: Dataset, method: str, features: Features) -> str:
        """Does a unit; returns a line that tells of it."""
        began = time.monotonic()
        support, queries = features.support, features.queries
        labels = np.concatenate([question.labels for question in task.questions])
        sizes = [len(question.labels) for question in task.questions]
        cases = _baselines(task) if method == "zero_shot" else task.cases
        groups = np.repeat(np.arange(len(sizes)), sizes)
        masks = np.stack([question.classes for question in task.questions])
        rows: list[dict[str, Any]] = []
        predictions = []
        for variant, texts in features.texts.items():
            outcome = run_grid(
                method,
                [support[case.rows] for case in cases],
                [case.labels for case in cases],
                texts,
                queries,
                groups,
                masks,
                logit_scale=self.settings.logit_scale,
            )
            for case, chosen, found in zip(cases, outcome.chosen, outcome.predictions, strict=True):
                row = self._row(task, method, case) | {"settings": dict(Grid(method).settings[int(chosen)])}
                if task.name == "zero_shot":
                    row["settings"] = {
                        "templates": variant,
                        "texts": len(task.templates[0]) if variant == "ensemble" else 1,
                    }
                for question, start in zip(task.questions, np.cumsum([0, *sizes]), strict=False):
                    span = slice(int(start), int(start) + len(question.labels))
                    found[span][~unseen(task, case, question)] = _NEVER_SEEN
                    rows.append(
                        row
                        | {"question": question.name}
                        | _score(found[span], labels[span], question.classes, task.metric)
                        | {"case": len(predictions), "span": [span.start, span.stop]}
                    )
                predictions.append(found)
        files = {"predictions": unit.predictions_path(self.out).name, "labels": f"labels-{fingerprint(labels)}.npy"}
        save_array(self.out / PREDICTIONS / files["labels"], labels.astype(np.int32))
        if task.name == "few_shot":
            files |= self._evidence(task, support, queries)
        context = self._context() | files | {"dataset_fingerprint": dataset.fingerprint}
        unit.write(self.out, [row | context for row in rows], np.stack(predictions))
        note_cost(
            self.out,
            checkpoint=self.name,
            dataset=task.dataset,
            task=task.name,
            what=method,
            seconds=round(time.monotonic() - began, 3),
            cases=len(cases),
            queries=len(labels),
        )
        return self._told(task, method, rows)

    def _evidence(self, task: Task, support: np.ndarray, queries: np.ndarray) -> dict[str, Any]:
        """Writes what goes with the cases of the most shots; returns the names of the files."""
        most = max(case.shots for case in task.cases)
        cases = [case for case in task.cases if case.shots == most]
        parts = [fingerprint(case.rows) for case in cases]
        key = fingerprint(
            self.encoder.image_fingerprint, task.support.fingerprint, task.questions[0].fingerprint, *parts
        )
        distances = write_distances(self.out, key, [support[case.rows] for case in cases], queries)
        return {"distances": distances, "classes_file": write_classes(self.out, task.class_names, task.support)}

    def _row(self, task: Task, method: str, case: Case) -> dict[str, Any]:
        shots = 0 if method == "zero_shot" else case.shots
        options = Grid(method)
        repeated = len(np.unique(case.labels)) < len(case.labels)
        selection = options.selected_by if repeated else DEFAULTS
        if method == "zero_shot" or len(options.settings) == 1:
            selection = "none"
        keys = "" if task.support is None else "\n".join(map(task.support.key, case.rows))
        return {
            "task": task.name,
            "dataset": task.dataset,
            "method": method,
            "shots": "all" if task.name == "linear_probe" else shots,
            "seed": case.seed,
            "metric": task.metric,
            "k": None,
            "selection": selection,
            "short": case.short and method != "zero_shot",
            "examples_drawn": 0 if method == "zero_shot" else len(case.rows),
            "support": None if method == "zero_shot" else fingerprint(keys),
            "logit_scale": self.settings.logit_scale,
        }

    def _context(self) -> dict[str, Any]:
        return {
            "checkpoint": self.name,
            "checkpoint_path": self.path,
            "checkpoint_fingerprint": self.encoder.fingerprint,
            "dtype": self.encoder.settings.dtype,
            "platform": jax.default_backend(),
            "jax": importlib.metadata.version("jax"),
        }

    def _told(self, task: Task, method: str, rows: Sequence[Mapping[str, Any]]) -> str:
        most = rows[-1]["shots"]
        parts = []
        for question in task.questions:
            values = [row["value"] for row in rows if row["shots"] == most and row["question"] == question.name]
            parts.append(f"{question.name} {np.mean(values):.1%}".strip())
        at = f" at {most} shots" if most else ""
        return f"{self.name}, {task.dataset}, {task.name}: {method} {', '.join(parts)}{at}"

    def _say_once(self, text: str) -> None:
        if text not in self.said:
            self.said.add(text)
            logger.info(text)


def _settings_of(method: str) -> tuple[str, ...]:
    """Returns all that a method's choice depends on: every setting that is tried, defaults included, and how."""
    options = Grid(method)
    return (options.selected_by, *(repr(settings_of(adapter)) for adapter in options.adapters))


def _baselines(task: Task) -> tuple[Case, ...]:
    """Returns the cases of zero-shot: one a seed in a pool, where the queries differ by seed, else one."""
    pooled = any(question.pool_rows is not None for question in task.questions)
    first: dict[int, Case] = {}
    for case in task.cases:  # in the order of the seeds, as at every number of shots
        first.setdefault(case.seed if pooled else 0, case)
    return tuple(dataclasses.replace(case, rows=case.rows[:0], labels=case.labels[:0]) for case in first.values())


def _score(predictions: np.ndarray, labels: np.ndarray, classes: np.ndarray, metric: str) -> dict[str, Any]:
    """Returns the share of right predictions of the queries that count, or the mean of those of the classes."""
    counted = predictions != _NEVER_SEEN
    right, labels = (predictions == labels)[counted], labels[counted]
    if not len(right):
        raise ValueError("no query is left to be asked; draw fewer shots, or give the dataset a query split")
    asked = np.bincount(labels, minlength=len(classes))
    per_class = np.bincount(labels, right, minlength=len(classes))[asked > 0] / asked[asked > 0]
    value = float(right.mean()) if metric == "accuracy" else float(per_class.mean())
    return {
        "value": value,
        "queries": len(right),
        "classes": int(classes.sum()),
        "classes_asked": int((asked > 0).sum()),
    }
