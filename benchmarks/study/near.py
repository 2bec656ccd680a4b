"""The runs of docs/STUDY.md on sets near to what they learned: emoji of an artist they have not seen, and digits.

    python benchmarks/study/near.py        all runs that are in runs/study

Settings of training were chosen on these two sets, without context. Rows go to docs/study/near.csv, the table into
docs/STUDY.md.
"""

from __future__ import annotations

import collections
import csv
import datetime
import itertools
import json
import math
import pathlib
import subprocess
import sys
from collections.abc import Mapping

import numpy as np

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from adapt.evaluation.results import RESULTS_FILE  # noqa: E402
from adapt.report.statistics import mean_interval  # noqa: E402
from benchmarks.machine import describe_machine  # noqa: E402
from benchmarks.study.arms import Arm, find_plain, read_arms  # noqa: E402
from benchmarks.study.tables import STUDY, markdown, put  # noqa: E402

TABLES = ("small", "tiny", "ablations", "post_training", "episodes", "variants", "softmax", "drawings", "untrained")
DATASETS, METHODS, SHOTS = ("emoji", "digits"), ("prototypes", "knn", "tip_adapter"), (4, 16)
ROWS = ROOT / "docs" / "study" / "near.csv"
Scores = Mapping[tuple[str, str, str, int], float]  # by checkpoint, dataset, method and shots


def main() -> int:
    arms = {table: read_arms(ROOT / "configs" / f"study_{table}.py", STUDY / table) for table in TABLES}
    checkpoints = [
        f"{name_of(table, number, seed)}={(run.folder.parent / 'export').relative_to(ROOT)}"
        for table, found in arms.items()
        for number, arm in enumerate(found)
        for seed, run in arm.runs.items()
        if run.folder
    ]
    command = [
        sys.executable,
        "launch.py",
        "evaluate",
        "--config=configs/study/settings.py",
        "--workdir=runs/study/near",
    ]
    command.append(f"--checkpoint={','.join(checkpoints)}")
    command += [f"--methods=zero_shot,{','.join(METHODS)}", f"--shots={','.join(map(str, SHOTS))}"]
    code = subprocess.run([*command, "--config.evaluate.retrieval=()"], cwd=ROOT, check=False).returncode
    if code:
        return code
    scores = read_scores(STUDY / "near" / "evaluation" / RESULTS_FILE)
    rows = [row for table, found in arms.items() for row in tell(table, found, scores)]
    columns = [("zero_shot", 0), *itertools.product(METHODS, SHOTS)]
    heads = ["set", "table", "arm", "seeds", *(f"{m}, {k} shots" if k else "zero-shot" for m, k in columns)]
    lines = [f"`python benchmarks/study/near.py`, {datetime.date.today().isoformat()}, {describe_machine()}", ""]
    text = "\n".join([*lines, *markdown(heads, sorted(rows, key=lambda row: DATASETS.index(row[0])))])
    print(text)
    put(text, "near")
    write_rows(arms, scores)
    return 0


def name_of(table: str, number: int, seed: int) -> str:
    """Returns the name of a run's export."""
    return f"{table}-{number}-{seed}"


def read_scores(path: pathlib.Path) -> Scores:
    """Returns the means over draws."""
    found = collections.defaultdict(list)
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["task"] == "few_shot":
            found[row["checkpoint"], row["dataset"], row["method"], row["shots"]].append(row["value"])
    return {key: float(np.mean(values)) for key, values in found.items()}


def tell(table: str, arms: list[Arm], scores: Scores) -> list[list[str]]:
    """Returns a row for each set and arm: what it scores, or, with context, what it gains over its plain one."""
    rows = []
    columns = [("zero_shot", 0), *itertools.product(METHODS, SHOTS)]
    for dataset, (number, arm) in itertools.product(DATASETS, enumerate(arms)):
        plain = find_plain(arm, arms)
        first = None if plain is None else arms.index(plain)
        seeds = sorted(arm.runs) if plain is None else sorted(arm.runs.keys() & plain.runs.keys())
        cells = []
        for method, shots in columns:
            values = [scores[name_of(table, number, seed), dataset, method, shots] for seed in seeds]
            if first is not None:
                before = [scores[name_of(table, first, seed), dataset, method, shots] for seed in seeds]
                values = [value - other for value, other in zip(values, before, strict=True)]
            mean, half = mean_interval(values)
            told = f"{100 * mean:+.1f}" if first is not None else f"{100 * mean:.1f}"
            cells.append(told + ("" if first is None or math.isnan(half) else f" ± {100 * half:.1f}"))
        rows.append([dataset, table, arm.name or table, str(len(seeds)), *cells])
    return rows


def write_rows(arms: Mapping[str, list[Arm]], scores: Scores) -> None:
    """Writes a line for each run, set, method and shots."""
    with open(ROWS, "w", encoding="utf-8", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(["table", "arm", "seed", "dataset", "method", "shots", "accuracy"])
        for table, found in arms.items():
            for (number, arm), (key, value) in itertools.product(enumerate(found), scores.items()):
                for seed in arm.runs:
                    if key[0] == name_of(table, number, seed):
                        out.writerow([table, arm.name, seed, *key[1:], f"{value:.5f}"])


if __name__ == "__main__":
    sys.exit(main())
