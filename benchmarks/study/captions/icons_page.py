"""Tables and figure of docs/study/icons.csv, for docs/results/study.md and the README.

python -m benchmarks.study.captions.icons_page
"""

from __future__ import annotations

import collections
import sys
from collections.abc import Mapping

from adapt.report.charts import Line, line_chart
from adapt.report.statistics import mean_interval
from benchmarks.study.captions.icons import ARMS
from benchmarks.study.figures import framed
from benchmarks.study.files import RESULTS, read_csv
from benchmarks.study.markdown import markdown, percent, points
from benchmarks.study.page import put
from foundation.files.atomic import write_text

CELLS = {  # (method, shots) and its name
    ("zero_shot", ""): "zero-shot",
    ("prototypes", "1"): "prototypes, 1 shot",
    ("prototypes", "4"): "prototypes, 4",
    ("knn", "4"): "knn, 4",
    ("tip_adapter", "4"): "Tip-Adapter, 4",
}
MORE_CELLS = CELLS | {  # of the table by share of wrong captions
    ("gda", "4"): "GDA, 4",
    ("image_recall", ""): "image→image recall@1",
    ("mended", ""): "captions mended",
}
COLUMNS = ("wrong captions", "run", "epochs", "seeds", *MORE_CELLS.values())
MISSING = float("nan")
CHART_SHOTS = (1, 4)
UNTRAINED = {"encoder": "the encoder alone", "raw_pixels": "raw pixels"}

VARIANTS_AT = ("0.5", "20.0")  # share of wrong captions and epochs of the table of variants

Cell = tuple[str, str]
Runs = Mapping[tuple[str, str], Mapping[str, Mapping[Cell, float]]]  # (share, arm) → seed → cell → accuracy


def read_runs() -> tuple[Runs, dict[tuple[str, str], str]]:
    """Return the accuracies on the test task by share, arm and seed, and the epochs by share and arm."""
    runs: dict = collections.defaultdict(lambda: collections.defaultdict(dict))
    epochs = {}
    for row in read_csv(RESULTS / "icons.csv"):
        if row["task"] == "test":
            key = row["wrong_texts"], row["arm"]
            runs[key][row["seed"]][row["method"], row["shots"]] = float(row["accuracy"])
            epochs[key] = row["epochs"]
    return runs, epochs


def read_variants() -> dict[str, dict[Cell, float]]:
    """Return the accuracies on held-out training concepts of every arm, at one share and length."""
    found: dict = collections.defaultdict(dict)
    for row in read_csv(RESULTS / "icons.csv"):
        if row["task"] == "validation" and (row["wrong_texts"], row["epochs"]) == VARIANTS_AT:
            found[row["arm"]][row["method"], row["shots"]] = float(row["accuracy"])
    return found


def variants_table(variants: Mapping[str, Mapping[Cell, float]]) -> list[str]:
    """Return the lines of the table of arms, in the order of `ARMS`."""
    rows = [[arm, *(percent(variants[arm][cell]) for cell in CELLS)] for arm in ARMS if arm in variants]
    return markdown(["run", *CELLS.values()], rows)


def gains(runs: Runs, share: str) -> dict[Cell, list[float]]:
    """Return what context gains over plain at a share of wrong captions, by cell, for each seed of both."""
    plain, context = runs[share, "plain"], runs[share, "context"]
    seeds = sorted(plain.keys() & context.keys())
    cells = [cell for cell in MORE_CELLS if all(cell in each for each in context.values())]
    return {cell: [context[seed][cell] - plain[seed][cell] for seed in seeds] for cell in cells}


def shares_of(runs: Runs) -> list[str]:
    """Return the shares of wrong captions that both runs were trained with, in order."""
    return sorted({share for share, arm in runs if arm == "context"}, key=float)


def table(runs: Runs, epochs: Mapping[tuple[str, str], str]) -> list[str]:
    """Return the lines of the table: both runs and the gain by share, then what needs no training."""
    rows = []
    for share in shares_of(runs):
        wrong = f"{float(share):.0%}"
        for arm in ("plain", "context"):
            scores = list(runs[share, arm].values())
            means = [percent(sum(each.get(cell, MISSING) for each in scores) / len(scores)) for cell in MORE_CELLS]
            rows.append([wrong, arm, f"{float(epochs[share, arm]):g}", str(len(scores)), *means])
        found = gains(runs, share)
        shown = [points(*mean_interval(found[cell])) if cell in found else percent(MISSING) for cell in MORE_CELLS]
        rows.append([wrong, "gain", "", "", *shown])
    for arm, name in UNTRAINED.items():
        for scores in runs[("0.0", arm)].values():
            rows.append(["", name, "", "", *(percent(scores.get(cell, MISSING)) for cell in MORE_CELLS)])
    return markdown(COLUMNS, rows)


def figure(runs: Runs, share: str = "0.5") -> str:
    """Return the chart of class means by shots: both runs with bands over seeds, and what needs no training in grey."""
    lines = []
    for color, (arm, name) in enumerate({"context": "with context", "plain": "plain"}.items()):
        intervals = [
            mean_interval([each["prototypes", str(k)] for each in runs[share, arm].values()]) for k in CHART_SHOTS
        ]
        band = [(mean - half, mean + half) for mean, half in intervals]
        lines.append(Line(name, CHART_SHOTS, [mean for mean, _ in intervals], band=band, color=color))
    for grey, (arm, name) in enumerate(UNTRAINED.items()):
        [scores] = runs["0.0", arm].values()
        lines.append(Line(name, CHART_SHOTS, [scores["prototypes", str(k)] for k in CHART_SHOTS], grey=grey))
    return line_chart(lines, x_label="shots", y_label="accuracy of class means", x_ticks=CHART_SHOTS, percent=True)


def main() -> None:
    """Write the tables into docs/results/study.md, and the figure next to the CSV file."""
    runs, epochs = read_runs()
    put("\n".join(table(runs, epochs)), "icons")
    put("\n".join(variants_table(read_variants())), "icon variants")
    write_text(RESULTS / "icons.svg", framed(figure(runs)))


if __name__ == "__main__":
    sys.exit(main())
