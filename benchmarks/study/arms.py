"""What docs/STUDY.md compares: the runs of a sweep by setting and seed, their scores, and gains of one over another."""

from __future__ import annotations

import json
import math
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

import configs
from adapt.report.results_index import Findings, Question, Run, read_runs
from adapt.report.statistics import Difference, mean_interval
from cluster.job_array import names_of

SEED, CONTEXT = "pretrain.seed", "pretrain.objective.context"
START = "pretrain.initial_checkpoint"
RESAMPLES = 10_000


class Arm(NamedTuple):
    """The runs of one setting, by seed; `point` is what a sweep sets but for the seed."""

    point: dict[str, Any]
    runs: dict[int, Run]

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of a run, those of `pretrain`."""
        folder = next(iter(self.runs.values())).folder
        assert folder is not None
        return json.loads((folder.parent / "pretrain.json").read_text(encoding="utf-8"))

    @property
    def name(self) -> str:
        """What differs from the config, in short."""
        return ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in self.point.items())


def read_arms(sweep: pathlib.Path, folder: pathlib.Path) -> list[Arm]:
    """Returns the arms of a sweep with the runs that are evaluated; those that are not are told.

    What all points of a sweep set alike is no part of an arm, nor is the seed in the name of a run that is continued.
    """
    points, arms = configs.load_sweep(str(sweep)), {}
    names = names_of(points)
    points = [
        {
            key: str(value).replace(f"seed={point.get(SEED)}", "seed") if key == START else value
            for key, value in point.items()
        }
        for point in points
    ]
    alike = {key for key, value in points[0].items() if all(point.get(key) == value for point in points)} - {CONTEXT}
    for point, name in zip(points, names, strict=True):
        rest = {key: value for key, value in point.items() if key not in (SEED, *alike)}
        arm = arms.setdefault(json.dumps(rest, sort_keys=True), Arm(rest, {}))
        try:
            [run] = read_runs(folder / name, name=name)
        except FileNotFoundError:
            print(f"note: {name} was not evaluated yet", file=sys.stderr)
            continue
        arm.runs[point.get(SEED, 0)] = run
    return [arm for arm in arms.values() if arm.runs]


def find_plain(arm: Arm, arms: Sequence[Arm]) -> Arm | None:
    """Returns the arm without context that has all else in common with this one, so far as plain training has it."""
    if not arm.point.get(CONTEXT, True):
        return None
    of_context = ("alpha", "self_mask", "stop_gradient", "normalized_values", "shared_logit_scale")
    of_context += ("context_temperature", "context_temperature_learning_rate", "buffer", "neighbours", "memory")
    common = {key: value for key, value in arm.point.items() if key.rpartition(".")[2] not in (*of_context, "context")}
    return next((each for each in arms if each.point == {**common, CONTEXT: False}), None)


class Scores:
    """What one run scored: mean over the draws, by dataset, method and shots."""

    def __init__(self, run: Run):
        self.found = Findings([run])
        self.name = run.name
        self.retrieval = [row for row in run.results if row["task"] == "retrieval"]

    def few_shot(self, dataset: str, method: str, shots: int) -> float:
        """Returns the accuracy, or NaN."""
        found = self.found.interval(self.name, Question(dataset), method, shots)
        return math.nan if found is None else found.mean

    def zero_shot(self, dataset: str) -> float:
        """Returns the accuracy of class names alone."""
        return self.few_shot(dataset, "zero_shot", 0)

    def recall(self) -> float:
        """Returns the share of texts whose picture is among the ten nearest, of the first set that was asked."""
        return next((row["value"] for row in self.retrieval if row["metric"] == "text→image recall@10"), math.nan)


class Gain(NamedTuple):
    """A difference of two arms: mean, half-width over seeds, and a bootstrap interval over datasets."""

    mean: float
    over_seeds: float
    over_datasets: Difference

    def __str__(self) -> str:
        seeds = "" if math.isnan(self.over_seeds) else f" ± {100 * self.over_seeds:.1f}"
        return (
            f"{100 * self.mean:+.1f}{seeds} [{100 * self.over_datasets.low:+.1f}, {100 * self.over_datasets.high:+.1f}]"
        )


def gain(first: Arm, second: Arm, score: Callable[[Scores, str], float], datasets: Sequence[str]) -> Gain:
    """Returns how much more the second arm scores than the first, paired by seed and dataset."""
    seeds = sorted(first.runs.keys() & second.runs.keys())
    scores = [{seed: Scores(arm.runs[seed]) for seed in seeds} for arm in (first, second)]
    table = np.array([[score(scores[1][s], d) - score(scores[0][s], d) for d in datasets] for s in seeds])
    by_seed, by_dataset = table.mean(axis=1), table.mean(axis=0)
    rng = np.random.default_rng(0)
    means = by_dataset[rng.integers(len(datasets), size=(RESAMPLES, len(datasets)))].mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    mean, half_width = mean_interval(by_seed.tolist())
    return Gain(mean, half_width, Difference(mean, float(low), float(high)))


def number_of_classes(arm: Arm, dataset: str) -> int:
    """Returns the number of classes of a dataset."""
    run = next(iter(arm.runs.values()))
    return next(row["classes"] for row in run.results if row["dataset"] == dataset and row["task"] == "few_shot")


def average(values: Any) -> float:
    """Returns the mean; NaN of nothing."""
    values = list(values)
    return math.fsum(values) / len(values) if values else math.nan
