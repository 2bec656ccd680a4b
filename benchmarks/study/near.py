"""Evaluate the study's runs close to their training data: emoji of an artist they have not seen, and digits.

    python -m benchmarks.study.near        # all runs in runs/study

These two datasets chose the training settings, without context. Rows go to docs/study/near.csv.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import math
import pathlib
import subprocess
import sys
from collections.abc import Mapping, Sequence

import numpy as np

from adapt.evaluation.results import RESULTS_FILE
from adapt.report.statistics import mean_interval
from benchmarks.study import page
from benchmarks.study.arms import Arm, find_plain, read_arms
from benchmarks.study.files import RESULTS, ROOT, RUNS, SWEEPS, record_runs, write_csv
from benchmarks.study.markdown import markdown, points
from foundation.files.json_lines import read_json_lines

TABLES = ("small", "tiny", "ablations", "post_training", "episodes", "variants", "softmax", "drawings", "untrained")
DATASETS, METHODS, SHOTS = ("emoji", "digits"), ("prototypes", "knn", "tip_adapter"), (4, 16)
CELLS = (("zero_shot", 0), *itertools.product(METHODS, SHOTS))
ROWS = RESULTS / "near.csv"
MeanAccuracies = Mapping[tuple[str, str, str, int], float]  # by checkpoint, dataset, method and shots


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.study.near",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args(arguments)
    arms = {table: read_arms(SWEEPS / f"{table}.py", RUNS / table) for table in TABLES}
    checkpoints = [
        f"{name_of(table, number, seed)}={(run.folder.parent / 'export').relative_to(ROOT)}"
        for table, found in arms.items()
        for number, arm in enumerate(found)
        for seed, run in arm.runs.items()
        if run.folder
    ]
    if not checkpoints:
        print("error: runs/study has no evaluated run; `python -m benchmarks.study.tables` makes them", file=sys.stderr)
        return 1
    command = [sys.executable, "launch.py", "evaluate", "--config=configs/study/settings.py"]
    command += ["--workdir=runs/study/near", f"--checkpoint={','.join(checkpoints)}"]
    command += [f"--methods=zero_shot,{','.join(METHODS)}", f"--shots={','.join(map(str, SHOTS))}"]
    code = subprocess.run([*command, "--config.evaluate.retrieval=()"], cwd=ROOT, check=False).returncode
    if code:
        return code
    accuracies = read_accuracies(RUNS / "near" / "evaluation" / RESULTS_FILE)
    rows = [row for table, found in arms.items() for row in compare(table, found, accuracies=accuracies)]
    heads = ["set", "table", "arm", "seeds", *(f"{m}, {k} shots" if k else "zero-shot" for m, k in CELLS)]
    print("\n".join(markdown(heads, sorted(rows, key=lambda row: DATASETS.index(row[0])))))
    write_rows(arms, accuracies)
    record_runs(RESULTS / "runs.csv", "near")
    page.write()
    return 0


def name_of(table: str, number: int, seed: int) -> str:
    """Return the checkpoint name of a run."""
    return f"{table}-{number}-{seed}"


def read_accuracies(path: pathlib.Path) -> MeanAccuracies:
    """Return the accuracies in a results file, as means over draws."""
    found = collections.defaultdict(list)
    for row in read_json_lines(path):
        if row["task"] == "few_shot":
            found[row["checkpoint"], row["dataset"], row["method"], row["shots"]].append(row["value"])
    return {key: float(np.mean(values)) for key, values in found.items()}


def compare(table: str, arms: list[Arm], *, accuracies: MeanAccuracies) -> list[list[str]]:
    """Return one row per dataset and arm: its accuracy or, with context, its gain over the arm without."""
    rows = []
    for dataset, (number, arm) in itertools.product(DATASETS, enumerate(arms)):
        plain = find_plain(arm, arms)
        first = None if plain is None else arms.index(plain)
        seeds = sorted(arm.runs) if plain is None else sorted(arm.runs.keys() & plain.runs.keys())
        cells = []
        for method, shots in CELLS:
            values = [accuracies[name_of(table, number, seed), dataset, method, shots] for seed in seeds]
            if first is None:
                cells.append(f"{100 * math.fsum(values) / len(values):.1f}")
                continue
            before = [accuracies[name_of(table, first, seed), dataset, method, shots] for seed in seeds]
            cells.append(points(*mean_interval([value - other for value, other in zip(values, before, strict=True)])))
        rows.append([dataset, table, arm.name or table, str(len(seeds)), *cells])
    return rows


def write_rows(arms: Mapping[str, list[Arm]], accuracies: MeanAccuracies) -> None:
    """Write one row per run, dataset, method and shots."""
    rows = []
    for table, found in arms.items():
        for (number, arm), (key, value) in itertools.product(enumerate(found), accuracies.items()):
            for seed in arm.runs:
                if key[0] == name_of(table, number, seed):
                    rows.append([table, arm.name, seed, *key[1:], f"{value:.5f}"])
    write_csv(ROWS, ["table", "arm", "seed", "dataset", "method", "shots", "accuracy"], rows)


if __name__ == "__main__":
    sys.exit(main())
