"""Few-shot evaluation of checkpoints: every dataset × task × method × shots × draw, and retrieval.

Work is done in units, one checkpoint, dataset, task and method each. A unit whose file is there is not done again, so
that a job that was stopped goes on, and jobs that share a folder share the work.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

import adapt
from adapt.embeddings import Hosts, Progress, save_array
from adapt.encoder import Encoder
from adapt.files import write_text
from adapt.grid import run_grid
from adapt.inputs import Inputs, open_inputs
from adapt.registry import find
from adapt.results import PREDICTIONS, Unit, merge, note_cost
from adapt.retrieval_task import EXAMPLES, evaluate_retrieval
from adapt.selection import DEFAULTS, Grid
from adapt.task_features import TaskFeatures
from adapt.tasks import TASKS, Case, Task, build_task, unseen
from data.datasets import Dataset
from data.fingerprint import fingerprint
from data.labelled import DatasetSettings

CAPTIONS = ("first", "all", "each")
_NEVER_SEEN = -1  # what is predicted for a query that a case must not be asked


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    """What is evaluated and how.

    `datasets` are names that `data.datasets.open_dataset` opens, `own` the settings of those that a config describes by
    name, `retrieval` names of `data.sources`; classes with fewer than `min_examples` are left out. `tasks` are those of
    `adapt.tasks.TASKS`. Settings of the `methods`, by default all that need no training, are selected on the support
    alone (`adapt.select`); at one shot, where that is impossible, the defaults are used. All text logits are scaled by
    `logit_scale`, whatever a checkpoint has learned, so that checkpoints compare. A class with fewer examples than
    shots gives all it has (`few_examples` "cap"), or the number of shots is left out ("skip"). `transfer_from` is the
    dataset whose examples the task transfer sees. `caption` says what describes an image in retrieval: its `first`
    text, `all` of them joined, or `each` on its own.
    """

    datasets: tuple[str, ...] = ()
    own: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    tasks: tuple[str, ...] = ("zero_shot", "few_shot")
    retrieval: tuple[str, ...] = ()
    caption: str = "each"
    shots: tuple[int, ...] = (1, 2, 4, 8, 16)
    seeds: int = 5
    methods: tuple[str, ...] = adapt.TRAINING_FREE
    min_examples: int = 0
    few_examples: str = "cap"
    transfer_from: str = ""
    logit_scale: float = 100.0

    def __post_init__(self) -> None:
        if not self.datasets and not self.retrieval:
            raise ValueError("there is nothing to evaluate; name evaluate.datasets, evaluate.retrieval or both")
        for method in self.methods:
            find(method)
        for task in self.tasks:
            if task not in TASKS:
                raise ValueError(f"unknown task {task!r} in evaluate.tasks; known: {', '.join(TASKS)}")
        if "transfer" in self.tasks and not self.transfer_from:
            raise ValueError(
                "evaluate.tasks has transfer; name the dataset with the examples in evaluate.transfer_from"
            )
        if self.caption not in CAPTIONS:
            raise ValueError(f"unknown evaluate.caption {self.caption!r}; known: {', '.join(CAPTIONS)}")
        if self.few_examples not in ("cap", "skip"):
            raise ValueError(f"unknown evaluate.few_examples {self.few_examples!r}; known: cap, skip")
        if not self.shots or min(self.shots) < 1 or self.seeds < 1:
            raise ValueError(f"evaluate.shots {self.shots} and evaluate.seeds {self.seeds} must be positive")
        if not 0 < self.logit_scale < float("inf") or len(set(self.shots)) < len(self.shots):
            raise ValueError(
                f"evaluate.logit_scale {self.logit_scale} must be positive, evaluate.shots {self.shots} without repeats"
            )
        if len({*self.datasets}) < len(self.datasets):
            raise ValueError(f"evaluate.datasets {self.datasets} names a set twice")
        object.__setattr__(self, "own", _own(self.own))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Share:
    """One of `count` equal parts of the datasets, `index` from 0, as a job of an array takes it."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ValueError(f"share {self.index}/{self.count} is none; write i/n with i from 0 to n − 1")


def evaluate(
    checkpoints: Mapping[str, str | os.PathLike],
    settings: EvaluateSettings,
    *,
    out: str | os.PathLike,
    data_dir: str | os.PathLike,
    cache: str | os.PathLike | None = None,
    share: Share = Share(),
    inputs: Inputs | None = None,
    hosts: Hosts | None = None,
    progress: Progress = lambda name, done, total: None,
    say: Callable[[str], None] = print,
) -> list[dict[str, Any]]:
    """Evaluates checkpoints, each under a name; returns the rows, and writes them to `out/results.jsonl`.

    Datasets and retrieval sets are opened before any work, so that what is missing is told first, unless they are given
    as `inputs`. Embeddings are made by `hosts`, by default all, and kept in `cache`, by default `out/embeddings`, under
    the content of checkpoint and data. With a `share` only its part of the datasets is evaluated; whichever job ends
    last writes `results.jsonl`, and the others return the rows there are.
    """
    out = pathlib.Path(out)
    cache = out / "embeddings" if cache is None else pathlib.Path(cache)
    datasets, source = inputs or open_inputs(settings, data_dir, say)
    units: list[Unit] = []
    said: set[str] = set()
    for checkpoint, path in checkpoints.items():
        job = _Job(checkpoint, path, settings, out, cache, hosts, progress, say, said)
        for number, dataset in enumerate(datasets.values()):
            mine = number % share.count == share.index
            units += job.dataset(dataset, source, work=mine)
        for number, name in enumerate(settings.retrieval):
            mine = (len(datasets) + number) % share.count == share.index
            units.append(job.retrieval(name, data_dir, work=mine))
    rows, missing = merge(out, units)
    if missing:
        say(
            f"{missing} of {len(units)} units are the work of other shares; the job that ends last writes results.jsonl"
        )
    return rows


def embed(
    checkpoint: str | os.PathLike,
    settings: EvaluateSettings,
    inputs: Inputs,
    *,
    data_dir: str | os.PathLike,
    cache: str | os.PathLike,
    hosts: Hosts | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Puts into `cache` all that `evaluate` needs of a checkpoint's towers, after which it computes on its own."""
    cache = pathlib.Path(cache)
    job = _Job("", checkpoint, settings, cache, cache, hosts, lambda name, done, total: None, say, set())
    for dataset in inputs.datasets.values():
        for task in job.tasks(dataset, inputs.source):
            job.features.of(task, dataset)
    for name in settings.retrieval:
        evaluate_retrieval(job.encoder, name, settings.caption, data_dir).embed(cache, job.hosts, job.progress)


def _own(own: Mapping[str, Any]) -> dict[str, DatasetSettings]:
    from models.settings import build

    return {
        name: each if isinstance(each, DatasetSettings) else build(DatasetSettings, f"evaluate.own.{name}", each)
        for name, each in own.items()
    }


class _Job:
    """The evaluation of one checkpoint."""

    def __init__(
        self,
        name: str,
        path: str | os.PathLike,
        settings: EvaluateSettings,
        out: pathlib.Path,
        cache: pathlib.Path,
        hosts: Hosts | None,
        progress: Progress,
        say: Callable[[str], None],
        said: set[str],
    ):
        self.name, self.path, self.settings, self.out, self.cache = name, os.fspath(path), settings, out, cache
        self.hosts, self.progress, self.say, self.said = hosts, progress, say, said
        self.encoder = Encoder(path, say=say)
        self.features = TaskFeatures(self.encoder, cache, name=name, hosts=hosts, progress=progress)

    def dataset(self, dataset: Dataset, source: Dataset | None, *, work: bool) -> list[Unit]:
        """Does the units of a dataset that are not done, if they are this job's work; returns all of them."""
        units = []
        for task in self.tasks(dataset, source):
            for method in self._methods(task):
                unit = self._unit(task, dataset, method)
                units.append(unit)
                if work and unit.read(self.out) is None:
                    self._do(unit, task, dataset, method)
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
            yield task

    def retrieval(self, name: str, data_dir: str | os.PathLike, *, work: bool) -> Unit:
        """Does the retrieval of a source, if it is this job's work and not done; returns its unit."""
        found = evaluate_retrieval(self.encoder, name, self.settings.caption, data_dir)
        unit = Unit.of(self.name, found.name, "retrieval", depends=(self.encoder.fingerprint, found.fingerprint))
        if work and unit.read(self.out) is None:
            rows, examples = found.run(self.cache, self.hosts, self.progress)
            write_text(self.out / EXAMPLES / f"{unit.key}.json", json.dumps(examples, ensure_ascii=False))
            unit.write(self.out, [row | self._context() | {"examples": unit.key} for row in rows])
            self.say(f"{name}: " + ", ".join(f"{row['metric']} {row['value']:.1%}" for row in rows if row["k"] == 10))
        return unit

    def _methods(self, task: Task) -> Sequence[str]:
        if task.name == "zero_shot":
            return ("zero_shot",)
        return ("linear_probe",) if task.name == "linear_probe" else self.settings.methods

    def _unit(self, task: Task, dataset: Dataset, method: str) -> Unit:
        support = "" if task.support is None else task.support.fingerprint
        cases = [f"{case.shots} {case.seed} {fingerprint(case.rows, case.labels)}" for case in task.cases]
        depends = (self.encoder.fingerprint, support, *(question.fingerprint for question in task.questions), *cases)
        depends += (repr(Grid(method).settings), *task.class_names, repr(task.templates), dataset.settings.template)
        depends += (task.metric, repr(self.settings.logit_scale), repr(self.settings.transfer_from))
        return Unit.of(self.name, task.dataset, task.name, method, depends=depends)

    def _do(self, unit: Unit, task: Task, dataset: Dataset, method: str) -> None:
        began = time.monotonic()
        support, queries, variants = self.features.of(task, dataset)
        embedded = time.monotonic()
        labels = np.concatenate([question.labels for question in task.questions])
        sizes = [len(question.labels) for question in task.questions]
        cases = _baselines(task) if method == "zero_shot" else task.cases
        groups = np.repeat(np.arange(len(sizes)), sizes)
        templates = {"ensemble": len(task.templates[0]), "single": 1}
        masks = np.stack([question.classes for question in task.questions])
        rows: list[dict[str, Any]] = []
        predictions = []
        for variant, texts in variants.items():
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
                    row["settings"] = {"templates": variant, "texts": templates[variant]}
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
        context = self._context() | files | {"dataset_fingerprint": dataset.fingerprint}
        unit.write(self.out, [row | context for row in rows], np.stack(predictions))
        seconds = {"embedding": embedded - began, "fitting and classifying": time.monotonic() - embedded}
        note_cost(
            self.out,
            checkpoint=self.name,
            dataset=task.dataset,
            task=task.name,
            method=method,
            seconds={part: round(value, 3) for part, value in seconds.items()},
            cases=len(cases),
            queries=len(labels),
        )
        self._tell(task, method, rows)

    def _row(self, task: Task, method: str, case: Case) -> dict[str, Any]:
        shots = 0 if method == "zero_shot" else case.shots
        options = Grid(method)
        selection = DEFAULTS if case.shots == 1 else options.selected_by
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

    def _tell(self, task: Task, method: str, rows: Sequence[Mapping[str, Any]]) -> None:
        most = rows[-1]["shots"]
        parts = []
        for question in task.questions:
            values = [row["value"] for row in rows if row["shots"] == most and row["question"] == question.name]
            parts.append(f"{question.name} {np.mean(values):.1%}".strip())
        at = f" at {most} shots" if most else ""
        self.say(f"{self.name}, {task.dataset}, {task.name}: {method} {', '.join(parts)}{at}")

    def _say_once(self, text: str) -> None:
        if text not in self.said:
            self.said.add(text)
            self.say(text)


def _baselines(task: Task) -> tuple[Case, ...]:
    """Returns the cases of zero-shot: one a seed in a pool, where the queries differ by seed, else one."""
    pooled = any(question.pool_rows is not None for question in task.questions)
    first = {case.seed if pooled else 0: case for case in reversed(task.cases)}
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


def checkpoint_names(paths: Sequence[str]) -> dict[str, str]:
    """Returns a short name for each checkpoint: the last part of its path, of an `export` folder that before it.

    Raises `ValueError` where two are called the same; `NAME=PATH` gives one a name.
    """
    named: dict[str, str] = {}
    for path in paths:
        name, equals, rest = path.partition("=")
        if not equals or os.sep in name:
            parts = [part for part in path.rstrip("/").split("/") if part]
            name, rest = (parts[-2] if len(parts) > 1 and parts[-1] == "export" else parts[-1]), path
        if name in named:
            raise ValueError(f"two checkpoints are called {name!r}; write NAME={rest} for one")
        named[name] = rest
    return named
