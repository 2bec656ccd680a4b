"""Run a sweep of the study and write what it found: train, export and evaluate every run, then compare the arms.

    python -m benchmarks.study.tables small --data=FOLDER    # the whole table; half an hour on two cores
    python -m benchmarks.study.tables small                  # again: finished runs are kept
    python -m benchmarks.study.tables small --tables-only    # from the runs in runs/study/small

FOLDER holds `pretrain/SET/SPLIT-*.tar` and `targets/SET/SPLIT-*.tar`. The sweep of TABLE is configs/study/TABLE.py, and
its runs are in runs/study/TABLE. The command prints a summary, writes its figures to runs/study/TABLE/figures and its
rows to docs/study/TABLE.csv, and updates docs/results/study.md.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Sequence

import configs
from adapt.report.results_index import ResultsIndex, TaskKey
from adapt.report.statistics import mean_interval, shots_needed
from benchmarks.machine import describe_machine
from benchmarks.study import page
from benchmarks.study.arms import Arm, RunScores, average, find_plain, gain, number_of_classes, read_arms
from benchmarks.study.figures import draw
from benchmarks.study.files import RESULTS, ROOT, RUNS, SWEEPS, record_runs, replace_rows, write_csv
from benchmarks.study.markdown import markdown, percent, points
from cluster.job_array import plan_tasks

JOBS = ("pretrain", "export", "evaluate")
JOB_ARGUMENTS = {"drawings": ("--dtype=float16", "--license=cc-by-4.0")}  # as the pair is published
VARIANTS = "variants"  # the table whose runs have settings of benchmarks/study/variant_objective.py
PUBLISHED = ("small-shots.svg", "tiny-temperature.svg")  # the figures that docs/results/study.md shows
IN_FULL = 2  # the most comparisons that are shown by dataset; more are shown by their means


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.study.tables",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("table", choices=[path.stem for path in find_sweeps()], help="name of the sweep")
    parser.add_argument("--data", type=pathlib.Path, help="folder with the shards, needed once: it is linked")
    parser.add_argument(
        "--max-parallel", "--beside", type=int, default=2, help="runs at a time, which share the cores (default: 2)"
    )
    parser.add_argument("--tables-only", action="store_true", help="compare finished runs without starting any")
    args = parser.parse_args(arguments)
    link = RUNS / "data"
    if args.data is not None:
        if not (args.data / "targets").is_dir() or not (args.data / "pretrain").is_dir():
            parser.error(f"--data={args.data} has no folders pretrain/ and targets/")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(args.data.resolve())
    sweep = SWEEPS / f"{args.table}.py"
    if not args.tables_only:
        if not link.exists():
            parser.error(f"{link} does not exist; name the folder with the shards: --data=FOLDER")
        code = run_variants(sweep) if args.table == VARIANTS else run_sweep(sweep, max_parallel=args.max_parallel)
        if code:
            return code
    arms = read_arms(sweep, RUNS / args.table)
    if not arms:
        parser.error(f"no run of {args.table} is evaluated yet; run the command without --tables-only")
    print(summarize(arms, args.table))
    publish(arms, args.table, RESULTS)
    return 0


def find_sweeps() -> list[pathlib.Path]:
    """Return the config files of the tables: those with a sweep, except the choice of the settings."""
    return [path for path in sorted(SWEEPS.glob("[!_]*.py")) if path.stem not in ("base", "settings")]


def run_sweep(sweep: pathlib.Path, *, max_parallel: int) -> int:
    """Train, export and evaluate all points of a sweep; return the exit code."""
    command = [sys.executable, "launch.py", "submit", "--target=local", f"--config={sweep.relative_to(ROOT)}"]
    command += [f"--workdir=runs/study/{sweep.stem}", f"--jobs={','.join(JOBS)}"]
    command += [f"--config.submit.max_parallel={max_parallel}", *JOB_ARGUMENTS.get(sweep.stem, ())]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


def run_variants(sweep: pathlib.Path) -> int:
    """Do the same, one run after the other, in processes that know the settings of the variants."""
    config, workdir = str(sweep.relative_to(ROOT)), pathlib.Path("runs/study") / sweep.stem
    points = configs.load_sweep(str(sweep))
    for task in plan_tasks(JOBS, config=config, workdir=workdir, points=points):
        for command in task.commands:
            program = [sys.executable, "-m", "benchmarks.study.variant_objective"]
            code = subprocess.run([*program, *command.arguments], cwd=ROOT, check=False).returncode
            if code:
                return code
    return 0


def publish(arms: Sequence[Arm], table: str, folder: pathlib.Path) -> None:
    """Write the table's CSV files, figures and page from its arms."""
    write_rows(arms, folder / f"{table}.csv")
    replace_rows(
        folder / "training.csv", table, ["table", "arm", "seeds", *LOGGED.values()], training_rows(arms, table)
    )
    seconds = math.fsum(job["seconds"] for arm in arms for run in arm.runs.values() for job in run.jobs)
    record_runs(folder / "runs.csv", table, runs=sum(len(arm.runs) for arm in arms), seconds=seconds)
    for path in draw(arms, table, RUNS / table / "figures"):
        if path.name in PUBLISHED:
            shutil.copyfile(path, folder / path.name)
    page.write(folder)


def summarize(arms: Sequence[Arm], table: str) -> str:
    """Return the summary of a table: every arm with context against the arm without."""
    first = next(iter(arms[0].runs.values()))
    index = ResultsIndex([first])
    datasets, methods, shots = index.datasets(), index.methods(), index.shots()
    lines = [f"`python -m benchmarks.study.tables {table}`, {provenance(arms)}", ""]
    lines += overview(arms, datasets, methods=methods, shots=shots)
    pairs = [(plain, arm) for arm in arms if (plain := find_plain(arm, arms)) and plain.runs.keys() & arm.runs.keys()]
    if len(pairs) > IN_FULL:
        return "\n".join([*lines, "", *gains(pairs, datasets, methods=methods, shots=shots)])
    for plain, arm in pairs:
        lines += ["", f"**{arm.name}** against the same without context:", ""]
        lines += compare(plain, arm, datasets=datasets, methods=methods, shots=shots)
    return "\n".join(lines)


def gains(
    pairs: Sequence[tuple[Arm, Arm]], datasets: Sequence[str], *, methods: Sequence[str], shots: Sequence[int]
) -> list[str]:
    """Return a table with one row per pair of arms: the gain with about 4 shots and with the most."""
    shown = dict.fromkeys((min(shots, key=lambda k: abs(k - 4)), shots[-1]))
    few_shot = [method for method in methods if method != "zero_shot"]
    columns = [("zero_shot", 0), *((method, k) for method in few_shot for k in shown)]
    heads = ["gain, points", *("zero-shot" if k == 0 else f"{method}, {k} shots" for method, k in columns)]
    rows = []
    for plain, arm in pairs:
        found = [gain(plain, arm, lambda s, d, m=m, k=k: s.few_shot(d, m, k), datasets) for m, k in columns]
        rows.append([arm.name, *map(str, found)])
    return markdown(heads, rows)


def overview(
    arms: Sequence[Arm], datasets: Sequence[str], *, methods: Sequence[str], shots: Sequence[int]
) -> list[str]:
    """Return a table with one row per arm: means over datasets and seeds, in percent."""
    most = shots[-1]
    few_shot = [method for method in methods if method != "zero_shot"]
    heads = ["", "seeds", "zero-shot", *(f"{method}, {most} shots" for method in few_shot), "text → image R@10"]
    heads += ["temperature · √d", "attended"]
    rows = []
    for arm in arms:
        scores = [RunScores(run) for run in arm.runs.values()]
        cells = [arm.name, str(len(scores)), percent(average(s.zero_shot(d) for s in scores for d in datasets))]
        cells += [percent(average(s.few_shot(d, m, most) for s in scores for d in datasets)) for m in few_shot]
        cells.append(percent(average(s.recall() for s in scores)))
        rows.append([*cells, *logged(arm)])
    return markdown(heads, rows)


LOGGED = {"context_temperature": "temperature", "effective_items": "attended_items"}  # metric → column


def logged(arm: Arm) -> list[str]:
    """Return temperature · √dim and attended items at the last step, means over seeds; empty without context."""
    last = [run.metrics[-1] for run in arm.runs.values() if run.metrics]
    factors = {"context_temperature": math.sqrt(arm.settings["vision"]["width"]), "effective_items": 1.0}
    cells = []
    for name in LOGGED:
        values = [factors[name] * line[name] for line in last if name in line]
        cells.append(f"{average(values):.3g}" if values else "")
    return cells


def training_rows(arms: Sequence[Arm], table: str) -> list[list[str]]:
    """Return the rows of training.csv: what each arm logged last."""
    return [[table, arm.name, str(len(arm.runs)), *logged(arm)] for arm in arms]


def compare(
    plain: Arm, arm: Arm, *, datasets: Sequence[str], methods: Sequence[str], shots: Sequence[int]
) -> list[str]:
    """Return the gain over the arm without context: by method and shots, by dataset, and in examples."""
    few_shot = [method for method in methods if method != "zero_shot"]
    shown = [count for count in shots if count in (1, 4, 16)] or list(shots)
    zero = gain(plain, arm, RunScores.zero_shot, datasets)
    rows = [["zero-shot", str(zero), *[""] * (len(shown) - 1)]]
    for method in few_shot:
        cells = [gain(plain, arm, lambda s, d, m=method, k=k: s.few_shot(d, m, k), datasets) for k in shown]
        rows.append([method, *map(str, cells)])
    lines = markdown(["mean gain, points", *(f"{count} shots" for count in shown)], rows)
    heads, rows = ["dataset", "classes", "zero-shot", *(f"{method}, {shots[-1]} shots" for method in few_shot)], []
    for dataset in sorted(datasets, key=lambda name: number_of_classes(arm, name)):
        cells = [gain(plain, arm, RunScores.zero_shot, [dataset])]
        cells += [gain(plain, arm, lambda s, d, m=m: s.few_shot(d, m, shots[-1]), [dataset]) for m in few_shot]
        rows.append(
            [dataset, str(number_of_classes(arm, dataset)), *(points(each.mean, each.over_seeds) for each in cells)]
        )
    lines += ["", *markdown(heads, rows)]
    return [*lines, "", efficiency(plain, arm, datasets=datasets, methods=few_shot, shots=shots)]


def efficiency(plain: Arm, arm: Arm, *, datasets: Sequence[str], methods: Sequence[str], shots: Sequence[int]) -> str:
    """Return a sentence: how many examples the arm without context needs per example of the arm with it."""
    seeds = sorted(plain.runs.keys() & arm.runs.keys())
    parts = []
    for method in methods:
        curves = []
        for each in (plain, arm):
            scores = [RunScores(each.runs[seed]) for seed in seeds]
            curves.append({k: average(s.few_shot(d, method, k) for s in scores for d in datasets) for k in shots})
        ratios = [shots_needed(curves[0], curves[1][k]) / k for k in shots]
        parts.append(f"{method} " + ", ".join("–" if math.isnan(ratio) else f"{ratio:.2f}" for ratio in ratios))
    return (
        f"Examples needed without context per example with it, at {', '.join(map(str, shots))} shots, on the mean "
        f"curves (– where the curve never reaches that accuracy or starts above it): {'; '.join(parts)}."
    )


def provenance(arms: Sequence[Arm]) -> str:
    """Return the machine, the number of runs, and how long they took."""
    seconds = math.fsum(job["seconds"] for arm in arms for run in arm.runs.values() for job in run.jobs)
    runs = sum(len(arm.runs) for arm in arms)
    return f"{describe_machine()}; {runs} runs, {seconds / 60:.0f} minutes of jobs in all"


def write_rows(arms: Sequence[Arm], path: pathlib.Path) -> None:
    """Write one row per run, dataset, task, method and shots: the mean over draws and its half-width."""
    keys = list(dict.fromkeys(key for arm in arms for key in arm.point))
    columns = [*(key.rpartition(".")[2] for key in keys), "seed", "dataset", "method", "shots", "mean", "half_width"]
    rows = []
    for arm in arms:
        for seed, run in sorted(arm.runs.items()):
            index = ResultsIndex([run])
            given = [*(arm.point.get(key, "") for key in keys), seed]
            for dataset, method in itertools.product(index.datasets(), index.methods()):
                for shots in [0] if method == "zero_shot" else index.shots():
                    drawn = index.rows(run.name, TaskKey(dataset), method=method, shots=shots)
                    values = [row["value"] for row in drawn]
                    mean, half_width = mean_interval(values) if values else (math.nan, math.nan)
                    rows.append([*given, dataset, method, shots, f"{mean:.5f}", f"{half_width:.5f}"])
            for each in RunScores(run).retrieval:
                name = pathlib.Path(each["dataset"]).parent.name or each["dataset"]
                rows.append([*given, name, each["metric"], "", f"{each['value']:.5f}", ""])
    write_csv(path, columns, rows)


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main())
