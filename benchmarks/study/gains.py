"""Gains of the context objective, computed from the CSV files of docs/study: docs/study/gains.csv.

    python -m benchmarks.study.gains

One row per table, arm with context, method and number of shots: the gain over the arm without context, paired by seed
and dataset, its half-width over seeds (Student, 95 %), its bootstrap interval over datasets, and `examples_ratio`, how
many times the examples the arm without context needs for the same accuracy (NaN if it never reaches it or starts above
it). All values are fractions; `over_seeds` is NaN for one seed.
"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from adapt.report.statistics import shots_needed
from benchmarks.study.arms import CONTEXT_SETTINGS, Gain, average, gain_of
from benchmarks.study.files import RESULTS, items_of, read_csv, write_csv

TABLES = ("ablations", "drawings", "episodes", "neighbours", "post_training", "small", "softmax", "tiny", "variants")
COLUMNS = ("table", "arm", "seeds", "method", "shots", "gain", "over_seeds", "low", "high", "examples_ratio")


class ArmAccuracies(NamedTuple):
    """Mean accuracies of an arm by (seed, dataset, method, shots)."""

    name: str
    accuracies: Mapping[tuple[str, str, str, int], float]

    @property
    def seeds(self) -> set[str]:
        """The seeds of its runs."""
        return {seed for seed, *_ in self.accuracies}


def read_accuracies(path: pathlib.Path) -> list[ArmAccuracies]:
    """Return the arms in the CSV file of a table, without the rows of retrieval."""
    arms: dict[str, dict[tuple[str, str, str, int], float]] = {}
    for row in read_csv(path):
        keys = list(row)
        settings = {key: row[key] for key in keys[: keys.index("seed")] if row[key]}
        name = ", ".join(f"{key} {value}" for key, value in settings.items())
        if row["shots"]:
            cell = row["seed"], row["dataset"], row["method"], int(row["shots"])
            arms.setdefault(name, {})[cell] = float(row["mean"])
    return [ArmAccuracies(name, accuracies) for name, accuracies in arms.items()]


def plain_name(name: str) -> frozenset[str]:
    """Return the settings of the arm without context that an arm is compared with."""
    kept = {item for item in items_of(name) if item.partition(" ")[0] not in (*CONTEXT_SETTINGS, "context")}
    return frozenset(kept | {"context False"})


def gains_of(plain: ArmAccuracies, arm: ArmAccuracies) -> Iterator[tuple[str, int, Gain, float]]:
    """Yield method, shots, gain and ratio of examples for everything that both arms have."""
    seeds = sorted(plain.seeds & arm.seeds)
    datasets = list(dict.fromkeys(dataset for _, dataset, _, _ in arm.accuracies))
    cells = list(dict.fromkeys((method, shots) for _, _, method, shots in arm.accuracies))
    curves = [
        {cell: average(each.accuracies[seed, name, *cell] for seed in seeds for name in datasets) for cell in cells}
        for each in (plain, arm)
    ]
    for method, shots in cells:
        cell = method, shots
        gain = gain_of(
            [[arm.accuracies[s, name, *cell] - plain.accuracies[s, name, *cell] for name in datasets] for s in seeds]
        )
        curve = {k: value for (name, k), value in curves[0].items() if name == method}
        ratio = shots_needed(curve, curves[1][cell]) / shots if shots else float("nan")
        yield method, shots, gain, ratio


def compute(folder: pathlib.Path = RESULTS) -> list[list[Any]]:
    """Return the rows of gains.csv for the tables in a folder."""
    rows = []
    for table in TABLES:
        if not (folder / f"{table}.csv").exists():
            continue
        arms = read_accuracies(folder / f"{table}.csv")
        for arm in arms:
            plain = find_plain_accuracies(arm, arms)
            if plain is None:
                continue
            for method, shots, gain, ratio in gains_of(plain, arm):
                numbers = (gain.mean, gain.over_seeds, gain.over_datasets.low, gain.over_datasets.high)
                seeds = len(plain.seeds & arm.seeds)
                rows.append(
                    [table, arm.name, seeds, method, shots, *(f"{value:.5f}" for value in numbers), f"{ratio:.3f}"]
                )
    return rows


def find_plain_accuracies(arm: ArmAccuracies, arms: Sequence[ArmAccuracies]) -> ArmAccuracies | None:
    """Return the arm without context that `arm` is compared with; None if there is none."""
    if "context True" not in items_of(arm.name):
        return None
    wanted = plain_name(arm.name)
    return next((each for each in arms if items_of(each.name) == wanted and each.seeds & arm.seeds), None)


def main() -> int:
    write_csv(RESULTS / "gains.csv", COLUMNS, compute())
    return 0


if __name__ == "__main__":
    sys.exit(main())
