"""What evaluations found, by checkpoint, dataset, task, method and shots: the numbers that a report is made of."""

from __future__ import annotations

import functools
import json
import logging
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from adapt.evaluation.artifacts import CLASSES
from adapt.evaluation.results import COSTS_FILE, PREDICTIONS, read_lines, read_results
from adapt.evaluation.retrieval import EXAMPLES
from adapt.report.statistics import Difference, Interval, mean_interval, paired_bootstrap

logger = logging.getLogger(__name__)


class Run(NamedTuple):
    """One evaluated checkpoint: result rows, retrieval examples, training metrics, `jobs` (name, seconds), costs of
    its units, and the folder of its predictions."""

    name: str
    results: Sequence[Mapping[str, Any]]
    examples: Mapping[str, Sequence[Mapping[str, Any]]]
    metrics: Sequence[Mapping[str, float]]
    jobs: Sequence[Mapping[str, Any]]
    costs: Sequence[Mapping[str, Any]] = ()
    folder: pathlib.Path | None = None


class Question(NamedTuple):
    """What was asked: a task of a dataset, of those that have several the question."""

    dataset: str
    task: str = "few_shot"
    question: str = ""


def read_runs(workdir: str | os.PathLike, *, name: str | None = None) -> list[Run]:
    """Reads what the jobs left in a workdir, a run for each checkpoint; `name` is for one checkpoint.

    Raises `FileNotFoundError` where nothing was evaluated.
    """
    workdir = pathlib.Path(workdir)
    folder = workdir / "evaluation"
    rows, costs = read_results(folder), read_lines(folder / COSTS_FILE)
    metrics, jobs = read_lines(workdir / "metrics.jsonl"), read_lines(workdir / "jobs.jsonl")
    checkpoints = list(dict.fromkeys(row["checkpoint"] for row in rows))
    runs = []
    for number, checkpoint in enumerate(checkpoints):
        results = [row for row in rows if row["checkpoint"] == checkpoint]
        examples = {}
        for row in results:
            if row["task"] == "retrieval" and row["dataset"] not in examples:
                path = folder / EXAMPLES / f"{row['examples']}.json"
                examples[row["dataset"]] = json.loads(path.read_text(encoding="utf-8"))
        called = name if name is not None and len(checkpoints) == 1 else checkpoint
        own = [cost for cost in costs if cost["checkpoint"] == checkpoint]
        first = number == 0
        runs.append(Run(called, results, examples, metrics if first else [], jobs if first else [], own, folder))
    return runs


def read_all_runs(workdir: str | os.PathLike, *, expected: Sequence[str] = ()) -> list[Run]:
    """Reads the run in a workdir, or else those in its folders, by their names, as a sweep leaves them.

    A run whose evaluation is not there or not finished is logged, as is one of the names that are
    `expected` and have left nothing. Raises `FileNotFoundError` where none was evaluated.
    """
    workdir = pathlib.Path(workdir)
    found = {path.parent.name for path in workdir.glob("*/pretrain.json")}
    found |= {path.parent.name for path in workdir.glob("*/evaluation")}
    if (workdir / "evaluation").exists() or not found:
        return read_runs(workdir)
    runs = []
    for name in sorted({*found, *expected}):
        try:
            runs += read_runs(workdir / name, name=name)
        except FileNotFoundError as error:
            state = "was not evaluated" if name in found else "has left nothing"
            why = f" ({error})" if (workdir / name / "evaluation").exists() else ""
            logger.info(f"note: {name} {state} and is left out{why}")
    if not runs:
        raise FileNotFoundError(f"none of the {len({*found, *expected})} runs in {workdir} was evaluated")
    return runs


class Findings:
    """Rows of runs, indexed."""

    def __init__(self, runs: Sequence[Run]):
        self.runs = runs
        self._rows: dict[tuple, list[Mapping[str, Any]]] = {}
        for run in runs:
            for row in run.results:
                key = (run.name, Question(row["dataset"], row["task"], row.get("question", "")), row["method"])
                self._rows.setdefault((*key, row["shots"]), []).append(row)

    def questions(self, task: str) -> list[Question]:
        """Returns what was asked in a task, in the order of the rows."""
        return list(dict.fromkeys(key[1] for key in self._rows if key[1].task == task))

    def datasets(self, task: str = "few_shot") -> list[str]:
        """Returns the datasets of a task."""
        return list(dict.fromkeys(question.dataset for question in self.questions(task)))

    def methods(self, task: str = "few_shot") -> list[str]:
        """Returns the methods of a task."""
        return list(dict.fromkeys(key[2] for key in self._rows if key[1].task == task))

    def shots(self, question: Question | None = None, task: str = "few_shot") -> list[int]:
        """Returns the numbers of shots of a question, or of all of a task, but for 0."""
        found = {
            key[3]
            for key in self._rows
            if (key[1] == question if question else key[1].task == task) and isinstance(key[3], int) and key[3]
        }
        return sorted(found)

    def rows(self, run: str, question: Question, method: str, shots: int | str) -> list[Mapping[str, Any]]:
        """Returns the rows of all draws; zero-shot is the same at any number of shots."""
        rows = self._rows.get((run, question, method, shots), [])
        return rows or (self._rows.get((run, question, method, 0), []) if method == "zero_shot" else [])

    def interval(self, run: str, question: Question, method: str, shots: int | str) -> Interval | None:
        """Returns the mean over the draws, or None where there are none."""
        values = [row["value"] for row in self.rows(run, question, method, shots)]
        return mean_interval(values) if values else None

    def answers(self, run: str, rows: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray] | None:
        """Returns predictions and labels of rows, `[draws, queries]` and `[queries]`, −1 for what was not asked.

        None where the files are not there.
        """
        folder = next(each.folder for each in self.runs if each.name == run)
        if folder is None or not rows or "predictions" not in rows[0]:
            return None
        start, stop = rows[0]["span"]
        predictions = _open(folder / PREDICTIONS / rows[0]["predictions"])
        labels = _open(folder / PREDICTIONS / rows[0]["labels"])
        if predictions is None or labels is None:
            return None
        return predictions[[row["case"] for row in rows], start:stop], labels[start:stop]

    @functools.cache  # noqa: B019 - findings live as long as a report is written
    def difference(self, first: str, second: str, question: Question, method: str, shots: int) -> Difference | None:
        """Returns how much better the second run is than the first on the same draws and queries.

        None where either lacks the rows, or where they are of other data or draws.
        """
        pair = [self.rows(run, question, method, shots) for run in (first, second)]
        same = [[(row["seed"], row["support"], row["dataset_fingerprint"]) for row in rows] for rows in pair]
        if not pair[0] or same[0] != same[1]:
            return None
        found = [self.answers(run, rows) for run, rows in zip((first, second), pair, strict=True)]
        if found[0] is None or found[1] is None:
            gained = [b["value"] - a["value"] for a, b in zip(*pair, strict=True)]
            mean, half_width = mean_interval(gained)
            return Difference(mean, mean - half_width, mean + half_width)
        labels = found[0][1]
        weights = (found[0][0] >= 0).astype(np.float64)
        if pair[0][0]["metric"] == "mean_per_class_accuracy":
            weights /= np.maximum(np.bincount(labels)[labels], 1)
        return paired_bootstrap(*(predictions == labels for predictions, _ in found), weights=weights)

    def classes(self, run: str, rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Sequence[str | None]] | None:
        """Returns `names` and `pictures` of the classes, or None where they are not there."""
        folder = next(each.folder for each in self.runs if each.name == run)
        if folder is None or not rows or "classes_file" not in rows[0]:
            return None
        path = folder / CLASSES / rows[0]["classes_file"]
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def distances(self, run: str, rows: Sequence[Mapping[str, Any]]) -> np.ndarray | None:
        """Returns 1 − cosine of each query and its nearest example, `[draws, queries]`, at the most shots."""
        folder = next(each.folder for each in self.runs if each.name == run)
        if folder is None or not rows or "distances" not in rows[0]:
            return None
        return _open(folder / PREDICTIONS / rows[0]["distances"])


@functools.lru_cache(maxsize=64)
def _open(path: pathlib.Path) -> np.ndarray | None:
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
