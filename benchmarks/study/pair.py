"""Evaluate the pair in `checkpoints/` with every kind of adapter: training-free, local and trained.

    python -m benchmarks.study.pair        # after `python -m benchmarks.study.tables drawings --data=FOLDER`

All eleven datasets are evaluated at 4 and 16 shots, and those whose classes all have enough images at 32. Finished
evaluations are kept. Rows go to docs/study/pair.csv.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
from collections.abc import Sequence

from adapt.report.results_index import ResultsIndex, Run, TaskKey, read_runs
from adapt.report.statistics import mean_interval
from benchmarks.study.arms import CONTEXT, Arm, RunScores, average, gain
from benchmarks.study.files import RESULTS, ROOT, RUNS, record_runs, write_csv
from benchmarks.study.markdown import markdown, percent

METHODS = {
    "training-free": ("zero_shot", "prototypes", "knn", "tip_adapter", "tip_x", "ape", "gda", "proker"),
    "local": ("local", "llu"),
    "trained": (
        "linear_probe",
        "linear_probe_text",
        "lp_plus_plus",
        "clap",
        "tip_adapter_f",
        "clip_adapter",
        "taskres",
    ),
}
WITH_32 = ("flowers5", "pacs", "intel", "trashnet", "signdigits", "brain_tumor", "wbc", "neu_det")
JOBS = {"pair": ((4, 16), ()), "pair_32": ((32,), WITH_32)}  # shots, and datasets unless all
ROWS = RESULTS / "pair.csv"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.study.pair",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args(arguments)
    if not (RUNS / "data" / "targets").is_dir():
        print(
            f"error: {RUNS / 'data'} has no folder targets/. Link the folder with the shards: "
            "python -m benchmarks.study.tables drawings --data=FOLDER",
            file=sys.stderr,
        )
        return 1
    for name, (shots, datasets) in JOBS.items():
        command = [sys.executable, "launch.py", "evaluate", "--config=configs/study/drawings.py"]
        command += ["--checkpoint=plain=checkpoints/drawings_plain,context=checkpoints/drawings"]
        command += [f"--methods={','.join(itertools.chain(*METHODS.values()))}", f"--shots={','.join(map(str, shots))}"]
        if datasets:
            command += [f"--config.evaluate.datasets={datasets}", "--config.evaluate.retrieval=()"]
        code = subprocess.run([*command, f"--workdir=runs/study/{name}"], cwd=ROOT, check=False).returncode
        if code:
            return code
    runs = {name: read_runs(RUNS / name) for name in JOBS}
    print("\n".join(compare(runs)))
    write_rows(runs)
    seconds = sum(cost["seconds"] for pair in runs.values() for run in pair for cost in run.costs)
    record_runs(RESULTS / "runs.csv", "pair", runs=2, seconds=seconds)
    return 0


def compare(runs: dict[str, Sequence[Run]]) -> list[str]:
    """Return a table with one row per method: its accuracy without context, and the gain with it."""
    heads, columns = ["", "method"], []
    for name, (shots, _) in JOBS.items():
        arms = {run.name: Arm({CONTEXT: run.name == "context"}, {0: run}) for run in runs[name]}
        datasets, scores = ResultsIndex(runs[name]).datasets(), RunScores(arms["plain"].runs[0])
        columns += [(arms["plain"], arms["context"], scores, datasets, k) for k in shots]
        for k in shots:
            heads += [f"{k} shots, {len(datasets)} sets", "gain, points"]
    rows = []
    for kind, method in ((kind, method) for kind, methods in METHODS.items() for method in methods):
        cells = [kind, method]
        for plain, context, scores, datasets, k in columns:
            cells.append(percent(average(scores.few_shot(d, method, k) for d in datasets)))
            cells.append(str(gain(plain, context, lambda s, d, m=method, k=k: s.few_shot(d, m, k), datasets)))
        rows.append(cells)
    return markdown(heads, rows)


def write_rows(runs: dict[str, Sequence[Run]]) -> None:
    """Write one row per checkpoint, dataset, method and shots: the mean over draws and its half-width."""
    rows = []
    for run in itertools.chain(*runs.values()):
        index = ResultsIndex([run])
        for dataset, method, k in itertools.product(index.datasets(), index.methods(), index.shots()):
            values = [row["value"] for row in index.rows(run.name, TaskKey(dataset), method=method, shots=k)]
            if values:
                rows.append([run.name, dataset, method, k, *(f"{value:.5f}" for value in mean_interval(values))])
    write_csv(ROWS, ["checkpoint", "dataset", "method", "shots", "mean", "half_width"], rows)


if __name__ == "__main__":
    sys.exit(main())
