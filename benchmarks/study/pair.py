"""The pair of `checkpoints/` with every kind of adapter, for docs/STUDY.md: training-free, local and trained.

    python benchmarks/study/pair.py        with the shards where `study.py --data=FOLDER` has linked to them

It asks all eleven sets at 4 and 16 examples a class, and at 32 those sets whose classes all have as many. Units that
are there are kept. Rows go to docs/study/pair.csv, the table into docs/STUDY.md.
"""

from __future__ import annotations

import csv
import datetime
import itertools
import pathlib
import subprocess
import sys
from collections.abc import Sequence

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from adapt.report.results_index import Findings, Question, Run, read_runs  # noqa: E402
from benchmarks.machine import describe_machine  # noqa: E402
from benchmarks.study.arms import CONTEXT, Arm, Scores, average, gain  # noqa: E402
from benchmarks.study.tables import STUDY, markdown, percent, put  # noqa: E402

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
JOBS = {"pair": ((4, 16), ()), "pair_32": ((32,), WITH_32)}  # shots, and the sets where not all of them
ROWS = ROOT / "docs" / "study" / "pair.csv"


def main() -> int:
    for name, (shots, datasets) in JOBS.items():
        command = [sys.executable, "launch.py", "evaluate", "--config=configs/study/drawings.py"]
        command += ["--checkpoint=plain=checkpoints/drawings_plain,context=checkpoints/drawings"]
        command += [f"--methods={','.join(itertools.chain(*METHODS.values()))}", f"--shots={','.join(map(str, shots))}"]
        if datasets:
            command += [f"--config.evaluate.datasets={datasets}", "--config.evaluate.retrieval=()"]
        code = subprocess.run([*command, f"--workdir=runs/study/{name}"], cwd=ROOT, check=False).returncode
        if code:
            return code
    runs = {name: read_runs(STUDY / name) for name in JOBS}
    minutes = sum(cost["seconds"] for pair in runs.values() for run in pair for cost in run.costs) / 60
    head = f"`python benchmarks/study/pair.py`, {datetime.date.today().isoformat()}, {describe_machine()}"
    lines = [f"{head}; {minutes:.0f} minutes of evaluation in all", "", *tell(runs)]
    text = "\n".join(lines)
    print(text)
    put(text, "pair")
    write_rows(runs)
    return 0


def tell(runs: dict[str, Sequence[Run]]) -> list[str]:
    """Returns a table with a row for each method: what the plain one scores and what context gains over it."""
    heads, columns = ["", "method"], []
    for name, (shots, _) in JOBS.items():
        arms = {run.name: Arm({CONTEXT: run.name == "context"}, {0: run}) for run in runs[name]}
        datasets, scores = Findings(runs[name]).datasets(), Scores(arms["plain"].runs[0])
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
    """Writes a line for each checkpoint, dataset, method and shots: the mean over its draws and their interval."""
    with open(ROWS, "w", encoding="utf-8", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(["checkpoint", "dataset", "method", "shots", "mean", "half_width"])
        for run in itertools.chain(*runs.values()):
            found = Findings([run])
            for dataset, method, k in itertools.product(found.datasets(), found.methods(), found.shots()):
                interval = found.interval(run.name, Question(dataset), method, k)
                if interval is not None:
                    out.writerow([run.name, dataset, method, k, *(f"{value:.5f}" for value in interval)])


if __name__ == "__main__":
    sys.exit(main())
