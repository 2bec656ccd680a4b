"""Runs of a sweep, grouped into arms (one setting, several seeds), their scores, and gains of one arm over another."""

from __future__ import annotations

import json
import math
import pathlib
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

import configs
from adapt.report.results_index import ResultsIndex, Run, TaskKey, read_runs
from adapt.report.statistics import Difference, mean_interval
from benchmarks.study.markdown import points
from cluster.job_array import point_names

SEED, CONTEXT = "pretrain.seed", "pretrain.objective.context"
START = "pretrain.initial_checkpoint"
# Settings of the context objective alone: an arm without context has none of them.
CONTEXT_SETTINGS = (
    "alpha",
    "self_mask",
    "stop_gradient",
    "normalized_values",
    "shared_logit_scale",
    "context_temperature",
    "context_temperature_learning_rate",
    "buffer",
    "neighbours",
    "memory",
)
RESAMPLES = 10_000


class Arm(NamedTuple):
    """The runs of one setting, by seed; `point` holds what the sweep sets except the seed."""

    point: dict[str, Any]
    runs: dict[int, Run]

    @property
    def settings(self) -> dict[str, Any]:
        """The `pretrain` settings of one of its runs."""
        folder = next(iter(self.runs.values())).folder
        assert folder is not None
        return json.loads((folder.parent / "pretrain.json").read_text(encoding="utf-8"))

    @property
    def name(self) -> str:
        """The settings in short: "context True, alpha 0.5"."""
        return ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in self.point.items())


def read_arms(sweep: pathlib.Path, folder: pathlib.Path) -> list[Arm]:
    """Return the arms of the sweep in a config file, with their evaluated runs in `folder`.

    Runs that are not evaluated yet are reported and left out. An arm does not include settings that all points share,
    or the seed in the path of an initial checkpoint.
    """
    points, arms = configs.load_sweep(str(sweep)), {}
    names = point_names(points)
    points = [
        {
            key: str(value).replace(f"seed={point.get(SEED)}", "seed") if key == START else value
            for key, value in point.items()
        }
        for point in points
    ]
    shared = {key for key, value in points[0].items() if all(point.get(key) == value for point in points)} - {CONTEXT}
    for point, name in zip(points, names, strict=True):
        settings = {key: value for key, value in point.items() if key not in (SEED, *shared)}
        arm = arms.setdefault(json.dumps(settings, sort_keys=True), Arm(settings, {}))
        try:
            [run] = read_runs(folder / name, name=name)
        except FileNotFoundError:
            print(f"note: {name} is not evaluated yet", file=sys.stderr)
            continue
        arm.runs[point.get(SEED, 0)] = run
    return [arm for arm in arms.values() if arm.runs]


def find_plain(arm: Arm, arms: Sequence[Arm]) -> Arm | None:
    """Return the arm without context that shares all other settings of `arm`; None if there is none."""
    if not arm.point.get(CONTEXT, True):
        return None
    ignored = (*CONTEXT_SETTINGS, "context")
    common = {key: value for key, value in arm.point.items() if key.rpartition(".")[2] not in ignored}
    return next((each for each in arms if each.point == {**common, CONTEXT: False}), None)


class RunScores:
    """The scores of one run: means over draws, by dataset, method and shots."""

    def __init__(self, run: Run):
        self.index = ResultsIndex([run])
        self.name = run.name
        self.retrieval = [row for row in run.results if row["task"] == "retrieval"]

    def few_shot(self, dataset: str, method: str, shots: int) -> float:
        """Return the accuracy, or NaN."""
        rows = self.index.rows(self.name, TaskKey(dataset), method=method, shots=shots)
        return math.fsum(row["value"] for row in rows) / len(rows) if rows else math.nan

    def zero_shot(self, dataset: str) -> float:
        """Return the accuracy by class names alone, or NaN."""
        return self.few_shot(dataset, "zero_shot", 0)

    def recall(self) -> float:
        """Return the text→image recall@10 on the first retrieval set, or NaN."""
        return next((row["value"] for row in self.retrieval if row["metric"] == "text→image recall@10"), math.nan)


class Gain(NamedTuple):
    """A difference of two arms: its mean, the half-width over seeds, and a bootstrap interval over datasets."""

    mean: float
    over_seeds: float
    over_datasets: Difference

    def __str__(self) -> str:
        low, high = 100 * self.over_datasets.low, 100 * self.over_datasets.high
        return f"{points(self.mean, self.over_seeds)} [{low:+.1f}, {high:+.1f}]"


def gain(first: Arm, second: Arm, score: Callable[[RunScores, str], float], datasets: Sequence[str]) -> Gain:
    """Return how much more the second arm scores than the first, paired by seed and dataset."""
    seeds = sorted(first.runs.keys() & second.runs.keys())
    scores = [{seed: RunScores(arm.runs[seed]) for seed in seeds} for arm in (first, second)]
    return gain_of(
        [[score(scores[1][seed], name) - score(scores[0][seed], name) for name in datasets] for seed in seeds]
    )


def gain_of(differences: Sequence[Sequence[float]]) -> Gain:
    """Return the gain of paired differences `[seeds, datasets]`."""
    table = np.array(differences)
    by_seed, by_dataset = table.mean(axis=1), table.mean(axis=0)
    num_datasets = len(by_dataset)
    rng = np.random.default_rng(0)
    means = by_dataset[rng.integers(num_datasets, size=(RESAMPLES, num_datasets))].mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    mean, half_width = mean_interval(by_seed.tolist())
    return Gain(mean, half_width, Difference(mean, float(low), float(high)))


def number_of_classes(arm: Arm, dataset: str) -> int:
    """Return the number of classes of a dataset."""
    run = next(iter(arm.runs.values()))
    return next(row["classes"] for row in run.results if row["dataset"] == dataset and row["task"] == "few_shot")


def average(values: Iterable[float]) -> float:
    """Return the mean; NaN of no values."""
    values = list(values)
    return math.fsum(values) / len(values) if values else math.nan
