"""The tables of docs/STUDY.md: trains what a table needs, exports and evaluates it, and writes what was found.

    python benchmarks/study/tables.py small --data=FOLDER       everything, half an hour on two cores
    python benchmarks/study/tables.py small                     once more; finished runs are kept
    python benchmarks/study/tables.py small --tables-only       only the tables, from the runs that are there

FOLDER has `pretrain/SET/SPLIT-*.tar` and `targets/SET/SPLIT-*.tar`. The sweep of a table is `configs/study_TABLE.py`,
its runs are in `runs/study/TABLE`, its rows in `docs/study/TABLE.csv`, and its summary stands in docs/STUDY.md.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import importlib.metadata
import itertools
import math
import pathlib
import subprocess
import sys
from collections.abc import Sequence

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from adapt.evaluation.results import RESULTS_FILE  # noqa: E402
from adapt.report.results_index import Findings, Question  # noqa: E402
from adapt.report.statistics import shots_needed  # noqa: E402
from adapt.report.tables import Cell, Table  # noqa: E402
from benchmarks.machine import describe_machine  # noqa: E402
from benchmarks.study.arms import Arm, Gain, Scores, average, find_plain, gain, number_of_classes, read_arms  # noqa: E402
from benchmarks.study.figures import draw  # noqa: E402

OF_JOBS = {"drawings": ("--dtype=float16", "--license=cc-by-4.0")}  # as it is published
IN_FULL = 2  # comparisons that are told dataset by dataset; of more, their means
STUDY = ROOT / "runs" / "study"
PAGE = ROOT / "docs" / "STUDY.md"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=sorted(path.stem.removeprefix("study_") for path in find_sweeps()))
    parser.add_argument("--data", type=pathlib.Path, help="folder with the shards, once; it is linked to")
    parser.add_argument("--beside", type=int, default=2, help="runs at a time, each on its share of the cores")
    parser.add_argument("--tables-only", action="store_true", help="run nothing")
    args = parser.parse_args()
    link = STUDY / "data"
    if args.data is not None:
        if not (args.data / "targets").is_dir() or not (args.data / "pretrain").is_dir():
            parser.error(f"--data={args.data} has no folders pretrain/ and targets/")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(args.data.resolve())
    sweep = ROOT / "configs" / f"study_{args.table}.py"
    if not args.tables_only:
        if not link.exists():
            parser.error(f"{link} is not there; name the folder with the shards by --data=FOLDER")
        command = [sys.executable, "launch.py", "submit", "--target=local", f"--config={sweep.relative_to(ROOT)}"]
        command += [
            f"--workdir=runs/study/{args.table}",
            "--jobs=pretrain,export,evaluate",
            f"--config.submit.beside={args.beside}",
            *OF_JOBS.get(args.table, ()),
        ]
        code = subprocess.run(command, cwd=ROOT, check=False).returncode
        if code:
            return code
    arms = read_arms(sweep, STUDY / args.table)
    if not arms:
        parser.error(f"no run of {args.table} is evaluated yet; leave --tables-only out")
    write_rows(arms, ROOT / "docs" / "study" / f"{args.table}.csv")
    figures = "\n".join(draw(arms, args.table, ROOT / "docs" / "study"))
    text = "\n\n".join([summarize(arms, args.table), figures]).rstrip()
    print(text)
    put(text, args.table)
    return 0


def find_sweeps() -> list[pathlib.Path]:
    """Returns the config files of the tables."""
    return sorted((ROOT / "configs").glob("study_*.py"))


def summarize(arms: Sequence[Arm], table: str) -> str:
    """Returns what the page says of a table: every arm with context against its plain one."""
    first = next(iter(arms[0].runs.values()))
    found = Findings([first])
    datasets, methods, shots = found.datasets(), found.methods(), found.shots()
    lines = [f"`python benchmarks/study/tables.py {table}`, {provenance(arms)}", ""]
    lines += overview(arms, datasets, methods, shots)
    pairs = [(plain, arm) for arm in arms if (plain := find_plain(arm, arms)) and plain.runs.keys() & arm.runs.keys()]
    if len(pairs) > IN_FULL:
        return "\n".join([*lines, "", *gains(pairs, datasets, methods, shots)])
    for plain, arm in pairs:
        lines += ["", f"**{arm.name}** against the same without context:", ""]
        lines += compare(plain, arm, datasets, methods, shots)
    return "\n".join(lines)


def gains(
    pairs: Sequence[tuple[Arm, Arm]], datasets: Sequence[str], methods: Sequence[str], shots: Sequence[int]
) -> list[str]:
    """Returns a table with a row for each arm that has a plain one: what it gains over that."""
    most = shots[-1]
    few = [method for method in methods if method != "zero_shot"]
    columns = [("zero_shot", 0), *((method, k) for method in few for k in dict.fromkeys((min(shots, key=near), most)))]
    heads = ["gain, points", *("zero-shot" if k == 0 else f"{method}, {k} shots" for method, k in columns)]
    rows = []
    for plain, arm in pairs:
        found = [gain(plain, arm, lambda s, d, m=m, k=k: s.few_shot(d, m, k), datasets) for m, k in columns]
        rows.append([arm.name, *map(str, found)])
    return markdown(heads, rows)


def near(shots: int) -> int:
    """Returns how far a number of shots is from the four that are told beside the most."""
    return abs(shots - 4)


def overview(arms: Sequence[Arm], datasets: Sequence[str], methods: Sequence[str], shots: Sequence[int]) -> list[str]:
    """Returns a table with a row for each arm: means over datasets and seeds, in percent."""
    most = shots[-1]
    few = [method for method in methods if method != "zero_shot"]
    heads = ["", "seeds", "zero-shot", *(f"{method}, {most} shots" for method in few), "text → image R@10"]
    heads += ["temperature · √d", "attended"]
    rows = []
    for arm in arms:
        scores = [Scores(run) for run in arm.runs.values()]
        cells = [arm.name, str(len(scores)), percent(average(s.zero_shot(d) for s in scores for d in datasets))]
        cells += [percent(average(s.few_shot(d, m, most) for s in scores for d in datasets)) for m in few]
        cells.append(percent(average(s.recall() for s in scores)))
        last = [run.metrics[-1] for run in arm.runs.values() if run.metrics]
        root = math.sqrt(arm.settings["vision"]["width"])
        for name, factor in (("context_temperature", root), ("effective_items", 1.0)):
            values = [factor * line[name] for line in last if name in line]
            cells.append(f"{average(values):.3g}" if values else "")
        rows.append(cells)
    return markdown(heads, rows)


def compare(plain: Arm, arm: Arm, datasets: Sequence[str], methods: Sequence[str], shots: Sequence[int]) -> list[str]:
    """Returns the gain over the plain arm by method and shots, by dataset, and in examples."""
    few = [method for method in methods if method != "zero_shot"]
    told = [count for count in shots if count in (1, 4, 16)] or list(shots)
    zero = gain(plain, arm, Scores.zero_shot, datasets)
    rows = [["zero-shot", str(zero), *[""] * (len(told) - 1)]]
    for method in few:
        cells = [gain(plain, arm, lambda s, d, m=method, k=k: s.few_shot(d, m, k), datasets) for k in told]
        rows.append([method, *map(str, cells)])
    lines = markdown(["mean gain, points", *(f"{count} shots" for count in told)], rows)
    heads, rows = ["dataset", "classes", "zero-shot", *(f"{method}, {shots[-1]} shots" for method in few)], []
    for dataset in sorted(datasets, key=lambda name: number_of_classes(arm, name)):
        cells = [gain(plain, arm, Scores.zero_shot, [dataset])]
        cells += [gain(plain, arm, lambda s, d, m=m: s.few_shot(d, m, shots[-1]), [dataset]) for m in few]
        rows.append([dataset, str(number_of_classes(arm, dataset)), *map(of_seeds, cells)])
    lines += ["", *markdown(heads, rows)]
    lines += ["", *efficiency(plain, arm, datasets, few, shots)]
    return lines


def efficiency(
    plain: Arm, arm: Arm, datasets: Sequence[str], methods: Sequence[str], shots: Sequence[int]
) -> list[str]:
    """Returns a sentence on how many examples the plain arm needs for what the other has at some shots."""
    seeds = sorted(plain.runs.keys() & arm.runs.keys())
    parts = []
    for method in methods:
        curves = []
        for each in (plain, arm):
            scores = [Scores(each.runs[seed]) for seed in seeds]
            curves.append({k: average(s.few_shot(d, method, k) for s in scores for d in datasets) for k in shots})
        ratios = [shots_needed(curves[0], curves[1][k]) / k for k in shots]
        told = ", ".join("–" if math.isnan(ratio) else f"{ratio:.2f}" for ratio in ratios)
        parts.append(f"{method} {told}")
    return [
        f"Examples that plain needs for each of context's at {', '.join(map(str, shots))} shots, on the mean curves "
        f"(– where it has not got there or begins above): {'; '.join(parts)}."
    ]


def provenance(arms: Sequence[Arm]) -> str:
    """Returns the day of the last evaluation, this machine, the versions, and how long the runs took."""
    seconds = [job["seconds"] for arm in arms for run in arm.runs.values() for job in run.jobs]
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("jax", "flax", "optax"))
    runs = sum(len(arm.runs) for arm in arms)
    ended = max((run.folder / RESULTS_FILE).stat().st_mtime for arm in arms for run in arm.runs.values() if run.folder)
    return (
        f"{datetime.date.fromtimestamp(ended).isoformat()}, {describe_machine()}, {versions}; {runs} runs, "
        f"{sum(seconds) / 60:.0f} minutes of jobs in all"
    )


def write_rows(arms: Sequence[Arm], path: pathlib.Path) -> None:
    """Writes a line for each run, dataset, task, method and shots: the mean over its draws and their interval."""
    path.parent.mkdir(parents=True, exist_ok=True)
    keys = list(dict.fromkeys(key for arm in arms for key in arm.point))
    with open(path, "w", encoding="utf-8", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(
            [*(key.rpartition(".")[2] for key in keys), "seed", "dataset", "method", "shots", "mean", "half_width"]
        )
        for arm in arms:
            for seed, run in sorted(arm.runs.items()):
                found = Findings([run])
                given = [*(arm.point.get(key, "") for key in keys), seed]
                for dataset, method in itertools.product(found.datasets(), found.methods()):
                    for shots in [0] if method == "zero_shot" else found.shots():
                        mean, half = found.interval(run.name, Question(dataset), method, shots) or (math.nan, math.nan)
                        out.writerow([*given, dataset, method, shots, f"{mean:.5f}", f"{half:.5f}"])
                for each in Scores(run).retrieval:
                    name = pathlib.Path(each["dataset"]).parent.name or each["dataset"]
                    out.writerow([*given, name, each["metric"], "", f"{each['value']:.5f}", ""])


def put(text: str, table: str) -> None:
    """Puts the summary between its marks in the page."""
    page = PAGE.read_text(encoding="utf-8")
    begin, end = f"<!-- {table} -->\n", f"<!-- end of {table} -->\n"
    if begin not in page or end not in page:
        print(f"note: {PAGE.name} has no place for {table}", file=sys.stderr)
        return
    before, _, rest = page.partition(begin)
    PAGE.write_text(f"{before}{begin}{text}\n{end}{rest.partition(end)[2]}", encoding="utf-8")


def of_seeds(found: Gain) -> str:
    """Returns a gain with its interval over seeds alone."""
    return f"{100 * found.mean:+.1f}" + ("" if math.isnan(found.over_seeds) else f" ± {100 * found.over_seeds:.1f}")


def percent(value: float) -> str:
    """Returns 0.123 as 12.3."""
    return "–" if math.isnan(value) else f"{100 * value:.1f}"


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Returns the lines of a table."""
    return Table("", "", heads, [[Cell(text) for text in row] for row in rows]).to_markdown().splitlines()


if __name__ == "__main__":
    sys.exit(main())
