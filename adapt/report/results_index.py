"""Results of evaluations, indexed by checkpoint, task, method and shots: the numbers behind a report."""

from __future__ import annotations

import functools
import logging
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from adapt.evaluation.artifacts import CLASSES, EXAMPLES, read_classes, read_examples, read_predictions
from adapt.evaluation.baselines.evaluate import TASK as BASELINE
from adapt.evaluation.protocols.support_protocol import STANDARD, protocol_of
from adapt.evaluation.results import COSTS_FILE, PREDICTIONS, read_results
from adapt.evaluation.scoring import query_error
from adapt.report.statistics import (
    MIN_DRAWS,
    AccuracyInterval,
    Difference,
    accuracy_interval,
    mean_interval,
    paired_bootstrap,
)
from foundation.files.json_lines import read_json_lines
from foundation.files.output_folder import RUN_FILES

logger = logging.getLogger(__name__)


class Run(NamedTuple):
    """One evaluated checkpoint.

    `results` are its rows, `examples` its retrieval examples by dataset, `metrics` those of training, `jobs` what ran
    and for how long, `costs` those of its units, and `folder` the one with its predictions.
    """

    name: str
    results: Sequence[Mapping[str, Any]]
    examples: Mapping[str, Sequence[Mapping[str, Any]]]
    metrics: Sequence[Mapping[str, float]]
    jobs: Sequence[Mapping[str, Any]]
    costs: Sequence[Mapping[str, Any]] = ()
    folder: pathlib.Path | None = None


class TaskKey(NamedTuple):
    """A task of a dataset, with the name of the query set if the task has several."""

    dataset: str
    task: str = "few_shot"
    query_set: str = ""


class Predictions(NamedTuple):
    """Predicted classes `[seeds, queries]`, −1 for queries that do not count, and labels `[queries]`."""

    predicted: np.ndarray
    labels: np.ndarray


def read_runs(workdir: str | os.PathLike, *, name: str | None = None) -> list[Run]:
    """Read the results in a workdir, one run per checkpoint; `name` renames the run if there is one checkpoint.

    Raises `FileNotFoundError` where nothing was evaluated.
    """
    workdir = pathlib.Path(workdir)
    folder = workdir / "evaluation"
    rows, costs = read_results(folder), read_json_lines(folder / COSTS_FILE)
    metrics, jobs = read_json_lines(workdir / "metrics.jsonl"), read_json_lines(workdir / "jobs.jsonl")
    checkpoints = list(dict.fromkeys(row["checkpoint"] for row in rows))
    runs = []
    for number, checkpoint in enumerate(checkpoints):
        results = [row for row in rows if row["checkpoint"] == checkpoint]
        first = number == 0
        runs.append(
            Run(
                name=name if name is not None and len(checkpoints) == 1 else checkpoint,
                results=results,
                examples=_read_examples(results, folder),
                metrics=metrics if first else [],
                jobs=jobs if first else [],
                costs=[cost for cost in costs if cost["checkpoint"] == checkpoint],
                folder=folder,
            )
        )
    return runs


def read_all_runs(workdir: str | os.PathLike, *, expected: Sequence[str] = ()) -> list[Run]:
    """Read the run in a workdir, or else the runs in its folders, by folder name, as a sweep writes them.

    A note is logged for a run without a finished evaluation, and for an `expected` name without any files. Checkpoints
    that several folders have are renamed to `FOLDER/CHECKPOINT`. Raises `FileNotFoundError` where no run was evaluated.
    """
    workdir = pathlib.Path(workdir)
    found = {path.parent.name for name in RUN_FILES for path in workdir.glob(f"*/{name}")}
    found |= {path.parent.name for path in workdir.glob("*/evaluation")}
    if (workdir / "evaluation").exists() or not found:
        return read_runs(workdir)
    by_folder = {}
    for name in sorted({*found, *expected}):
        try:
            by_folder[name] = read_runs(workdir / name, name=name)
        except FileNotFoundError as error:
            state = "was not evaluated" if name in found else "has no files"
            reason = f": {error}" if (workdir / name / "evaluation").exists() else ""
            logger.info(f"note: run {name} {state} and is left out{reason}")
    if not by_folder:
        raise FileNotFoundError(
            f"none of the {len({*found, *expected})} runs in {workdir} was evaluated. Run `launch.py evaluate` first."
        )
    names = [run.name for runs in by_folder.values() for run in runs]
    return [
        run._replace(name=f"{folder}/{run.name}") if names.count(run.name) > 1 else run
        for folder, runs in by_folder.items()
        for run in runs
    ]


def _read_examples(results: Sequence[Mapping[str, Any]], folder: pathlib.Path) -> dict[str, Any]:
    examples = {}
    for row in results:
        if row["task"] == "retrieval" and row["dataset"] not in examples:
            examples[row["dataset"]] = read_examples(folder / EXAMPLES / f"{row['examples']}.json")
    return {dataset: found for dataset, found in examples.items() if found is not None}


class ResultsIndex:
    """The rows of several runs, looked up by run, task, method and number of shots.

    All support sets have one `protocol`, so that no mean or comparison mixes two. An index has either the methods that
    classify each query on its own or, with `transductive`, those that classify all queries together: the two are never
    compared. The latter are named `METHOD (transductive)`; `suffix` is what follows titles and `file_suffix` what
    follows the names of tables and charts. Baselines are in both.

    Raises `ValueError` for rows of several protocols (`adapt.report.support_protocols` separates them), and for runs of
    the same name.
    """

    def __init__(self, runs: Sequence[Run], *, transductive: bool = False):
        protocols = {protocol for run in runs for row in run.results if (protocol := protocol_of(row)) is not None}
        if len(protocols) > 1:
            raise ValueError(
                f"results with support sets of {len(protocols)} protocols cannot be compared: "
                f"{', '.join(sorted(protocol.title for protocol in protocols))}. Index each of them separately."
            )
        names = [run.name for run in runs]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two runs are called {twice!r}, so their rows would be averaged. Rename one of them.")
        self.protocol = next(iter(protocols), STANDARD)
        self.runs = runs
        self.suffix = " (transductive)" if transductive else ""
        self.file_suffix = "-transductive" if transductive else ""
        self._folders = {run.name: run.folder for run in runs}
        self._rows: dict[tuple[str, TaskKey, str, int | str], list[Mapping[str, Any]]] = {}
        for run in runs:
            for row in run.results:
                if row["task"] == BASELINE or row.get("transductive", False) == transductive:
                    method = row["method"] if row["task"] == BASELINE else row["method"] + self.suffix
                    self._rows.setdefault((run.name, key_of(row), method, row["shots"]), []).append(row)

    def keys(self, task: str) -> list[TaskKey]:
        """Return the datasets and query sets of a task, in the order of the rows."""
        return list(dict.fromkeys(key for _, key, _, _ in self._rows if key.task == task))

    def datasets(self, task: str = "few_shot") -> list[str]:
        """Return the datasets of a task."""
        return list(dict.fromkeys(key.dataset for key in self.keys(task)))

    def methods(self, task: str = "few_shot") -> list[str]:
        """Return the methods of a task."""
        return list(dict.fromkeys(method for _, key, method, _ in self._rows if key.task == task))

    def shots(self, key: TaskKey | None = None, *, task: str = "few_shot") -> list[int]:
        """Return the numbers of shots of a key, or of a whole task, without 0."""
        return sorted(
            {
                shots
                for _, other, _, shots in self._rows
                if (other == key if key else other.task == task) and isinstance(shots, int) and shots
            }
        )

    def rows(self, run: str, key: TaskKey, *, method: str, shots: int | str) -> list[Mapping[str, Any]]:
        """Return the rows of all seeds; those of zero-shot are the same at any number of shots."""
        rows = self._rows.get((run, key, method, shots), [])
        return rows or (self._rows.get((run, key, method, 0), []) if method == "zero_shot" else [])

    def row_of(self, key: TaskKey) -> Mapping[str, Any]:
        """Return the first row of a key, for the fields that all its rows share."""
        return next(rows[0] for (_, other, _, _), rows in self._rows.items() if other == key)

    def interval(self, run: str, key: TaskKey, *, method: str, shots: int | str) -> AccuracyInterval | None:
        """Return the mean over seeds with its interval, or None without rows."""
        rows = self.rows(run, key, method=method, shots=shots)
        return interval_of(rows) if rows else None

    def average(
        self, run: str, keys: Sequence[TaskKey], *, method: str, shots: int | None = None
    ) -> AccuracyInterval | None:
        """Return the mean over datasets, at the most shots of each by default, or None unless all of them have rows."""
        at = [shots or (self.shots(key) or [0])[-1] for key in keys]
        groups = [self.rows(run, key, method=method, shots=k) for key, k in zip(keys, at, strict=True)]
        return average_interval(groups) if groups and all(groups) else None

    @functools.cache  # noqa: B019 - an index lives only while a report is written
    def difference(self, first: str, second: str, *, key: TaskKey, method: str, shots: int) -> Difference | None:
        """Return how much better the second run is than the first on the same support sets and queries.

        None where either run lacks the rows, or where data, support sets or queries differ. From a pool, the queries of
        one support set differ between evaluations with other numbers of shots.
        """
        pair = [self.rows(run, key, method=method, shots=shots) for run in (first, second)]
        fields = ("seed", "support", "queries", "dataset_fingerprint")
        drawn = [[tuple(row[field] for field in fields) for row in rows] for rows in pair]
        if not pair[0] or drawn[0] != drawn[1]:
            return None
        before, after = (self.predictions(run, rows) for run, rows in zip((first, second), pair, strict=True))
        if before is None or after is None:
            gains = [b["value"] - a["value"] for a, b in zip(*pair, strict=True)]
            mean, half_width = mean_interval(gains) if len(gains) >= MIN_DRAWS else (float(np.mean(gains)), math.nan)
            return Difference(mean, mean - half_width, mean + half_width)
        labels = before.labels
        weights = (before.predicted >= 0).astype(np.float64)
        if pair[0][0]["metric"] == "mean_per_class_accuracy":
            counted = np.stack([np.bincount(labels, each)[labels] for each in weights])
            weights /= np.maximum(counted, 1)
        return paired_bootstrap(before.predicted == labels, after.predicted == labels, weights=weights)

    def predictions(self, run: str, rows: Sequence[Mapping[str, Any]]) -> Predictions | None:
        """Return the predictions of rows, a line per row, or None where their files are missing."""
        folder = self._folders[run]
        if folder is None or not rows or "predictions" not in rows[0]:
            return None
        start, stop = rows[0]["span"]
        predicted = read_array(folder / PREDICTIONS / rows[0]["predictions"])
        labels = read_array(folder / PREDICTIONS / rows[0]["labels"])
        if predicted is None or labels is None:
            return None
        return Predictions(predicted[[row["case"] for row in rows], start:stop], labels[start:stop])

    def classes(self, run: str, rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Sequence[str | None]] | None:
        """Return `names` and `pictures` of the classes, or None where their file is missing or damaged."""
        folder = self._folders[run]
        if folder is None or not rows or "classes_file" not in rows[0]:
            return None
        return _read_classes(folder / CLASSES / rows[0]["classes_file"])

    def distances(self, run: str, rows: Sequence[Mapping[str, Any]]) -> np.ndarray | None:
        """Return 1 − cosine of each query and its nearest support image at the most shots, `[seeds, queries]`."""
        folder = self._folders[run]
        if folder is None or not rows or "distances" not in rows[0]:
            return None
        return read_array(folder / PREDICTIONS / rows[0]["distances"])


def interval_of(rows: Sequence[Mapping[str, Any]]) -> AccuracyInterval:
    """Return the mean of the rows of all seeds with its interval."""
    return accuracy_interval(
        [row["value"] for row in rows],
        [_query_error(row) for row in rows],
        queries=rows[0]["queries"],
        drawn=_is_drawn(rows[0]),
    )


def average_interval(groups: Sequence[Sequence[Mapping[str, Any]]]) -> AccuracyInterval:
    """Return the mean over datasets of their rows, with the interval of the mean of these datasets over the seeds.

    The query errors of the datasets are independent: that of their mean is √(Σ e²) / datasets. Datasets with different
    seeds have a mean without an interval.
    """
    by_seed = [{row["seed"]: row for row in rows} for rows in groups]
    if any(each.keys() != by_seed[0].keys() for each in by_seed):
        return AccuracyInterval(float(np.mean([interval_of(rows).mean for rows in groups])))
    drawn = [[each[seed] for each in by_seed] for seed in by_seed[0]]
    return accuracy_interval(
        [float(np.mean([row["value"] for row in rows])) for rows in drawn],
        [math.hypot(*map(_query_error, rows)) / len(rows) for rows in drawn],
        queries=min(rows[0]["queries"] for rows in groups),
        drawn=_is_drawn(groups[0][0]),
    )


def _is_drawn(row: Mapping[str, Any]) -> bool:
    return row["method"] != "zero_shot" and row["shots"] != "all"


def _query_error(row: Mapping[str, Any]) -> float:
    """Return the error of a row, in results of earlier versions that of an accuracy over all queries."""
    if "query_error" in row:
        return row["query_error"]
    queries = np.array([row["queries"]])
    return query_error(right=row["value"] * queries, asked=queries, by_class=False)


def key_of(row: Mapping[str, Any]) -> TaskKey:
    """Return the key of a row."""
    return TaskKey(row["dataset"], row["task"], row.get("question", ""))


@functools.lru_cache(maxsize=64)
def read_array(path: pathlib.Path) -> np.ndarray | None:
    """Return the array of a file, or None where it is missing or damaged; each file is read, and logged, once."""
    return read_predictions(path)


@functools.lru_cache(maxsize=64)
def _read_classes(path: pathlib.Path) -> Mapping[str, Any] | None:
    return read_classes(path)
